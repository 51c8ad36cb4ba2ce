//! Prefetching: a hint to the processor, which has no other effect than time.

use core::arch::asm;

use postern_abi::window::LINE_SIZE;

/// Has the processor fetch the cache lines of a value that begins with a line and is read soon.
#[inline(always)]
pub fn prefetch<T>(value: &T) {
    let first = (&raw const *value).cast::<u8>();
    let mut offset = 0;
    while offset < size_of::<T>() {
        // SAFETY: the offset lies in the value. The instruction neither faults nor changes anything, and
        // what it reads goes to the cache alone.
        unsafe {
            asm!(
                "prefetcht0 [{line}]",
                line = in(reg) first.add(offset),
                options(nostack, preserves_flags, readonly),
            );
        }
        offset += LINE_SIZE as usize;
    }
}
