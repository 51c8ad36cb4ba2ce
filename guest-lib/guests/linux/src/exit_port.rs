//! The I/O port by which a guest ends its VM with a status.

use std::arch::asm;
use std::io;

use postern_abi::platform::PORT_EXIT;

/// Ends the VM with a status, 0 to 63. Returns if the VMM has no such port, or if this process may
/// not write to it.
pub fn exit(status: u8) -> io::Result<()> {
    // SAFETY: the call touches no memory of the process.
    if unsafe { libc::ioperm(PORT_EXIT.into(), size_of::<u32>() as libc::c_ulong, 1) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the right to the port was given just now; the VMM's device behind it changes no memory.
    unsafe {
        asm!(
            "out dx, eax",
            in("dx") PORT_EXIT,
            in("eax") u32::from(status),
            options(nostack, nomem, preserves_flags),
        );
    }
    Ok(())
}
