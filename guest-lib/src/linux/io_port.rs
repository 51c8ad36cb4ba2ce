//! The right of a thread to an I/O port.

use std::io;

use super::error::Error;

/// Gives the calling thread the right to write 32 bits to an I/O port. Threads and processes that it
/// starts from then on inherit the right.
///
/// # Errors
///
/// The kernel's refusal.
pub fn allow(port: u16) -> Result<(), Error> {
    let bytes = size_of::<u32>() as libc::c_ulong;
    // SAFETY: the call touches no memory of the process.
    match unsafe { libc::ioperm(port.into(), bytes, 1) } {
        0 => Ok(()),
        _ => Err(Error::IoPort {
            port,
            error: io::Error::last_os_error(),
        }),
    }
}
