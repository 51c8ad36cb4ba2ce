//! The I/O ports by which a guest talks to Postern's VMM.

use std::arch::asm;
use std::io;

use postern_abi::platform::{PORT_EXIT, PORT_SNAPSHOT};

/// The right to use the VMM's ports.
#[derive(Debug)]
pub struct Ports(());

impl Ports {
    /// Asks the kernel for the right to the ports. It does not know whether anything is there.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn open() -> io::Result<Self> {
        let count = PORT_SNAPSHOT + 4 - PORT_EXIT;
        // SAFETY: ioperm touches no memory of this process.
        match unsafe { libc::ioperm(PORT_EXIT.into(), count.into(), 1) } {
            0 => Ok(Self(())),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Ends the VM with this status. Returns where nothing is at the port.
    pub fn exit(&mut self, status: i32) {
        self.write(PORT_EXIT, status.unsigned_abs());
    }

    /// Has the VMM take a snapshot of its counters.
    pub fn snapshot(&mut self, label: u32) {
        self.write(PORT_SNAPSHOT, label);
    }

    fn write(&mut self, port: u16, value: u32) {
        // SAFETY: the kernel gave the right to the port (without it the processor faults), and what
        // the VMM has there changes no memory of this process.
        unsafe {
            asm!(
                "out dx, eax",
                in("dx") port,
                in("eax") value,
                options(nostack, nomem, preserves_flags)
            );
        }
    }
}
