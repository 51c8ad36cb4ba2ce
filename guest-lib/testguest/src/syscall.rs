//! System calls: what the program asks of the kernel, by `int 0x80`.
//!
//! Number in RAX, up to four arguments in RDI, RSI, RDX and R10; result in RAX, other registers kept. What a
//! program with IOPL 3 can do itself (the console, marks, ending the VM) has no system call.

use core::arch::asm;

/// Vector of the interrupt.
pub const VECTOR: u8 = 0x80;

/// Waits for the next interrupt. Result: ticks of the timer since the start.
pub const WAIT: u64 = 0;

/// Where the program goes on after its next exception: RIP and RSP; a RIP of 0 withdraws that. It
/// serves one exception. Then RDI is its vector, RSI its error code, RDX its RIP, RCX the value
/// of CR2, and the other registers are 0.
pub const CATCH: u64 = 1;

/// Runs a function, `fn(u64) -> u64`, of the *kernel's* copy of the image at CPL 0, with an argument.
/// Result: the function's.
pub const PRIVILEGED: u64 = 2;

/// Maps pages into the program's address space, in place of what is there: virtual address, physical
/// address, size, and one of the `MAP_` constants.
pub const MAP: u64 = 3;

/// [`MAP`]: nothing.
pub const MAP_NOTHING: u64 = 0;
/// [`MAP`]: for reading.
pub const MAP_READ: u64 = 1;
/// [`MAP`]: for reading and writing.
pub const MAP_WRITE: u64 = 2;
/// [`MAP`]: for reading and executing.
pub const MAP_EXECUTE: u64 = 3;

fn call(number: u64, arguments: [u64; 4]) -> u64 {
    let result;
    // SAFETY: the kernel keeps all registers but RAX, and each wrapper below says what its call
    // does to memory.
    unsafe {
        asm!(
            "int {vector}",
            vector = const VECTOR as u32,
            inlateout("rax") number => result,
            in("rdi") arguments[0],
            in("rsi") arguments[1],
            in("rdx") arguments[2],
            in("r10") arguments[3],
        );
    }
    result
}

/// [`WAIT`]: changes no memory of the program's.
pub fn wait() -> u64 {
    call(WAIT, [0; 4])
}
