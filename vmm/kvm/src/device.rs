//! /dev/kvm, as far as views are concerned.
#![deny(unsafe_code)]

use std::fs::File;
use std::io;

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

#[cfg(test)]
mod tests {
    use super::*;

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
