//! System calls that neither Rust's library nor rustix has.

use std::io;

/// Checks that the kernel has seccomp filters that trap.
pub(crate) fn filters_exist() -> io::Result<()> {
    let action: u32 = libc::SECCOMP_RET_TRAP;
    // SAFETY: this operation reads the number behind the pointer.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_GET_ACTION_AVAIL,
            0,
            &raw const action,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Blocks for the calling thread, and for those that it starts, the signals that another thread of
/// the process is to get: all but those that a thread causes by itself (they cannot wait), and the
/// real-time signals, which are sent to one thread.
pub(crate) fn block_signals() -> io::Result<()> {
    const OWN: [libc::c_int; 7] = [
        libc::SIGABRT,
        libc::SIGBUS,
        libc::SIGFPE,
        libc::SIGILL,
        libc::SIGSEGV,
        libc::SIGSYS,
        libc::SIGTRAP,
    ];
    // SAFETY: the set is initialised by sigemptyset before it is used, and the numbers are those of
    // signals; the former mask is not asked for.
    let refused = unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut set);
        for signal in (1..32).filter(|signal| !OWN.contains(signal)) {
            libc::sigaddset(&raw mut set, signal);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut())
    };
    match refused {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Has glibc's allocator make no arenas for threads. It asks a file for the number of processors
/// before it makes the ninth, and another one, for how the system lends memory, before it shrinks
/// any for the first time. Other C libraries have none.
pub(crate) fn limit_arenas() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes integers; no other thread is there yet. It fails for parameters that it does not
    // know.
    let _ = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}
