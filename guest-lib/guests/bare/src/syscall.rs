//! System calls: requests of the program to the kernel, by `int 0x80`.
//!
//! Number in RAX, up to four arguments in RDI, RSI, RDX and R10; result in RAX, other registers
//! kept. What a program with IOPL 3 can do itself (the console, snapshots of counters, ending the
//! VM) has no system call.

use core::arch::asm;

/// Interrupt vector of a system call.
pub const VECTOR: u8 = 0x80;

/// System call: wait for the next interrupt. Result: ticks of the timer since the start.
pub const WAIT: u64 = 0;

/// System call: set the fixup, the RIP and RSP at which the caller goes on after its next
/// exception. A RIP of 0 withdraws it. A fixup serves one exception. After that RDI is its vector,
/// RSI its error code, RDX its RIP, RCX the value of CR2, and the other registers are 0.
pub const SET_FIXUP: u64 = 1;

/// System call: run a function, `fn(u64) -> u64`, of the *kernel's* copy of the image at CPL 0,
/// with an argument. Result: the function's.
pub const PRIVILEGED: u64 = 2;

/// System call: map pages, in place of those that are there: virtual address, physical address,
/// size, and one of the `MAP_` constants. The pages of the kernel appear in both address spaces,
/// those of user mode in the program's alone.
pub const MAP: u64 = 3;

/// System call: change the root of the program's address space to the table at a guest-physical
/// address; 0 is the root that it began with. Result: the guest-physical address of the former
/// root.
pub const SET_ROOT: u64 = 4;

/// Rights for [`MAP`]: the pages are not mapped.
pub const MAP_NOTHING: u64 = 0;
/// Rights for [`MAP`]: the program reads.
pub const MAP_READ: u64 = 1;
/// Rights for [`MAP`]: the program reads and writes.
pub const MAP_WRITE: u64 = 2;
/// Rights for [`MAP`]: the program reads and executes.
pub const MAP_EXECUTE: u64 = 3;
/// Rights for [`MAP`]: the kernel reads and writes.
pub const MAP_KERNEL_WRITE: u64 = 4;
/// Rights for [`MAP`]: the kernel reads and executes.
pub const MAP_KERNEL_EXECUTE: u64 = 5;

/// Makes a system call.
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

/// Makes the call [`WAIT`], which changes no memory of the program's.
pub fn wait() -> u64 {
    call(WAIT, [0; 4])
}

/// Makes the call [`PRIVILEGED`].
///
/// # Safety
///
/// The function is sound at CPL 0, in the kernel's address space, with this argument, and so is
/// what it does to the machine.
pub unsafe fn privileged(work: extern "sysv64" fn(u64) -> u64, argument: u64) -> u64 {
    call(PRIVILEGED, [work as usize as u64, argument, 0, 0])
}

/// Makes the call [`MAP`].
///
/// # Safety
///
/// Nothing refers to what is mapped there now; `rights` is a `MAP_` constant, the rest whole pages.
pub unsafe fn map(address: u64, physical: u64, size: u64, rights: u64) {
    call(MAP, [address, physical, size, rights]);
}

/// Makes the call [`SET_ROOT`].
///
/// # Safety
///
/// All that the program uses is mapped as it was.
pub unsafe fn set_root(physical: u64) -> u64 {
    call(SET_ROOT, [physical, 0, 0, 0])
}
