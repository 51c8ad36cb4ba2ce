//! System calls: what the program asks of the kernel, by `int 0x80`.
//!
//! Number in RAX, up to four arguments in RDI, RSI, RDX and R10; result in RAX, other registers
//! kept. What a program with IOPL 3 can do itself (the console, marks, ending the VM) has no system
//! call.

use core::arch::asm;

/// Vector of the interrupt.
pub const VECTOR: u8 = 0x80;

/// Waits for the next interrupt. Result: ticks of the timer since the start.
pub const WAIT: u64 = 0;

/// Where the program goes on after its next exception: RIP and RSP; a RIP of 0 withdraws that. It
/// serves one exception. Then RDI is its vector, RSI its error code, RDX its RIP, RCX the value
/// of CR2, and the other registers are 0.
pub const SET_FIXUP: u64 = 1;

/// Runs a function, `fn(u64) -> u64`, of the *kernel's* copy of the image at CPL 0, with an
/// argument. Result: the function's.
pub const PRIVILEGED: u64 = 2;

/// Maps pages, in place of what is there: virtual address, physical address, size, and one of the
/// `MAP_` constants. The pages of the kernel appear in both address spaces, those of user mode in
/// the program's alone.
pub const MAP: u64 = 3;

/// The program's address space has another root from now on, at a physical address; 0 is the one
/// that it began with. Result: the physical address of the one that it had.
pub const SET_ROOT: u64 = 4;

/// [`MAP`]: nothing.
pub const MAP_NOTHING: u64 = 0;
/// [`MAP`]: for reading.
pub const MAP_READ: u64 = 1;
/// [`MAP`]: for reading and writing.
pub const MAP_WRITE: u64 = 2;
/// [`MAP`]: for reading and executing.
pub const MAP_EXECUTE: u64 = 3;
/// [`MAP`]: for the kernel to read and write.
pub const MAP_KERNEL_WRITE: u64 = 4;
/// [`MAP`]: for the kernel to read and execute.
pub const MAP_KERNEL_EXECUTE: u64 = 5;

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

/// [`PRIVILEGED`]
///
/// # Safety
///
/// The function is sound at CPL 0, in the kernel's address space, with this argument, and so is
/// what it does to the machine.
pub unsafe fn privileged(work: extern "sysv64" fn(u64) -> u64, argument: u64) -> u64 {
    call(PRIVILEGED, [work as usize as u64, argument, 0, 0])
}

/// [`MAP`]
///
/// # Safety
///
/// Nothing refers to what is mapped there now; `rights` is a `MAP_` constant, the rest whole pages.
pub unsafe fn map(address: u64, physical: u64, size: u64, rights: u64) {
    call(MAP, [address, physical, size, rights]);
}

/// [`SET_ROOT`]
///
/// # Safety
///
/// All that the program uses is mapped as it was.
pub unsafe fn set_root(physical: u64) -> u64 {
    call(SET_ROOT, [physical, 0, 0, 0])
}
