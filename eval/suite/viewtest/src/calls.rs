//! Calls into views: what the caller gets, what it gets when something is wrong, and what user
//! space sees and can do while a call is under way.

use std::mem::offset_of;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvm_bindings::{KVM_MP_STATE_RUNNABLE, kvm_mp_state, kvm_userspace_memory_region};
use postern_abi::PAGE_SIZE;
use postern_abi::kvm::{ATTACH_EXIT_ON_ABORT, DetachEptView, VIEW_MODE_FAST, VIEW_MODE_STRICT};
use postern_abi::view::{CALL_PAGE_GVA, CallPage, IMAGE_GVA, SERVICE_INDEX};

use crate::Test;
use crate::guest::{
    ABORTED, ADD, CALL, CALLER, CODE, FAULT, OUT, STACK, Stop, View, Vm, VmOptions, WAIT,
};
use crate::sys::{self, Pages};

pub const TESTS: &[Test] = &[
    ("a call returns the result and nothing else", registers),
    (
        "the service knows caller and vCPU from the call page",
        caller,
    ),
    ("calls leave no trace in the counters", many_calls),
    ("VMFUNC to the service without the gate is #UD", straight),
    ("a call without SMEP and SMAP is #UD", no_smap),
    ("a fault in a view aborts the call", fault),
    ("VMFUNC in compatibility mode is #UD", compatibility),
    ("registers of a call under way are not shown", getters),
    ("a call goes on after a signal", resume),
    ("setting state aborts a call", setters),
    ("an NMI waits until the call returns", nmi),
    ("a call survives changes of memory slots", memory_slots),
    ("detaching aborts a call", detach),
];

/// A call with 5 and 7.
fn call_code() -> Vec<u8> {
    call_code_with(5, 7)
}

/// `mov edi, first; mov esi, second; mov rax, CALL; call rax; out`.
fn call_code_with(first: u8, second: u8) -> Vec<u8> {
    let mut code = vec![0xbf, first, 0, 0, 0, 0xbe, second, 0, 0, 0, 0x48, 0xb8];
    code.extend_from_slice(&CALL.to_le_bytes());
    code.extend_from_slice(&[0xff, 0xd0]);
    code.extend_from_slice(&OUT);
    code
}

fn expect_stop(vm: &mut Vm, wanted: &Stop) -> Result<()> {
    let stop = vm.run();
    ensure!(
        stop == *wanted,
        "the vCPU stopped with {stop:?}, wanted {wanted:?}"
    );
    Ok(())
}

fn registers() -> Result<()> {
    for mode in [VIEW_MODE_FAST, VIEW_MODE_STRICT] {
        let view = View::sealed(mode, ADD)?;
        let mut vm = Vm::with_view(&call_code(), &view, 0)?;
        let mut regs = vm.vcpu.get_regs()?;
        (regs.rbx, regs.rbp, regs.r12, regs.r13, regs.r14, regs.r15) = (1, 2, 3, 4, 5, 6);
        (regs.rdx, regs.r8, regs.r9, regs.r10, regs.r11) = (7, 8, 9, 10, 11);
        vm.vcpu.set_regs(&regs)?;
        expect_stop(&mut vm, &Stop::Out(0))?;
        let after = vm.vcpu.get_regs()?;
        ensure!(
            after.rdx == 12,
            "mode {mode}: the sum of 5 and 7 is {}",
            after.rdx
        );
        ensure!(
            (
                after.rbx, after.rbp, after.r12, after.r13, after.r14, after.r15
            ) == (1, 2, 3, 4, 5, 6)
                && after.rsp == STACK,
            "mode {mode}: not preserved: {after:x?}"
        );
        let scrubbed = [
            after.rax, after.rcx, after.rsi, after.rdi, after.r8, after.r9, after.r10, after.r11,
        ];
        ensure!(scrubbed == [0; 8], "mode {mode}: not scrubbed: {after:x?}");
    }
    Ok(())
}

fn caller() -> Result<()> {
    // mov rax, CALL_PAGE_GVA; mov rax, [rax+rdi*8]; ret
    let mut service = vec![0x48, 0xb8];
    service.extend_from_slice(&CALL_PAGE_GVA.to_le_bytes());
    service.extend_from_slice(&[0x48, 0x8b, 0x04, 0xf8, 0xc3]);
    for (mode, vcpu) in [(VIEW_MODE_FAST, 0), (VIEW_MODE_STRICT, 3)] {
        let view = View::sealed(mode, &service)?;
        let options = VmOptions {
            vcpu,
            ..VmOptions::default()
        };
        let mut page = [0; size_of::<CallPage>() / 8];
        for (index, word) in (0..).zip(&mut page) {
            let mut vm = Vm::new(&call_code_with(index, 0), options)?;
            sys::attach(&vm.vcpu, &view.attach_argument(0))?;
            expect_stop(&mut vm, &Stop::Out(0))?;
            *word = vm.vcpu.get_regs()?.rdx;
        }
        let mut wanted = [0; size_of::<CallPage>() / 8];
        // The return address of the call to page A is on the stack.
        wanted[offset_of!(CallPage, saved_rsp) / 8] = STACK - 8;
        wanted[offset_of!(CallPage, vcpu) / 8] = vcpu;
        wanted[offset_of!(CallPage, caller) / 8..].copy_from_slice(&CALLER);
        ensure!(
            page == wanted,
            "mode {mode}: the call page has {page:x?}, wanted {wanted:x?}"
        );
    }
    Ok(())
}

fn many_calls() -> Result<()> {
    // mov ebp, 100000; mov r15, CALL; 1: call r15; dec ebp; jnz 1b; out
    let mut code = vec![0xbd, 0xa0, 0x86, 0x01, 0x00, 0x49, 0xbf];
    code.extend_from_slice(&CALL.to_le_bytes());
    code.extend_from_slice(&[0x41, 0xff, 0xd7, 0xff, 0xcd, 0x75, 0xf9]);
    code.extend_from_slice(&OUT);
    for mode in [VIEW_MODE_FAST, VIEW_MODE_STRICT] {
        let view = View::sealed(mode, ADD)?;
        let mut vm = Vm::with_view(&code, &view, 0)?;
        expect_stop(&mut vm, &Stop::Out(0))?;
        let stats = sys::stats(&vm.vcpu)?;
        ensure!(
            stats.aborts == 0 && stats.hypercalls == 0,
            "mode {mode}: after 100000 calls: {stats:?}"
        );
        // What is left are interrupts of the host, which are few.
        ensure!(stats.exits_in_view < 1000, "mode {mode}: {stats:?}");
    }
    Ok(())
}

fn straight() -> Result<()> {
    // xor eax, eax; mov ecx, SERVICE_INDEX; vmfunc; out
    let mut code = vec![0x31, 0xc0, 0xb9];
    code.extend_from_slice(&SERVICE_INDEX.to_le_bytes());
    code.extend_from_slice(&[0x0f, 0x01, 0xd4]);
    code.extend_from_slice(&OUT);
    let view = View::sealed(VIEW_MODE_FAST, ADD)?;
    let mut vm = Vm::with_view(&code, &view, 0)?;
    // There is no handler: #UD, then double and triple fault.
    expect_stop(&mut vm, &Stop::Shutdown)?;
    ensure!(
        sys::stats(&vm.vcpu)?.exits_in_view == 0,
        "a view became active"
    );
    Ok(())
}

fn no_smap() -> Result<()> {
    let view = View::sealed(VIEW_MODE_FAST, ADD)?;
    for cr4 in [0, 1 << 20, 1 << 21] {
        let mut vm = Vm::new(
            &call_code(),
            VmOptions {
                cr4,
                ..VmOptions::default()
            },
        )?;
        sys::attach(&vm.vcpu, &view.attach_argument(0))?;
        expect_stop(&mut vm, &Stop::Shutdown)?;
        ensure!(
            sys::stats(&vm.vcpu)?.exits_in_view == 0,
            "a view became active with CR4 {cr4:#x}"
        );
    }
    Ok(())
}

fn fault() -> Result<()> {
    for mode in [VIEW_MODE_FAST, VIEW_MODE_STRICT] {
        let view = View::sealed(mode, FAULT)?;
        let mut vm = Vm::with_view(&call_code(), &view, ATTACH_EXIT_ON_ABORT)?;
        expect_stop(&mut vm, &Stop::Aborted)?;
        let report = vm.abort_report();
        ensure!(
            report.view == SERVICE_INDEX && report.rip == IMAGE_GVA,
            "mode {mode}: wrong report {report:x?}"
        );
        expect_aborted_registers(&vm)?;
        expect_stop(&mut vm, &Stop::Shutdown)?;
        ensure!(
            sys::stats(&vm.vcpu)?.aborts == 1,
            "counted: {:?}",
            sys::stats(&vm.vcpu)?
        );
    }
    Ok(())
}

fn compatibility() -> Result<()> {
    // xor eax, eax; mov ecx, 1; vmfunc; out
    let mut code = vec![0x31, 0xc0, 0xb9, 1, 0, 0, 0, 0x0f, 0x01, 0xd4];
    code.extend_from_slice(&OUT);
    let view = View::sealed(VIEW_MODE_FAST, ADD)?;
    let options = VmOptions {
        compatibility: true,
        ..VmOptions::default()
    };
    let mut vm = Vm::new(&code, options)?;
    sys::attach(&vm.vcpu, &view.attach_argument(ATTACH_EXIT_ON_ABORT))?;
    // The gate is above 4 GiB, where this code cannot go: the call is aborted, and so that the
    // guest can go on.
    expect_stop(&mut vm, &Stop::Aborted)?;
    expect_stop(&mut vm, &Stop::Shutdown)
}

/// Checks that registers are as an abort leaves them; the caller has pushed one return address.
fn expect_aborted_registers(vm: &Vm) -> Result<()> {
    let regs = vm.vcpu.get_regs()?;
    ensure!(
        regs.rip == ABORTED && regs.rsp == STACK - 8,
        "not at the caller: {regs:x?}"
    );
    let others = [
        regs.rax, regs.rbx, regs.rcx, regs.rdx, regs.rsi, regs.rdi, regs.rbp, regs.r8, regs.r9,
        regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
    ];
    ensure!(
        others == [0; 15],
        "a register of the view is shown: {regs:x?}"
    );
    Ok(())
}

extern "C" fn ignore(_signal: libc::c_int) {}

/// A VM whose vCPU was interrupted inside the service [`WAIT`].
fn inside_a_call(view: &View) -> Result<Vm> {
    view.data.write_word(0, 0);
    view.data.write_word(8, 0);
    let mut vm = Vm::with_view(&call_code(), view, 0)?;
    interrupt_every(Duration::from_millis(5))?;
    let stopped = (0..1000).find_map(|_| match vm.run() {
        Stop::Interrupted if view.data.read_word(0) == 1 => Some(Ok(())),
        Stop::Interrupted => None,
        other => Some(Err(other)),
    });
    interrupt_every(Duration::ZERO)?;
    match stopped.context("the service never ran")? {
        Ok(()) => Ok(vm),
        Err(other) => anyhow::bail!("the call ended with {other:?}"),
    }
}

/// Sends SIGALRM in intervals, or no more.
fn interrupt_every(interval: Duration) -> Result<()> {
    let micros = i32::try_from(interval.as_micros())?;
    let time = libc::timeval {
        tv_sec: 0,
        tv_usec: micros.into(),
    };
    let timer = libc::itimerval {
        it_interval: time,
        it_value: time,
    };
    // SAFETY: the handler does nothing; the structures are initialised.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = ignore as *const () as usize;
        ensure!(
            libc::sigaction(libc::SIGALRM, &action, std::ptr::null_mut()) == 0,
            "sigaction"
        );
        ensure!(
            libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()) == 0,
            "setitimer"
        );
    }
    Ok(())
}

fn getters() -> Result<()> {
    for mode in [VIEW_MODE_FAST, VIEW_MODE_STRICT] {
        let view = View::sealed(mode, WAIT)?;
        let vm = inside_a_call(&view)?;
        expect_aborted_registers(&vm)?;
        // Looking did not end the call.
        ensure!(sys::stats(&vm.vcpu)?.aborts == 0, "the call was aborted");
    }
    Ok(())
}

fn resume() -> Result<()> {
    for mode in [VIEW_MODE_FAST, VIEW_MODE_STRICT] {
        let view = View::sealed(mode, WAIT)?;
        let mut vm = inside_a_call(&view)?;
        view.data.write_word(8, 55);
        expect_stop(&mut vm, &Stop::Out(0))?;
        let result = vm.vcpu.get_regs()?.rdx;
        ensure!(result == 55, "the call returned {result}");
    }
    Ok(())
}

fn setters() -> Result<()> {
    type Setter = (&'static str, fn(&Vm) -> Result<()>);
    const SETTERS: &[Setter] = &[
        ("KVM_SET_SREGS", |vm| {
            Ok(vm.vcpu.set_sregs(&vm.vcpu.get_sregs()?)?)
        }),
        ("KVM_SET_VCPU_EVENTS", |vm| {
            Ok(vm.vcpu.set_vcpu_events(&vm.vcpu.get_vcpu_events()?)?)
        }),
        ("KVM_SET_DEBUGREGS", |vm| {
            Ok(vm.vcpu.set_debug_regs(&vm.vcpu.get_debug_regs()?)?)
        }),
        ("KVM_SET_MP_STATE", |vm| {
            Ok(vm.vcpu.set_mp_state(kvm_mp_state {
                mp_state: KVM_MP_STATE_RUNNABLE,
            })?)
        }),
    ];
    let view = View::sealed(VIEW_MODE_FAST, WAIT)?;
    for (name, set) in SETTERS {
        let vm = inside_a_call(&view)?;
        set(&vm)?;
        ensure!(sys::stats(&vm.vcpu)?.aborts == 1, "{name} did not abort");
        expect_aborted_registers(&vm)?;
    }
    // New registers take the place of the call altogether.
    let mut vm = inside_a_call(&view)?;
    vm.memory.write(0x2000, &[0xb0, 9, OUT[0], OUT[1]]); // mov al, 9; out
    let mut regs = vm.vcpu.get_regs()?;
    regs.rip = CODE + 0x1000;
    vm.vcpu.set_regs(&regs)?;
    ensure!(
        sys::stats(&vm.vcpu)?.aborts == 1,
        "KVM_SET_REGS did not abort"
    );
    expect_stop(&mut vm, &Stop::Out(9))
}

fn nmi() -> Result<()> {
    for mode in [VIEW_MODE_FAST, VIEW_MODE_STRICT] {
        let view = View::sealed(mode, WAIT)?;
        let mut vm = inside_a_call(&view)?;
        sys::nmi(&vm.vcpu)?;
        // Run on with the NMI pending: it must wait, however long the call takes.
        interrupt_every(Duration::from_millis(5))?;
        let stop = vm.run();
        interrupt_every(Duration::ZERO)?;
        ensure!(
            stop == Stop::Interrupted,
            "mode {mode}: with an NMI pending: {stop:?}"
        );
        let stats = sys::stats(&vm.vcpu)?;
        ensure!(
            stats.aborts == 0 && stats.deferred_leaves == 0,
            "mode {mode}: {stats:?}"
        );
        // The call returns, then the NMI arrives, for which the guest has no handler.
        view.data.write_word(8, 55);
        expect_stop(&mut vm, &Stop::Shutdown)?;
        let stats = sys::stats(&vm.vcpu)?;
        ensure!(
            stats.aborts == 0 && stats.deferred_leaves == 1,
            "mode {mode}: {stats:?}"
        );
        let regs = vm.vcpu.get_regs()?;
        ensure!(
            regs.rdx == 55,
            "mode {mode}: the call returned {:#x}",
            regs.rdx
        );
    }
    Ok(())
}

fn memory_slots() -> Result<()> {
    let view = View::sealed(VIEW_MODE_FAST, WAIT)?;
    let mut vm = inside_a_call(&view)?;
    let pages = Pages::writable(PAGE_SIZE as usize);
    for size in [PAGE_SIZE, 0, PAGE_SIZE, 0] {
        let region = kvm_userspace_memory_region {
            slot: 1,
            guest_phys_addr: 1 << 30,
            memory_size: size,
            userspace_addr: pages.address(),
            ..Default::default()
        };
        // SAFETY: the pages outlive the slot, which is removed again.
        unsafe { vm.fd.set_user_memory_region(region)? };
        interrupt_every(Duration::from_millis(5))?;
        let stop = vm.run();
        interrupt_every(Duration::ZERO)?;
        ensure!(
            stop == Stop::Interrupted,
            "after a change to {size} bytes: {stop:?}"
        );
    }
    view.data.write_word(8, 55);
    expect_stop(&mut vm, &Stop::Out(0))?;
    ensure!(
        vm.vcpu.get_regs()?.rdx == 55,
        "the call returned {:#x}",
        vm.vcpu.get_regs()?.rdx
    );
    Ok(())
}

fn detach() -> Result<()> {
    let view = View::sealed(VIEW_MODE_FAST, WAIT)?;
    let mut vm = inside_a_call(&view)?;
    sys::detach(&vm.vcpu, &DetachEptView::default())?;
    expect_aborted_registers(&vm)?;
    expect_stop(&mut vm, &Stop::Shutdown)
}
