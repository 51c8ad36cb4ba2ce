//! The serial console, and the VM's other devices that are written to and forgotten.
//!
//! Kernel and program use them alike: the program runs with IOPL 3.

use core::fmt::{self, Write};
use core::hint;

use postern_abi::platform::{PORT_EXIT, PORT_OUTBOX, PORT_SERIAL, PORT_SNAPSHOT};
use x86_64::instructions::port::PortWriteOnly;

/// Writes a line to the console.
macro_rules! println {
    ($($argument:tt)*) => {
        $crate::console::print_line(format_args!($($argument)*))
    };
}
pub(crate) use println;

/// The serial console.
struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut data = PortWriteOnly::<u8>::new(PORT_SERIAL);
        for byte in text.bytes() {
            // SAFETY: the port is the VMM's UART, which takes a byte at any time and changes no
            // memory.
            unsafe { data.write(byte) };
        }
        Ok(())
    }
}

/// Writes a line to the console; `println` is a short form of it.
pub fn print_line(line: fmt::Arguments<'_>) {
    // The console never fails.
    let _ = Console.write_fmt(line);
    let _ = Console.write_str("\n");
}

/// Writes to an I/O port of the VMM.
fn write(port: u16, value: u32) {
    // SAFETY: the callers write ports of the VMM that change no memory.
    unsafe { PortWriteOnly::<u32>::new(port).write(value) }
}

/// Ends the VM with a status of [`postern_guest_bare::status`].
pub fn exit(status: u32) -> ! {
    loop {
        write(PORT_EXIT, status);
        hint::spin_loop();
    }
}

/// Takes a snapshot of all counters, in the VMM, under a label of [`postern_abi::platform::label`].
#[inline(always)]
pub fn snapshot_counters(label: u32) {
    write(PORT_SNAPSHOT, label);
}

/// Appends some memory of the guest's to the VMM's output file. `outbox` is the guest-physical
/// address of a [`postern_abi::platform::Outbox`].
pub fn send_outbox(outbox: u32) {
    write(PORT_OUTBOX, outbox);
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    println!("error: {info}");
    exit(postern_guest_bare::status::CRASHED)
}
