//! Services side by side on one vCPU: each slot has a gate and a list entry of its own, and what
//! happens to one is nothing to the others.

use std::fs::File;

use anyhow::{Result, ensure};
use postern_abi::kvm::{
    ATTACH_EXIT_ON_ABORT, AttachEptView, DetachEptView, RIGHT_FAST, RIGHT_STRICT,
};
use postern_abi::view::{SERVICE_INDICES, SLOTS, gate_index};

use crate::Test;
use crate::calls::{expect_stop, stop_inside};
use crate::guest::{
    ADD, FAULT, Stop, Template, Vm, VmOptions, WAIT, and_out, attach_argument, call_slot,
};
use crate::sys;

pub const TESTS: &[Test] = &[
    ("two services beside each other", two),
    ("as many services as there are slots", eight),
    ("no index but a slot's gate enters anything", other_indices),
    ("an abort in one slot leaves the others alone", abort),
    ("a call goes on while other slots change", change_others),
    ("a detached slot is closed, the others are not", detached),
];

/// The right that a slot is attached with here: both kinds, beside each other.
fn right_of(slot: u32) -> u32 {
    [RIGHT_FAST, RIGHT_STRICT][slot as usize % 2]
}

fn attach(vm: &Vm, slot: u32, grant: &File, flags: u32) -> Result<()> {
    let argument = AttachEptView {
        slot,
        flags,
        ..attach_argument(grant, right_of(slot))
    };
    Ok(sys::attach(&vm.vcpu, &argument)?)
}

fn detach(vm: &Vm, slot: u32) -> Result<()> {
    let argument = DetachEptView {
        slot,
        ..Default::default()
    };
    Ok(sys::detach(&vm.vcpu, &argument)?)
}

/// A service that adds its slot's number, and one, to the first argument:
/// `lea rax, [rdi+slot+1]; ret`.
fn add_number(slot: u32) -> [u8; 5] {
    [0x48, 0x8d, 0x47, slot as u8 + 1, 0xc3]
}

/// A vCPU with a service of [`add_number`] at each slot.
fn with_all_slots() -> Result<(Vec<Template>, Vm)> {
    let vm = Vm::new(&[], VmOptions::default())?;
    let mut templates = Vec::new();
    for slot in 0..SLOTS {
        let template = Template::sealed(&add_number(slot))?;
        attach(&vm, slot, &template.grant()?, 0)?;
        templates.push(template);
    }
    Ok((templates, vm))
}

fn two() -> Result<()> {
    // mov rax, rdi; sub rax, rsi; ret
    let subtract = Template::sealed(&[0x48, 0x89, 0xf8, 0x48, 0x29, 0xf0, 0xc3])?;
    let add = Template::sealed(ADD)?;
    // RBX is the first result, RDX the second.
    let mut code = call_slot(0, 5, 7);
    code.extend_from_slice(&[0x48, 0x89, 0xd3]);
    code.extend_from_slice(&call_slot(1, 5, 7));
    let mut vm = Vm::new(&and_out(code), VmOptions::default())?;
    attach(&vm, 0, &add.grant()?, 0)?;
    attach(&vm, 1, &subtract.grant()?, 0)?;
    expect_stop(&mut vm, &Stop::Out(0))?;
    let regs = vm.vcpu.get_regs()?;
    ensure!(
        (regs.rbx, regs.rdx) == (12, 5u64.wrapping_sub(7)),
        "5 + 7 is {:#x}, 5 - 7 is {:#x}",
        regs.rbx,
        regs.rdx
    );
    for slot in 0..2 {
        let stats = sys::stats(&vm.vcpu, slot)?;
        ensure!(stats.aborts == 0 && stats.armed == 1, "{stats:?}");
    }
    Ok(())
}

/// Where the guest puts the result of a slot's call.
fn result_at(slot: u32) -> usize {
    0x5000 + 8 * slot as usize
}

fn eight() -> Result<()> {
    let (_templates, mut vm) = with_all_slots()?;
    let calls = |slots: &mut dyn Iterator<Item = u32>, first: u32| {
        let mut code = Vec::new();
        for slot in slots {
            code.extend_from_slice(&call_slot(slot, first, 0));
            // mov [result_at(slot)], rdx
            code.extend_from_slice(&[0x48, 0x89, 0x14, 0x25]);
            code.extend_from_slice(&(result_at(slot) as u32).to_le_bytes());
        }
        and_out(code)
    };
    for (code, first) in [
        (calls(&mut (0..SLOTS), 100), 100),
        (calls(&mut (0..SLOTS).rev(), 200), 200),
    ] {
        vm.restart(&code)?;
        expect_stop(&mut vm, &Stop::Out(0))?;
        for slot in 0..SLOTS {
            let result = vm.memory.read_word(result_at(slot));
            ensure!(
                result == first + u64::from(slot) + 1,
                "slot {slot} answers {result} to {first}"
            );
        }
    }
    for slot in 0..SLOTS {
        let stats = sys::stats(&vm.vcpu, slot)?;
        ensure!(stats.aborts == 0, "slot {slot}: {stats:?}");
    }
    Ok(())
}

/// `xor eax, eax; mov ecx, index; vmfunc; out`.
fn switch_to(index: u32) -> Vec<u8> {
    let mut code = vec![0x31, 0xc0, 0xb9];
    code.extend_from_slice(&index.to_le_bytes());
    code.extend_from_slice(&[0x0f, 0x01, 0xd4]);
    and_out(code)
}

fn other_indices() -> Result<()> {
    let (_templates, mut vm) = with_all_slots()?;
    // The gates of the slots from 4 on are left without a service.
    for slot in 4..SLOTS {
        detach(&vm, slot)?;
    }
    let gates = (0..4).map(gate_index);
    let open: Vec<u32> = std::iter::once(0).chain(gates).collect();
    for index in (0..=512).chain([0xffff_ffff, 0x8000_0001, 0x1_0001]) {
        if open.contains(&index) {
            continue;
        }
        vm.restart(&switch_to(index))?;
        let stop = vm.run();
        ensure!(
            stop == Stop::Shutdown,
            "VMFUNC to {index:#x} ended with {stop:?}"
        );
    }
    for index in SERVICE_INDICES {
        ensure!(!open.contains(&index), "a service's index is a gate's");
    }
    for slot in 0..4 {
        let stats = sys::stats(&vm.vcpu, slot)?;
        ensure!(
            stats.exits_in_view == 0 && stats.aborts == 0,
            "slot {slot} was entered: {stats:?}"
        );
    }
    Ok(())
}

fn abort() -> Result<()> {
    let add = Template::sealed(ADD)?;
    let fault = Template::sealed(FAULT)?;
    for bad in 0..SLOTS {
        let mut vm = Vm::new(&and_out(call_slot(bad, 5, 7)), VmOptions::default())?;
        for slot in 0..SLOTS {
            let template = if slot == bad { &fault } else { &add };
            attach(&vm, slot, &template.grant()?, ATTACH_EXIT_ON_ABORT)?;
        }
        expect_stop(&mut vm, &Stop::Aborted)?;
        let report = vm.abort_report();
        ensure!(
            report.view == SERVICE_INDICES[bad as usize],
            "slot {bad}: {report:x?}"
        );
        for slot in (0..SLOTS).filter(|slot| *slot != bad) {
            vm.restart(&and_out(call_slot(slot, 5, 7)))?;
            expect_stop(&mut vm, &Stop::Out(0))?;
            ensure!(vm.vcpu.get_regs()?.rdx == 12, "slot {slot} after {bad}");
            let stats = sys::stats(&vm.vcpu, slot)?;
            ensure!(stats.aborts == 0, "slot {slot} after {bad}: {stats:?}");
        }
        // The slot itself can be called again, too.
        vm.restart(&and_out(call_slot(bad, 5, 7)))?;
        expect_stop(&mut vm, &Stop::Aborted)?;
        let stats = sys::stats(&vm.vcpu, bad)?;
        ensure!(stats.aborts == 2, "slot {bad}: {stats:?}");
    }
    Ok(())
}

fn change_others() -> Result<()> {
    let add = Template::sealed(ADD)?;
    let wait = Template::sealed(WAIT)?;
    for right_slot in [2, 3] {
        let mut vm = Vm::new(&and_out(call_slot(right_slot, 0, 0)), VmOptions::default())?;
        attach(&vm, right_slot, &wait.grant()?, 0)?;
        let first = add.grant()?;
        attach(&vm, 0, &first, 0)?;
        attach(&vm, 1, &add.grant_to(77, 1)?, 0)?;
        stop_inside(&mut vm, &wait)?;

        detach(&vm, 0)?;
        attach(&vm, 4, &first, 0)?;
        ensure!(add.revoke(77)? == 1, "no grant was revoked");
        detach(&vm, 4)?;
        attach(&vm, 0, &first, 0)?;

        wait.data.write_word(8, 55);
        expect_stop(&mut vm, &Stop::Out(0))?;
        let result = vm.vcpu.get_regs()?.rdx;
        ensure!(result == 55, "the call returned {result:#x}");
        let stats = sys::stats(&vm.vcpu, right_slot)?;
        ensure!(stats.aborts == 0, "{stats:?}");

        vm.restart(&and_out(call_slot(0, 5, 7)))?;
        expect_stop(&mut vm, &Stop::Out(0))?;
        vm.restart(&and_out(call_slot(1, 5, 7)))?;
        expect_stop(&mut vm, &Stop::Shutdown)?;
    }
    Ok(())
}

fn detached() -> Result<()> {
    let (_templates, mut vm) = with_all_slots()?;
    for gone in [0, 7, 3] {
        detach(&vm, gone)?;
        vm.restart(&and_out(call_slot(gone, 5, 7)))?;
        expect_stop(&mut vm, &Stop::Shutdown)?;
    }
    for slot in [1, 2, 4, 5, 6] {
        vm.restart(&and_out(call_slot(slot, 5, 7)))?;
        expect_stop(&mut vm, &Stop::Out(0))?;
        let result = vm.vcpu.get_regs()?.rdx;
        ensure!(result == 6 + u64::from(slot), "slot {slot}: {result}");
    }
    Ok(())
}
