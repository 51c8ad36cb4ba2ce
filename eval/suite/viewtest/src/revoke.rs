//! Revocation: when it returns, no vCPU is in a view by the grant, and none enters one again.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use libc::EKEYREVOKED;
use postern_abi::kvm::{
    ATTACH_EXIT_ON_ABORT, AttachEptView, DetachEptView, RIGHT_FAST, RIGHT_STRICT,
};
use postern_abi::view::DATA_GVA;

use crate::Test;
use crate::calls::{expect_aborted_at, expect_stop, inside_a_call};
use crate::guest::{
    ADD, FLAG, ID, SPIN, STACK, Stop, Template, Vm, VmOptions, WAIT, and_out, attach_argument,
    call_slot,
};
use crate::sys::{self, Pages, errno};

pub const TESTS: &[Test] = &[
    (
        "a revoked grant attaches nobody, and its slots are closed",
        idle,
    ),
    ("revocation is by id, and counts what lives", by_id),
    ("revoking stops a vCPU that spins", spinning),
    ("revoking aborts a call", in_a_call),
    ("revoking aborts a call that is interrupted", interrupted),
    ("after a revocation nothing runs in the view", any_moment),
];

fn idle() -> Result<()> {
    for right in [RIGHT_FAST, RIGHT_STRICT] {
        let template = Template::sealed(ADD)?;
        let grant = template.grant_to(ID, 2)?;
        let code = and_out(call_slot(0, 5, 7));
        let mut used = Vm::new(&code, VmOptions::default())?;
        let mut fresh = Vm::new(&code, VmOptions::default())?;
        let other = Vm::new(&code, VmOptions::default())?;
        for (member, vm) in (0..).zip([&used, &fresh]) {
            let argument = AttachEptView {
                member,
                ..attach_argument(&grant, right)
            };
            sys::attach(&vm.vcpu, &argument)?;
        }
        expect_stop(&mut used, &Stop::Out(0))?;
        ensure!(template.revoke(ID)? == 1, "one grant");
        let argument = attach_argument(&grant, right);
        let got = errno(sys::attach(&other.vcpu, &argument));
        ensure!(got == EKEYREVOKED, "attach: errno {got}");
        used.restart(&code)?;
        for vm in [&mut used, &mut fresh] {
            expect_stop(vm, &Stop::Shutdown)?;
            let stats = sys::stats(&vm.vcpu, 0)?;
            ensure!(
                stats.revoked == 1 && stats.exits_in_view == 0,
                "right {right}: {stats:?}"
            );
        }
        // The same id can be granted anew, at the same slot.
        let again = template.grant()?;
        for vm in [&mut used, &mut fresh] {
            let argument = attach_argument(&again, right);
            let got = errno(sys::attach(&vm.vcpu, &argument));
            ensure!(got == libc::EEXIST, "a revoked slot is taken: errno {got}");
            sys::detach(&vm.vcpu, &DetachEptView::default())?;
            sys::attach(&vm.vcpu, &argument)?;
            vm.restart(&code)?;
            expect_stop(vm, &Stop::Out(0))?;
            ensure!(sys::stats(&vm.vcpu, 0)?.revoked == 0, "revoked at once");
            sys::detach(&vm.vcpu, &DetachEptView::default())?;
        }
    }
    Ok(())
}

fn by_id() -> Result<()> {
    let template = Template::sealed(ADD)?;
    let other = Template::sealed(ADD)?;
    let count = |id: u64, wanted: u32| -> Result<()> {
        let got = template.revoke(id)?;
        ensure!(got == wanted, "id {id:#x}: {got} grants, wanted {wanted}");
        Ok(())
    };
    let two = [template.grant_to(1, 1)?, template.grant_to(1, 3)?];
    let kept = template.grant_to(1 << 32 | 1, 1)?;
    let elsewhere = other.grant_to(1, 1)?;
    count(2, 0)?;
    count(1, 2)?;
    count(1, 0)?;
    let code = and_out(call_slot(0, 5, 7));
    for grant in [&kept, &elsewhere] {
        let mut vm = Vm::new(&code, VmOptions::default())?;
        sys::attach(&vm.vcpu, &attach_argument(grant, RIGHT_FAST))?;
        expect_stop(&mut vm, &Stop::Out(0))?;
    }
    drop(two);
    // One whose descriptor is closed is gone, unless it is attached.
    drop(template.grant_to(3, 1)?);
    count(3, 0)?;
    let mut vm = Vm::new(&code, VmOptions::default())?;
    let grant = template.grant_to(3, 1)?;
    sys::attach(&vm.vcpu, &attach_argument(&grant, RIGHT_FAST))?;
    drop(grant);
    count(3, 1)?;
    expect_stop(&mut vm, &Stop::Shutdown)
}

/// Runs a vCPU in a thread, and in this one `meanwhile`, which gets the guest's memory and in the
/// end has to let the guest stop.
fn beside(vm: &mut Vm, meanwhile: impl FnOnce(&Arc<Pages>) -> Result<()>) -> Result<Stop> {
    let memory = vm.memory.clone();
    std::thread::scope(|scope| {
        let vcpu = scope.spawn(|| vm.run_through());
        let result = meanwhile(&memory);
        // Whatever went wrong, the thread has to end.
        memory.write_word(FLAG, 1);
        let stop = vcpu.join().map_err(|_| anyhow!("the vCPU's thread died"))?;
        result.map(|()| stop)
    })
}

fn wait_for(pages: &Pages, offset: usize) -> Result<()> {
    for _ in 0..2000 {
        if pages.read_word(offset) != 0 {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    anyhow::bail!("the guest did not come so far")
}

fn spinning() -> Result<()> {
    // A call, a sign of it, waiting, another call.
    let mut code = call_slot(0, 5, 7);
    // mov [0x5000], rdx
    code.extend_from_slice(&[0x48, 0x89, 0x14, 0x25, 0x00, 0x50, 0x00, 0x00]);
    code.extend_from_slice(&SPIN);
    code.extend_from_slice(&call_slot(0, 5, 8));
    for right in [RIGHT_FAST, RIGHT_STRICT] {
        let template = Template::sealed(ADD)?;
        let mut vm = Vm::attached(&and_out(code.clone()), &template, right, 0)?;
        let stop = beside(&mut vm, |memory| {
            wait_for(memory, 0x5000)?;
            let count = template.revoke(ID)?;
            ensure!(count == 1, "{count} grants");
            Ok(())
        })?;
        let stats = sys::stats(&vm.vcpu, 0)?;
        ensure!(
            stop == Stop::Shutdown && stats.revoked == 1 && stats.aborts == 0,
            "right {right}: it stopped with {stop:?}: {stats:?}"
        );
    }
    Ok(())
}

fn in_a_call() -> Result<()> {
    for right in [RIGHT_FAST, RIGHT_STRICT] {
        let template = Template::sealed(WAIT)?;
        let code = and_out(call_slot(0, 5, 7));
        let mut vm = Vm::attached(&code, &template, right, 0)?;
        let stop = beside(&mut vm, |_| {
            let result = wait_for(&template.data, 0)
                .and_then(|()| Ok(template.revoke(ID)?))
                .and_then(|count| {
                    ensure!(count == 1, "{count} grants");
                    Ok(())
                });
            // Would let the service go on, if it still ran.
            template.data.write_word(0, 0);
            std::thread::sleep(Duration::from_millis(20));
            template.data.write_word(8, 55);
            result
        })?;
        let stats = sys::stats(&vm.vcpu, 0)?;
        ensure!(
            stop == Stop::Shutdown && stats.revoked == 1 && stats.aborts == 1,
            "right {right}: it stopped with {stop:?}: {stats:?}"
        );
        expect_aborted_at(&vm, STACK - 8)?;
    }
    Ok(())
}

/// The vCPU is not even running: it was interrupted inside of a call.
fn interrupted() -> Result<()> {
    for right in [RIGHT_FAST, RIGHT_STRICT] {
        let template = Template::sealed(WAIT)?;
        let mut vm = inside_a_call(&template, right)?;
        ensure!(template.revoke(ID)? == 1, "one grant");
        template.data.write_word(8, 55);
        expect_stop(&mut vm, &Stop::Shutdown)?;
        let stats = sys::stats(&vm.vcpu, 0)?;
        ensure!(
            stats.revoked == 1 && stats.aborts == 1,
            "right {right}: {stats:?}"
        );
        expect_aborted_at(&vm, STACK - 8)?;
    }
    Ok(())
}

fn any_moment() -> Result<()> {
    // mov rax, DATA_GVA; inc qword [rax]; ret
    let mut service = vec![0x48, 0xb8];
    service.extend_from_slice(&DATA_GVA.to_le_bytes());
    service.extend_from_slice(&[0x48, 0xff, 0x00, 0xc3]);
    let template = Template::sealed(&service)?;
    for round in 0..40u64 {
        let right = [RIGHT_FAST, RIGHT_STRICT][round as usize % 2];
        // A call; cmp dword [FLAG], 0; je to the call; out
        let mut code = call_slot(0, 5, 7);
        code.extend_from_slice(&SPIN[..8]);
        code.extend_from_slice(&[0x74, (256 - code.len() as u32 - 2) as u8]);
        let mut vm = Vm::attached(&and_out(code), &template, right, ATTACH_EXIT_ON_ABORT)?;
        let stop = beside(&mut vm, |_| {
            std::thread::sleep(Duration::from_micros(137 * round * round % 20_000));
            let count = template.revoke(ID)?;
            let calls = template.data.read_word(0);
            ensure!(count == 1, "{count} grants");
            std::thread::sleep(Duration::from_millis(2));
            let later = template.data.read_word(0);
            ensure!(
                calls == later,
                "round {round}: {} calls after the revocation",
                later - calls
            );
            Ok(())
        })?;
        ensure!(
            matches!(stop, Stop::Shutdown | Stop::Aborted),
            "round {round}: it stopped with {stop:?}"
        );
    }
    Ok(())
}
