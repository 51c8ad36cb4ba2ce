//! A macvtap: an interface on top of another one, whose other side is a file as that of a TAP
//! (`tap_ioctl` in drivers/net/tap.c).
#![forbid(unsafe_code)]

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

use crate::error::TapError;
use crate::interface::Interface;
use crate::tap::Tap;

impl Tap {
    /// Opens `queues` queues of the macvtap `name`, which exists and which nobody else has open.
    ///
    /// # Errors
    ///
    /// There is no such interface, it is no macvtap, or the kernel refuses.
    pub fn open_macvtap(name: &str, queues: usize) -> Result<Vec<Tap>, TapError> {
        let index = Interface::new(name)?.index()?;
        let node = format!("/dev/tap{index}");
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let one = || {
            let file = open(&node, flags, Mode::empty()).map_err(|errno| match errno {
                Errno::NOENT | Errno::NODEV | Errno::NXIO => TapError::OtherKind {
                    name: name.into(),
                    source: errno.into(),
                },
                Errno::BUSY => TapError::Busy { name: name.into() },
                _ => TapError::new("open macvtap", name, errno.into()),
            })?;
            Tap::of_macvtap(file, name)
        };
        (0..queues.max(1)).map(|_| one()).collect()
    }
}
