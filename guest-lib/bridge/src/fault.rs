//! Calls that the host aborts: the process says so and ends, and its interface loses its carrier.

use std::io;
use std::mem;
use std::ptr;

use anyhow::{Context, Result};
use postern_guest::linux::fault::GateFault;

use crate::LOST;

/// Has the faults of the gate end the process with the status [`LOST`]; others go on as they would.
///
/// # Errors
///
/// The kernel's refusal.
pub fn catch() -> Result<()> {
    for signal in [libc::SIGILL, libc::SIGSEGV] {
        // SAFETY: all zeros is a valid value of this plain structure.
        let mut action: libc::sigaction = unsafe { mem::zeroed() };
        let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = on_fault;
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESETHAND;
        // SAFETY: the handler is async-signal-safe.
        if unsafe { libc::sigaction(signal, &action, ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error()).context("catching aborted calls");
        }
    }
    Ok(())
}

/// Ends the process if the fault is one of the gate. Else it returns: the instruction faults again, and
/// with the handler reset it has its usual effect.
extern "C" fn on_fault(signal: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel gives a handler with SA_SIGINFO a valid structure, which for these signals has
    // an address.
    let address = unsafe { (*info).si_addr() }.addr() as u64;
    let Some(fault) = GateFault::of(signal, address) else {
        return;
    };
    for part in ["postern-bridge: ", fault.message(), "; start it again\n"] {
        // SAFETY: the memory is that of the string, and write is async-signal-safe.
        unsafe { libc::write(libc::STDERR_FILENO, part.as_ptr().cast(), part.len()) };
    }
    // SAFETY: _exit is async-signal-safe.
    unsafe { libc::_exit(LOST.into()) };
}
