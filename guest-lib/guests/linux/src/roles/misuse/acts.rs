//! The acts: instructions that end this process.

use std::arch::asm;
use std::ffi::c_void;
use std::ptr;

use anyhow::{Context, Result};
use postern_abi::PAGE_SIZE;
use postern_abi::view::{GATE_AREA_GVA, GATE_GVA, gate_index};
use postern_guest::gate::VMFUNC_GVA;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect};

/// Code of VMFUNC.
const VMFUNC: [u8; 3] = [0x0f, 0x01, 0xd4];
/// An offset in page B at which the gate has no code, but HLT.
const BEHIND_THE_GATE: usize = 0x100;

/// VMFUNC with these values in EAX and ECX, wherever the compiler puts it.
pub fn vmfunc(function: u32, index: u32) {
    // SAFETY: if it does not end the process, it changes nothing in the default view.
    unsafe {
        asm!("vmfunc", in("eax") function, in("ecx") index, options(nostack));
    }
}

/// A call of an address.
pub fn call(address: u64) {
    // SAFETY: nothing is mapped executable there, so the call ends the process.
    unsafe {
        asm!("call {}", in(reg) address, clobber_abi("C"));
    }
}

/// Reads a byte at an address.
pub fn read(address: u64) {
    // SAFETY: nothing is mapped there, so the access ends the process; the compiler knows nothing of
    // the address.
    unsafe {
        asm!("mov {value}, byte ptr [{address}]",
            address = in(reg) address, value = out(reg_byte) _, options(nostack, readonly));
    }
}

fn address(gva: u64) -> *mut c_void {
    ptr::without_provenance_mut(gva as usize)
}

/// Replaces one of the gate area's pages by one of INT3 with some code at an offset.
fn replace(gva: u64, code: &[u8], offset: usize) -> Result<()> {
    let size = PAGE_SIZE as usize;
    let mut page = vec![0xcc; size];
    page[offset..offset + code.len()].copy_from_slice(code);
    let (rights, flags) = (
        ProtFlags::READ | ProtFlags::WRITE,
        MapFlags::PRIVATE | MapFlags::FIXED,
    );
    // SAFETY: this process is about to die and calls the gate no more; nothing but the gate area is at
    // these addresses.
    unsafe {
        let mapped = mmap_anonymous(address(gva), size, rights, flags).context("mapping a page")?;
        ptr::copy_nonoverlapping(page.as_ptr(), mapped.cast(), size);
        mprotect(mapped, size, MprotectFlags::READ | MprotectFlags::EXEC)
            .context("making a page executable")?;
    }
    Ok(())
}

/// VMFUNC to the gate's view from a page of this process's own at the gate's address, so that it goes
/// on in the middle of the gate.
pub fn enter_gate_behind_its_code() -> Result<()> {
    let at = BEHIND_THE_GATE - VMFUNC.len();
    replace(GATE_GVA, &VMFUNC, at)?;
    let entry = GATE_GVA + at as u64;
    // SAFETY: the page was made just now. The jump ends the process: by VMFUNC, or by INT3.
    unsafe {
        asm!(
            "jmp {entry}",
            entry = in(reg) entry,
            in("eax") 0,
            in("ecx") gate_index(0),
            options(noreturn),
        );
    }
}

/// A call of the gate, with the trap flag set right before page A's VMFUNC.
pub fn single_step_vmfunc(index: u32) -> Result<()> {
    const POPFQ: u8 = 0x9d;
    let mut code = vec![POPFQ];
    code.extend(VMFUNC);
    let at = (VMFUNC_GVA - GATE_AREA_GVA) as usize - 1;
    replace(GATE_AREA_GVA, &code, at)?;
    let entry = VMFUNC_GVA - 1;
    // SAFETY: the page was made just now. The trap behind VMFUNC ends the process, and so does the
    // refusal of VMFUNC.
    unsafe {
        asm!(
            "pushfq",
            "or qword ptr [rsp], 0x100",
            "jmp {entry}",
            entry = in(reg) entry,
            in("eax") 0,
            in("ecx") index,
            options(noreturn),
        );
    }
}
