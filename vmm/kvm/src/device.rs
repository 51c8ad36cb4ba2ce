//! /dev/kvm, as far as views are concerned.
#![deny(unsafe_code)]

use std::fs::{self, File};
use std::io;
use std::path::Path;

use postern_abi::kvm::{CreateEptView, KVM_CAP_EPT_VIEW};

use crate::ioctl;
use crate::view::View;

/// /dev/kvm, open.
#[derive(Debug)]
pub struct Device(File);

impl Device {
    /// Opens it.
    ///
    /// # Errors
    ///
    /// When it is not there, or not for this user.
    pub fn open() -> io::Result<Device> {
        let file = File::options().read(true).write(true).open("/dev/kvm");
        file.map(Device)
    }

    /// Whether this KVM makes views: it is patched, they are allowed, and the CPU can have them.
    pub fn has_views(&self) -> bool {
        ioctl::check_extension(&self.0, KVM_CAP_EPT_VIEW).is_ok_and(|answer| answer > 0)
    }

    /// Makes an empty view.
    ///
    /// # Errors
    ///
    /// When KVM refuses.
    pub fn create_view(&self) -> io::Result<View> {
        ioctl::create(&self.0, &CreateEptView::default()).map(View::from)
    }
}

/// Whether the KVM of this host makes views for this user.
pub fn has_views() -> bool {
    Device::open().is_ok_and(|device| device.has_views())
}

/// Where the kernel shows the parameters of the loaded kvm_intel.
const PARAMETERS: &str = "/sys/module/kvm_intel/parameters";

/// What the KVM of this host lacks to make views, and what to do about it, for people.
pub fn why_no_views() -> String {
    explain(Path::new(PARAMETERS))
}

fn explain(parameters: &Path) -> String {
    let parameter = |name: &str| {
        let value = fs::read_to_string(parameters.join(name)).ok()?;
        Some(value.trim() == "Y")
    };
    match (parameter("ept_views"), parameter("ept_views_insist")) {
        (Some(false), _) => "the loaded KVM has EPT views, but they are off: load kvm_intel with \
                             ept_views=1; postern check says more"
            .to_owned(),
        (Some(true), Some(false)) => "the loaded KVM has EPT views, but refuses them on this \
                                      processor: if you accept that views leak data to each \
                                      other, load kvm_intel with ept_views=1 ept_views_insist=1; \
                                      postern check says more"
            .to_owned(),
        (Some(true), _) => "the loaded KVM has EPT views, but this processor cannot have them; \
                            postern check says what is missing"
            .to_owned(),
        (None, _) => "the loaded KVM offers no EPT views: build and load the patched one with \
                      kernel-patches/build.sh; if that is done, postern check says what is missing"
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parameter_that_is_missing_is_named() {
        let directory = std::env::temp_dir().join(format!("postern-kvm-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let set = |name: &str, value: &str| fs::write(directory.join(name), value).unwrap();
        assert!(explain(&directory).contains("build.sh"));
        set("ept_views", "N\n");
        set("ept_views_insist", "N\n");
        let off = explain(&directory);
        assert!(off.contains("with ept_views=1;") && !off.contains("build.sh"));
        set("ept_views", "Y\n");
        assert!(explain(&directory).contains("ept_views=1 ept_views_insist=1"));
        set("ept_views_insist", "Y\n");
        let refused = explain(&directory);
        assert!(!refused.contains('=') && refused.contains("postern check"));
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn views_are_made_where_they_are_offered_and_only_there() {
        match Device::open() {
            Err(error) => println!("SKIP: /dev/kvm cannot be opened: {error}"),
            Ok(device) => {
                assert_eq!(device.has_views(), has_views());
                assert_eq!(device.create_view().is_ok(), has_views());
            }
        }
    }

    #[test]
    fn what_is_no_kvm_has_no_views() {
        let file = File::open("/dev/null").unwrap();
        let device = Device(file);
        assert!(!device.has_views());
        assert!(device.create_view().is_err());
    }
}
