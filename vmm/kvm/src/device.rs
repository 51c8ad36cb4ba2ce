//! /dev/kvm, as far as views are concerned.
#![deny(unsafe_code)]

use std::fs::{self, File};
use std::io;
use std::path::Path;

use postern_abi::kvm::{CreateEptView, KVM_CAP_EPT_VIEW, KVM_CAP_EPT_VIEW_BELLS};

use crate::ioctl;
use crate::rights::Rights;
use crate::template::Template;

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

    /// The rights that templates can have here: none where KVM is not patched, views are not
    /// allowed, or the CPU cannot have them. For some a process needs `CAP_SYS_RAWIO`, too.
    pub fn rights(&self) -> Rights {
        let answer = ioctl::check_extension(&self.0, KVM_CAP_EPT_VIEW);
        Rights::from_bits(answer.map_or(0, i32::unsigned_abs))
    }

    /// Whether this KVM makes views: [`Device::rights`] are some.
    pub fn has_views(&self) -> bool {
        !self.rights().is_empty()
    }

    /// How many bells a template can have here ([`Template::set_bells`]): 0 where KVM serves no
    /// hypercalls, or knows of no bells.
    pub fn max_bells(&self) -> u32 {
        let answer = ioctl::check_extension(&self.0, KVM_CAP_EPT_VIEW_BELLS);
        answer.map_or(0, i32::unsigned_abs)
    }

    /// Makes an empty template.
    ///
    /// # Errors
    ///
    /// When KVM refuses.
    pub fn create_template(&self) -> io::Result<Template> {
        ioctl::create(&self.0, &CreateEptView::default()).map(Template::from)
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

/// What the KVM of this host, which has views, lacks to serve VMCALLs itself, and what to do about
/// it, for people.
pub fn why_no_hypercall() -> String {
    explain_hypercall(Path::new(PARAMETERS))
}

/// The value of a parameter, if there is one.
fn parameter(parameters: &Path, name: &str) -> Option<bool> {
    let value = fs::read_to_string(parameters.join(name)).ok()?;
    Some(matches!(value.trim(), "Y" | "1"))
}

fn explain_hypercall(parameters: &Path) -> String {
    match parameter(parameters, "ept_views_hypercall") {
        Some(false) => "the loaded KVM does not run services in the host's kernel: to allow it, \
                        load kvm_intel with ept_views=1 ept_views_hypercall=1"
            .to_owned(),
        Some(true) => "the loaded KVM was built without a service of its own: build it with \
                       kernel-patches/build.sh"
            .to_owned(),
        None => "the loaded KVM runs no services in the host's kernel: build and load the patched \
                 one with kernel-patches/build.sh, and ept_views=1 ept_views_hypercall=1"
            .to_owned(),
    }
}

fn explain(parameters: &Path) -> String {
    let parameter = |name: &str| parameter(parameters, name);
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
        set("ept_views_hypercall", "N\n");
        assert!(explain_hypercall(&directory).contains("ept_views=1 ept_views_hypercall=1"));
        set("ept_views_hypercall", "Y\n");
        assert!(!explain_hypercall(&directory).contains('='));
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn views_are_made_where_they_are_offered_and_only_there() {
        match Device::open() {
            Err(error) => println!("SKIP: /dev/kvm cannot be opened: {error}"),
            Ok(device) => {
                assert_eq!(device.has_views(), has_views());
                assert_eq!(device.create_template().is_ok(), has_views());
            }
        }
    }

    #[test]
    fn what_is_no_kvm_has_no_views() {
        let file = File::open("/dev/null").unwrap();
        let device = Device(file);
        assert!(!device.has_views() && device.rights().is_empty());
        assert!(device.create_template().is_err());
    }
}
