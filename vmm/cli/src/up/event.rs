//! The events that `postern up` waits for.
#![deny(unsafe_code)]

use std::io;
use std::process::ExitStatus;

/// What the main thread waits for.
pub enum Event {
    /// A VM's process has ended, and all it printed is printed.
    Ended {
        index: usize,
        status: io::Result<ExitStatus>,
    },
    /// A NIC's process has ended by itself.
    NicLost(String),
    /// A signal to end.
    Signal(i32),
}
