//! Calling the gate from CPL 0.

use postern_abi::PAGE_SIZE;
use postern_abi::platform::NIC_SLOT;
use postern_abi::service::OP_NOP;
use postern_abi::view::{GATE_AREA_GVA, LANDING_GVA};
use postern_guest::gate::Gate;
use x86_64::registers::control::{Cr4, Cr4Flags};

use super::attacker::Attacker;
use super::verdict::{Verdict, repelled, succeeded};
use crate::exception::{Exception, catch_exception};
use crate::syscall::{self, MAP_KERNEL_EXECUTE};

/// SMEP and SMAP, which keep the kernel from executing and accessing user pages.
const PROTECTIONS: Cr4Flags = Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION
    .union(Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION);

/// At CPL 0: an empty call.
extern "sysv64" fn call_gate(_: u64) -> u64 {
    // SAFETY: the pages of the gate area are there. That CPL 0 may not use them is what is tested.
    unsafe { Gate::new(NIC_SLOT) }.call(OP_NOP, 0, 0)
}

/// At CPL 0: turns SMEP and SMAP on (1) or off (0).
pub extern "sysv64" fn set_protections(on: u64) -> u64 {
    // SAFETY: the kernel's address space has no user pages.
    unsafe { Cr4::update(|cr4| cr4.set(PROTECTIONS, on != 0)) };
    0
}

/// Runs the attack.
pub fn run(attacker: &mut Attacker) -> Verdict {
    for (page, physical) in [
        (GATE_AREA_GVA, attacker.page_a()),
        (LANDING_GVA, attacker.page_c()),
    ] {
        // SAFETY: no reference leads to the gate area.
        unsafe { syscall::map(page, physical, PAGE_SIZE, MAP_KERNEL_EXECUTE) };
    }
    let protected = call();
    // SAFETY: they are on again before anything relies on them.
    unsafe { syscall::privileged(set_protections, 0) };
    let unprotected = call();
    // SAFETY: SMEP and SMAP are on again, as when the kernel began.
    unsafe { syscall::privileged(set_protections, 1) };
    attacker.map_code();

    for (result, how) in [(protected, "with"), (unprotected, "without")] {
        match result {
            Ok(_) => return succeeded!("the service ran at CPL 0 {how} SMEP and SMAP"),
            Err(exception) if exception.is_abort() => {}
            Err(exception) => return succeeded!("{how} SMEP and SMAP: {exception}"),
        }
    }
    repelled!("with and without SMEP and SMAP: an invalid opcode each")
}

fn call() -> Result<u64, Exception> {
    // SAFETY: an empty call, or an exception.
    catch_exception(|| unsafe { syscall::privileged(call_gate, 0) })
}
