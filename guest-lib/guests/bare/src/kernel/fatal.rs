//! The end of a VM that is not what the guest needs.
#![deny(unsafe_code)]

use core::fmt;

use postern_guest_bare::status;

use crate::console::{exit, println};

/// Says on the console what the VM lacks and ends it with [`status::USAGE`].
pub fn fatal(why: impl fmt::Display) -> ! {
    println!("error: {why}");
    exit(status::USAGE)
}
