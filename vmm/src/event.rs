//! Event descriptors that other processes have, too.
//!
//! All who have one share its file's flags, so any of them can make it block. What is here looks
//! first whether a read or a write would wait, and does without it then.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

use postern_nic_client::bells;
use vmm_sys_util::eventfd::EventFd;

/// The event descriptor that is this one.
pub(crate) fn from_fd(owned: OwnedFd) -> EventFd {
    // SAFETY: the descriptor is open, and nobody else's: its owner gave it away.
    unsafe { EventFd::from_raw_fd(owned.into_raw_fd()) }
}

/// An event descriptor that writes to the same object as another.
///
/// # Errors
///
/// The process has no descriptor left.
pub(crate) fn duplicate(event: BorrowedFd<'_>) -> io::Result<EventFd> {
    event.try_clone_to_owned().map(from_fd)
}

/// Its descriptor.
pub(crate) fn fd(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open for as long as `event`, which is borrowed.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}

/// Signals an event; one whose count is full has been signalled.
pub(crate) fn signal(event: &EventFd) {
    bells::ring(fd(event));
}

/// Takes an event's count; 0 if it was not signalled.
pub(crate) fn take(event: &EventFd) -> u64 {
    bells::take(fd(event))
}
