//! The I/O ports of the emulated machine.

use std::arch::asm;
use std::io;

use postern_init::{PORT_FLUSH, PORT_OUTPUT, PORT_SHUTDOWN, SHUTDOWN};

/// The right to use the ports of the emulated machine.
#[derive(Debug)]
pub struct Ports(());

impl Ports {
    /// The ports that the first process needs.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn open() -> io::Result<Self> {
        Self::range(PORT_SHUTDOWN, PORT_FLUSH + 4 - PORT_SHUTDOWN)
    }

    /// Asks the kernel for the right to some ports.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn range(first: u16, count: u16) -> io::Result<Self> {
        // SAFETY: ioperm touches no memory of this process.
        match unsafe { libc::ioperm(first.into(), count.into(), 1) } {
            0 => Ok(Self(())),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Reads 32 bits.
    pub fn read(&mut self, port: u16) -> u32 {
        let value;
        // SAFETY: without the right to the port the processor faults; with it, ports of the
        // emulated machine that are read change no memory.
        unsafe {
            asm!(
                "in eax, dx",
                in("dx") port,
                out("eax") value,
                options(nostack, nomem, preserves_flags)
            );
        }
        value
    }

    /// Writes 32 bits.
    pub fn write(&mut self, port: u16, value: u32) {
        // SAFETY: without the right to the port the processor faults; with it, writing to ports of
        // the emulated machine changes no memory of this process.
        unsafe {
            asm!(
                "out dx, eax",
                in("dx") port,
                in("eax") value,
                options(nostack, nomem, preserves_flags)
            );
        }
    }

    /// Appends bytes to the machine's output file and brings it up to date.
    pub fn output(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.split_at(bytes.len() & !3);
        // SAFETY: reads `words` and nothing else, of which `ecx` counts whole 32-bit units; the
        // kernel gave the right to this port; the direction flag is clear by the ABI.
        unsafe {
            asm!(
                "rep outsd",
                in("dx") PORT_OUTPUT,
                inout("rsi") words.as_ptr() => _,
                inout("rcx") words.len() / 4 => _,
                options(nostack, readonly, preserves_flags),
            );
        }
        for &byte in rest {
            self.out(PORT_OUTPUT, byte);
        }
        self.out(PORT_FLUSH, 0);
    }

    /// Switches the machine off. Returns where there is no such port.
    pub fn shutdown(&mut self) {
        for &byte in SHUTDOWN {
            self.out(PORT_SHUTDOWN, byte);
        }
    }

    fn out(&mut self, port: u16, byte: u8) {
        // SAFETY: the kernel gave the right to the port, and the emulated machine's ports of this
        // range change no memory.
        unsafe {
            asm!(
                "out dx, al",
                in("dx") port,
                in("al") byte,
                options(nostack, nomem, preserves_flags)
            );
        }
    }
}
