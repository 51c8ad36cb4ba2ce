//! TEST ONLY: a service with two bugs, by which each of its calls is aborted.

use core::arch::asm;

use postern_abi::view::IMAGE_GVA;

/// On the even vCPUs of a tenant a store to the program's own code, on the odd ones an instruction
/// that no processor has.
pub fn by_member(member: u32) {
    if member.is_multiple_of(2) {
        store_to_code();
    } else {
        undefined_instruction();
    }
}

#[inline(never)]
fn store_to_code() {
    // SAFETY: no view lets its code be written, so the store ends the call.
    unsafe {
        asm!("mov byte ptr [{}], 0", in(reg) IMAGE_GVA, options(nostack, preserves_flags));
    }
}

#[inline(never)]
fn undefined_instruction() {
    // SAFETY: the instruction ends the call.
    unsafe {
        asm!("ud2", options(nomem, nostack, preserves_flags));
    }
}
