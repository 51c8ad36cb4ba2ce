//! Stopping a call half-way: an instruction breakpoint at each byte of page B, a watchpoint on the
//! service's entry of the EPTP list, and single steps.

use postern_abi::PAGE_SIZE;
use postern_abi::service::OP_NOP;
use postern_abi::view::{GATE_GVA, LIST_GVA};
use x86_64::registers::debug::{
    BreakpointCondition, BreakpointSize, DebugAddressRegister, DebugAddressRegisterNumber, Dr0,
    Dr6, Dr7, Dr7Flags, Dr7Value,
};

use super::attacker::{Attacker, GATE_INDEX, SERVICE_INDEX};
use super::enter::{Registers, enter};
use super::verdict::{Verdict, repelled, succeeded};
use crate::exception::Exception;
use crate::syscall;

/// Code of `popfq; vmfunc`: the trap flag acts after the VMFUNC.
const POPF_VMFUNC: [u8; 4] = [0x9d, 0x0f, 0x01, 0xd4];

/// RFLAGS with interrupt flag, IOPL 3 and trap flag.
const STEPPING: u64 = 0x3302;

/// At CPL 0: a breakpoint where the argument says; none, if it is 0.
extern "sysv64" fn break_at(address: u64) -> u64 {
    set(
        address,
        BreakpointCondition::InstructionExecution,
        BreakpointSize::Length1B,
    )
}

/// At CPL 0: a watchpoint on eight bytes.
extern "sysv64" fn watch(address: u64) -> u64 {
    set(
        address,
        BreakpointCondition::DataReadsWrites,
        BreakpointSize::Length8B,
    )
}

fn set(address: u64, condition: BreakpointCondition, size: BreakpointSize) -> u64 {
    const NUMBER: DebugAddressRegisterNumber = DebugAddressRegisterNumber::Dr0;
    let mut control = Dr7Value::from(Dr7Flags::LOCAL_EXACT_BREAKPOINT_ENABLE);
    if address != 0 {
        control.insert_flags(Dr7Flags::LOCAL_BREAKPOINT_0_ENABLE);
        control.set_condition(NUMBER, condition);
        control.set_size(NUMBER, size);
    }
    Dr7::write(Dr7Value::from(Dr7Flags::empty()));
    Dr0::write(address);
    Dr7::write(control);
    Dr6::read().bits()
}

/// Runs the attack.
pub fn run(attacker: &mut Attacker) -> Verdict {
    let (mut aborted, mut undisturbed) = (0, 0);
    for offset in 0..PAGE_SIZE {
        match stopped_call(attacker, break_at, GATE_GVA + offset) {
            Ok(_) => undisturbed += 1,
            Err(exception) if exception.is_abort() => aborted += 1,
            Err(exception) => return succeeded!("breakpoint at {offset:#x}: {exception}"),
        }
        if attacker.entry_is_armed() {
            return succeeded!("breakpoint at {offset:#x}: the service's entry is left armed");
        }
    }
    if aborted == 0 {
        return succeeded!("no breakpoint in page B ended a call: the attack did not take place");
    }
    match stopped_call(attacker, watch, LIST_GVA + u64::from(SERVICE_INDEX) * 8) {
        Ok(_) => {}
        Err(exception) if exception.is_abort() => aborted += 1,
        Err(exception) => return succeeded!("watchpoint: {exception}"),
    }
    if attacker.entry_is_armed() {
        return succeeded!("watchpoint: the service's entry is left armed");
    }
    match stepping_call(attacker) {
        Ok(_) => undisturbed += 1,
        Err(exception) if exception.is_abort() => aborted += 1,
        Err(exception) => return succeeded!("single step: {exception}"),
    }
    repelled!("{aborted} calls aborted, {undisturbed} not met; never left armed")
}

/// Makes a call with a breakpoint.
fn stopped_call(
    attacker: &mut Attacker,
    arm: extern "sysv64" fn(u64) -> u64,
    address: u64,
) -> Result<u64, Exception> {
    // SAFETY: the breakpoint is on nothing that Rust code executes or accesses.
    unsafe { syscall::privileged(arm, address) };
    let result = attacker.call();
    // SAFETY: with argument 0 `break_at` clears the breakpoint, and touches nothing else.
    unsafe { syscall::privileged(break_at, 0) };
    result
}

/// Makes a call whose first instruction in the gate view is followed by a trap.
fn stepping_call(attacker: &mut Attacker) -> Result<u64, Exception> {
    // The library's page A enters the gate without POPFQ.
    let target = attacker.place_code(GATE_GVA, &POPF_VMFUNC);
    let top = attacker.memory.bytes.len() - 8;
    attacker.memory.bytes[top..].copy_from_slice(&STEPPING.to_le_bytes());
    let registers = Registers {
        rcx: GATE_INDEX.into(),
        rdi: OP_NOP,
        rsp: attacker.memory.bytes.as_ptr() as u64 + top as u64,
        target,
        ..Registers::default()
    };
    // SAFETY: an empty call, or an exception.
    let result = unsafe { enter(&registers) };
    attacker.reset_code();
    result
}
