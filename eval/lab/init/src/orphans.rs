//! Processes whose parents have ended: they become children of the first process, which is to take
//! note when they end.

use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd};
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::process::{Pid, WaitOptions, waitpid};

/// Descriptor of the pipe that [`on_child`] writes to.
static WRITER: AtomicI32 = AtomicI32::new(-1);

/// A pipe that can be read when a child of this process has ended.
pub struct Orphans(PipeReader);

impl Orphans {
    /// Has each end of a child noted. Signals are handled, not blocked: what children inherit of
    /// this process stays as it is.
    ///
    /// # Errors
    ///
    /// Those of the system calls.
    pub fn new() -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        rustix::io::ioctl_fionbio(&reader, true)?;
        rustix::io::ioctl_fionbio(&writer, true)?;
        WRITER.store(writer.into_raw_fd(), Ordering::Relaxed);
        // SAFETY: an action may be all zeros; its handler and flags are set below.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_child as *const () as usize;
        action.sa_flags = libc::SA_RESTART | libc::SA_NOCLDSTOP;
        // SAFETY: the handler does only what handlers may do.
        if unsafe { libc::sigaction(libc::SIGCHLD, &action, std::ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(reader))
    }

    /// Buries the children that have ended, until it comes upon `child`, who is somebody else's
    /// business.
    pub fn bury(&mut self, child: Pid) {
        let mut notes = [0; 64];
        while self.0.read(&mut notes).is_ok_and(|length| length > 0) {}
        while let Some(ended) = ended_child()
            && ended != child
        {
            if waitpid(Some(ended), WaitOptions::NOHANG).is_err() {
                return;
            }
        }
    }
}

/// Notes the end of a child.
extern "C" fn on_child(_: libc::c_int) {
    // What was interrupted may be about to look at errno. If the pipe is full, there are notes
    // enough.
    // SAFETY: the call gives the address of this thread's errno.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: the address is valid as long as the thread is.
    let before = unsafe { *errno };
    // SAFETY: the call reads one byte of a constant.
    unsafe { libc::write(WRITER.load(Ordering::Relaxed), b"x".as_ptr().cast(), 1) };
    // SAFETY: as when it was read, which was on the same thread.
    unsafe { *errno = before };
}

/// A child that has ended and is not buried yet, if there is one.
fn ended_child() -> Option<Pid> {
    // SAFETY: it may be all zeros, and stays so if no child has ended.
    let mut found: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let look = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `found` is this function's own.
    if unsafe { libc::waitid(libc::P_ALL, 0, &mut found, look) } != 0 {
        return None;
    }
    // SAFETY: zeros, or what waitid wrote about a child, which has a process id.
    Pid::from_raw(unsafe { found.si_pid() })
}

impl AsFd for Orphans {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
