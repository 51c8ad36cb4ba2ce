//! Signalling eventfds that others have, too, without ever waiting.
//!
//! A write(2) to an eventfd waits while its count is full, unless the file has `O_NONBLOCK`; and whoever
//! has the same file can clear that flag and fill the count at any moment. The kernel's own signals
//! (`eventfd_signal` of fs/eventfd.c) never wait: what is too much is not counted. Programs get one at
//! the completion of an asynchronous request that names the eventfd (io_submit(2), `IOCB_FLAG_RESFD`).
//! The request here is a poll of a descriptor that is always ready, so it is complete at once.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, PollFlags, eventfd};

/// Room for requests whose completion nobody has taken note of.
const ROOM: u32 = 64;
/// `IOCB_CMD_POLL` of linux/aio_abi.h.
const POLL: u16 = 5;
/// `IOCB_FLAG_RESFD`.
const SIGNALS: u32 = 1;

/// `struct iocb`, little endian.
#[repr(C)]
#[derive(Default)]
struct Request {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    priority: i16,
    file: u32,
    /// For a poll the events.
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    signalled: u32,
}

const _: () = assert!(size_of::<Request>() == 64);

/// `struct io_event`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Completion([u64; 4]);

/// Signals eventfds.
#[derive(Debug)]
pub struct Signaller {
    /// An `aio_context_t`.
    context: libc::c_ulong,
    /// Is always readable.
    ready: OwnedFd,
}

impl Signaller {
    /// Makes one.
    ///
    /// # Errors
    ///
    /// The kernel has no asynchronous requests, or too many processes use them (fs.aio-max-nr).
    pub fn new() -> io::Result<Signaller> {
        let ready = eventfd(1, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let mut context: libc::c_ulong = 0;
        // SAFETY: the kernel writes the context to the variable, which is zero, as it must be.
        let made = unsafe { libc::syscall(libc::SYS_io_setup, ROOM, &raw mut context) };
        match made {
            0 => Ok(Signaller { context, ready }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Signals an eventfd; one whose count is full has been signalled.
    ///
    /// # Errors
    ///
    /// The kernel has no memory for the request.
    pub fn signal(&self, event: BorrowedFd<'_>) -> io::Result<()> {
        let mut request = Request {
            opcode: POLL,
            file: self.ready.as_raw_fd() as u32,
            buffer: PollFlags::IN.bits().into(),
            flags: SIGNALS,
            signalled: event.as_raw_fd() as u32,
            ..Request::default()
        };
        let mut list = [&raw mut request];
        // SAFETY: the context is this value's; the list has one request, and both are there throughout.
        // The request has no buffer, and is complete when the call returns, since the descriptor is
        // ready; in any case the kernel has a copy of it.
        let taken =
            unsafe { libc::syscall(libc::SYS_io_submit, self.context, 1, list.as_mut_ptr()) };
        let result = match taken {
            1 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        };
        self.clear();
        result
    }

    /// Makes room for more requests.
    fn clear(&self) {
        let mut completions = [Completion::default(); 8];
        let at_once = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: the context is this value's, there is room for as many completions as the call may
        // write, and the time is there throughout.
        unsafe {
            libc::syscall(
                libc::SYS_io_getevents,
                self.context,
                0,
                completions.len(),
                completions.as_mut_ptr(),
                &raw const at_once,
            )
        };
    }
}

impl Drop for Signaller {
    fn drop(&mut self) {
        // SAFETY: the context is this value's, and nobody uses it any more.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_full_eventfd_that_blocks_is_signalled_without_waiting() {
        let signaller = Signaller::new().unwrap();
        let event = eventfd(0, EventfdFlags::empty()).unwrap();
        let read = || {
            let mut count = [0; 8];
            rustix::io::read(&event, &mut count).unwrap();
            u64::from_ne_bytes(count)
        };
        // More often than there is room for at a time.
        for _ in 0..10 * ROOM {
            signaller.signal(event.as_fd()).unwrap();
        }
        assert_eq!(read(), u64::from(10 * ROOM));
        rustix::io::write(&event, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        signaller.signal(event.as_fd()).unwrap();
        assert!(read() >= u64::MAX - 1);
        signaller.signal(event.as_fd()).unwrap();
        assert_eq!(read(), 1);
    }

    #[test]
    fn what_is_no_eventfd_is_refused() {
        let signaller = Signaller::new().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(signaller.signal(file.as_fd()).is_err());
    }
}
