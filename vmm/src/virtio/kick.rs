//! The event descriptor of a queue, for a thread that serves nothing else.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::OFlags;
use vmm_sys_util::eventfd::EventFd;

/// Notifications of the driver's, which a thread sleeps for in the call that also takes them: one
/// system call for each time that it sleeps.
pub(super) struct Kick(EventFd);

impl Kick {
    /// Makes the descriptor block.
    ///
    /// # Errors
    ///
    /// The system's.
    pub(super) fn new(event: EventFd) -> io::Result<Kick> {
        // SAFETY: `event` owns the descriptor and outlives the borrow.
        let fd = unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) };
        let flags = rustix::fs::fcntl_getfl(fd)?;
        rustix::fs::fcntl_setfl(fd, flags - OFlags::NONBLOCK)?;
        Ok(Kick(event))
    }

    /// Another descriptor of the event, which wakes [`Kick::wait`] when it is written.
    ///
    /// # Errors
    ///
    /// The system's.
    pub(super) fn waker(&self) -> io::Result<EventFd> {
        self.0.try_clone()
    }

    /// Sleeps until there is a notification, and takes it.
    ///
    /// # Errors
    ///
    /// The system's.
    pub(super) fn wait(&self) -> io::Result<()> {
        loop {
            match self.0.read() {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}
