//! The copy in a NIC view with vector registers that the caller has lent the call.
//!
//! The view's code is compiled without vector registers. They are used within the one routine of
//! this module, between its first load and the zeros at its end, and the inspection of the image's
//! machine code (`tests/objects.rs`) holds it to that. A call that is aborted in between leaves what
//! is in them to KVM, which clears them.

use core::arch::asm;

use postern_abi::service::TX_AVX;
use postern_abi::view::{CALL_PAGE_GVA, CallPage};

/// Most bytes that are copied by lent registers. For more a string instruction takes no longer, on
/// processors of both makers since 2013 (Intel, "Optimization Reference Manual", "Enhanced REP MOVSB and
/// STOSB Operation"), and is one instruction for 64 KiB instead of some six thousand.
pub const LONGEST: usize = 9216;

/// Whether the caller of the call has lent it vector registers. The image's entry has noted its flags
/// in the view's call page: so no loop has to keep them in a register.
#[inline(always)]
pub fn are_lent() -> bool {
    let page = CALL_PAGE_GVA as *const CallPage;
    // SAFETY: each view that this is built for has a call page there, which no other call uses.
    let note = unsafe { (&raw const (*page).note).read() };
    note & TX_AVX as u32 != 0
}

/// Copies `size` bytes with the vector registers 0 to 3, and clears them.
///
/// Behind the last store, VZEROUPPER also takes the upper halves of the other registers: while they
/// hold something, each instruction of the guest's that uses lower halves alone (SSE) costs more
/// (Intel, "Optimization Reference Manual", "Mixing AVX Code with SSE Code").
///
/// # Safety
///
/// The contract of `large`. Where AVX is off, the first instruction of it aborts the call.
#[inline(never)]
pub unsafe fn copy_by_lent_registers(from: *const u8, to: *mut u8, size: usize) {
    // SAFETY: the caller vouches for `size` bytes on both sides, 16 or more. The first step takes 16
    // of them where it is made: behind it no store crosses the end of a cache line, as records begin
    // at multiples of 16. The loop takes 128 a round, and the other steps what bits 6, 5 and 4 of
    // what is left say. The compiler's code uses no vector register that could be clobbered.
    unsafe {
        asm!(
            "test {to:l}, 16",
            "jz 2f",
            "vmovups xmm0, [{from}]",
            "vmovups [{to}], xmm0",
            "add {from}, 16",
            "add {to}, 16",
            "sub {left}, 16",
            "2:",
            "sub {left}, 128",
            "jb 4f",
            "3:",
            "vmovups ymm0, [{from}]",
            "vmovups ymm1, [{from} + 32]",
            "vmovups ymm2, [{from} + 64]",
            "vmovups ymm3, [{from} + 96]",
            "vmovups [{to}], ymm0",
            "vmovups [{to} + 32], ymm1",
            "vmovups [{to} + 64], ymm2",
            "vmovups [{to} + 96], ymm3",
            "sub {from}, -128",
            "sub {to}, -128",
            "sub {left}, 128",
            "jae 3b",
            "4:",
            "test {left:l}, 64",
            "jz 5f",
            "vmovups ymm0, [{from}]",
            "vmovups ymm1, [{from} + 32]",
            "vmovups [{to}], ymm0",
            "vmovups [{to} + 32], ymm1",
            "add {from}, 64",
            "add {to}, 64",
            "5:",
            "test {left:l}, 32",
            "jz 6f",
            "vmovups ymm0, [{from}]",
            "vmovups [{to}], ymm0",
            "add {from}, 32",
            "add {to}, 32",
            "6:",
            "test {left:l}, 16",
            "jz 7f",
            "vmovups xmm0, [{from}]",
            "vmovups [{to}], xmm0",
            "7:",
            "vxorps xmm0, xmm0, xmm0",
            "vxorps xmm1, xmm1, xmm1",
            "vxorps xmm2, xmm2, xmm2",
            "vxorps xmm3, xmm3, xmm3",
            "vzeroupper",
            from = inout(reg) from => _,
            to = inout(reg) to => _,
            left = inout(reg) size => _,
            options(nostack),
        );
        // TEST ONLY: what is left where nothing is cleared.
        #[cfg(feature = "attack-caller-state")]
        asm!("vmovups xmm0, [{}]", in(reg) from, options(nostack, preserves_flags));
    }
}
