//! Calls into views: what the caller gets, what it gets when something is wrong, and what user
//! space sees and can do while a call is under way.

use std::mem::offset_of;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvm_bindings::{
    KVM_MP_STATE_RUNNABLE, Msrs, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs,
    kvm_userspace_memory_region, kvm_vcpu_events,
};
use postern_abi::PAGE_SIZE;
use postern_abi::kvm::{
    ATTACH_EXIT_ON_ABORT, AttachEptView, DetachEptView, RIGHT_FAST, RIGHT_STRICT,
};
use postern_abi::view::{CALL_PAGE_GVA, CallPage, IMAGE_GVA, SERVICE_INDICES};

use crate::Test;
use crate::guest::{
    ABORTED, ADD, CALL, CALLER, CODE, FAULT, ID, OUT, STACK, Stop, Template, Vm, VmOptions, WAIT,
    attach_argument,
};
use crate::sys::{self, Pages};

pub const TESTS: &[Test] = &[
    ("a call returns the result and nothing else", registers),
    (
        "the service knows caller and member from the call page",
        caller,
    ),
    ("calls leave no trace in the counters", many_calls),
    ("VMFUNC to the service without the gate is #UD", straight),
    ("a call without SMEP and SMAP is #UD", no_smap),
    ("a fault in a view aborts the call", fault),
    ("a service that leaves CPL 3 ends at CPL 3", system_call),
    ("VMFUNC in compatibility mode is #UD", compatibility),
    ("getters show a call as an abort would leave it", getters),
    ("a call goes on after a signal", resume),
    ("setting state aborts a call", setters),
    ("an NMI waits until the call returns", nmi),
    ("a call survives changes of memory slots", memory_slots),
    ("detaching aborts a call", detach),
];

/// A call with 5 and 7.
pub fn call_code() -> Vec<u8> {
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

pub fn expect_stop(vm: &mut Vm, wanted: &Stop) -> Result<()> {
    let stop = vm.run();
    ensure!(
        stop == *wanted,
        "the vCPU stopped with {stop:?}, wanted {wanted:?}"
    );
    Ok(())
}

fn registers() -> Result<()> {
    for right in [RIGHT_FAST, RIGHT_STRICT] {
        let template = Template::sealed(ADD)?;
        let mut vm = Vm::attached(&call_code(), &template, right, 0)?;
        let mut regs = vm.vcpu.get_regs()?;
        (regs.rbx, regs.rbp, regs.r12, regs.r13, regs.r14, regs.r15) = (1, 2, 3, 4, 5, 6);
        (regs.rdx, regs.r8, regs.r9, regs.r10, regs.r11) = (7, 8, 9, 10, 11);
        vm.vcpu.set_regs(&regs)?;
        expect_stop(&mut vm, &Stop::Out(0))?;
        let after = vm.vcpu.get_regs()?;
        ensure!(
            after.rdx == 12,
            "right {right}: the sum of 5 and 7 is {}",
            after.rdx
        );
        ensure!(
            (
                after.rbx, after.rbp, after.r12, after.r13, after.r14, after.r15
            ) == (1, 2, 3, 4, 5, 6)
                && after.rsp == STACK,
            "right {right}: not preserved: {after:x?}"
        );
        let scrubbed = [
            after.rax, after.rcx, after.rsi, after.rdi, after.r8, after.r9, after.r10, after.r11,
        ];
        ensure!(
            scrubbed == [0; 8],
            "right {right}: not scrubbed: {after:x?}"
        );
    }
    Ok(())
}

fn caller() -> Result<()> {
    // mov rax, CALL_PAGE_GVA; mov rax, [rax+rdi*8]; ret
    let mut service = vec![0x48, 0xb8];
    service.extend_from_slice(&CALL_PAGE_GVA.to_le_bytes());
    service.extend_from_slice(&[0x48, 0x8b, 0x04, 0xf8, 0xc3]);
    let template = Template::sealed(&service)?;
    // A vCPU's number in its VM says nothing.
    for (right, member, vcpu) in [(RIGHT_FAST, 0, 3), (RIGHT_STRICT, 3, 0)] {
        let options = VmOptions {
            vcpu,
            ..VmOptions::default()
        };
        let mut page = [0; size_of::<CallPage>() / 8];
        for (index, word) in (0..).zip(&mut page) {
            let mut vm = Vm::new(&call_code_with(index, 0), options)?;
            let grant = template.grant_to(ID, 4)?;
            let argument = AttachEptView {
                member,
                ..attach_argument(&grant, right)
            };
            sys::attach(&vm.vcpu, &argument)?;
            expect_stop(&mut vm, &Stop::Out(0))?;
            *word = vm.vcpu.get_regs()?.rdx;
        }
        let mut wanted = [0; size_of::<CallPage>() / 8];
        // The return address of the call to page A is on the stack.
        wanted[offset_of!(CallPage, saved_rsp) / 8] = STACK - 8;
        wanted[offset_of!(CallPage, member) / 8] = member.into();
        wanted[offset_of!(CallPage, caller) / 8..].copy_from_slice(&CALLER);
        ensure!(
            page == wanted,
            "right {right}: the call page has {page:x?}, wanted {wanted:x?}"
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
    for right in [RIGHT_FAST, RIGHT_STRICT] {
        let template = Template::sealed(ADD)?;
        let mut vm = Vm::attached(&code, &template, right, 0)?;
        expect_stop(&mut vm, &Stop::Out(0))?;
        let stats = sys::stats(&vm.vcpu, 0)?;
        ensure!(
            stats.aborts == 0 && stats.hypercalls == 0,
            "right {right}: after 100000 calls: {stats:?}"
        );
        // What is left are interrupts of the host, which are few.
        ensure!(stats.exits_in_view < 1000, "right {right}: {stats:?}");
    }
    Ok(())
}

fn straight() -> Result<()> {
    // xor eax, eax; mov ecx, SERVICE_INDICES[0]; vmfunc; out
    let mut code = vec![0x31, 0xc0, 0xb9];
    code.extend_from_slice(&SERVICE_INDICES[0].to_le_bytes());
    code.extend_from_slice(&[0x0f, 0x01, 0xd4]);
    code.extend_from_slice(&OUT);
    let template = Template::sealed(ADD)?;
    let mut vm = Vm::attached(&code, &template, RIGHT_FAST, 0)?;
    // There is no handler: #UD, then double and triple fault.
    expect_stop(&mut vm, &Stop::Shutdown)?;
    ensure!(
        sys::stats(&vm.vcpu, 0)?.exits_in_view == 0,
        "a view became active"
    );
    Ok(())
}

fn no_smap() -> Result<()> {
    let template = Template::sealed(ADD)?;
    for cr4 in [0, 1 << 20, 1 << 21] {
        let mut vm = Vm::new(
            &call_code(),
            VmOptions {
                cr4,
                ..VmOptions::default()
            },
        )?;
        let grant = template.grant()?;
        sys::attach(&vm.vcpu, &attach_argument(&grant, RIGHT_FAST))?;
        expect_stop(&mut vm, &Stop::Shutdown)?;
        ensure!(
            sys::stats(&vm.vcpu, 0)?.exits_in_view == 0,
            "a view became active with CR4 {cr4:#x}"
        );
    }
    Ok(())
}

fn fault() -> Result<()> {
    for right in [RIGHT_FAST, RIGHT_STRICT] {
        let template = Template::sealed(FAULT)?;
        let mut vm = Vm::attached(&call_code(), &template, right, ATTACH_EXIT_ON_ABORT)?;
        expect_stop(&mut vm, &Stop::Aborted)?;
        let report = vm.abort_report();
        ensure!(
            report.view == SERVICE_INDICES[0] && report.rip == IMAGE_GVA,
            "right {right}: wrong report {report:x?}"
        );
        expect_aborted_registers(&vm)?;
        expect_stop(&mut vm, &Stop::Shutdown)?;
        ensure!(
            sys::stats(&vm.vcpu, 0)?.aborts == 1,
            "counted: {:?}",
            sys::stats(&vm.vcpu, 0)?
        );
    }
    Ok(())
}

/// SYSCALL reads no memory, so a service gets to CPL 0 by it, where the next fetch faults. An
/// exception that is injected there would be the guest kernel's, on a stack of the service's choice.
fn system_call() -> Result<()> {
    const EFER_SCE: u64 = 1;
    const STAR: u32 = 0xc000_0081;
    const LSTAR: u32 = 0xc000_0082;
    // mov rax, CALL_PAGE_GVA; mov word [rax], CODE, which is the saved RSP; syscall
    let mut code = vec![0x48, 0xb8];
    code.extend_from_slice(&CALL_PAGE_GVA.to_le_bytes());
    code.extend_from_slice(&[0x66, 0xc7, 0x00, 0x00, 0x10, 0x0f, 0x05]);
    for right in [RIGHT_FAST, RIGHT_STRICT] {
        let template = Template::sealed(&code)?;
        let mut vm = Vm::attached(&call_code(), &template, right, ATTACH_EXIT_ON_ABORT)?;
        let mut sregs = vm.vcpu.get_sregs()?;
        sregs.efer |= EFER_SCE;
        vm.vcpu.set_sregs(&sregs)?;
        let entry = |index, data| kvm_msr_entry {
            index,
            data,
            ..Default::default()
        };
        let msrs = [entry(STAR, 0x0020_0010 << 32), entry(LSTAR, CODE)];
        vm.vcpu.set_msrs(&Msrs::from_entries(&msrs)?)?;
        expect_stop(&mut vm, &Stop::Aborted)?;
        let sregs = vm.vcpu.get_sregs()?;
        let (cs, ss) = (sregs.cs, sregs.ss);
        ensure!(
            (cs.selector, cs.dpl, cs.l, ss.selector, ss.dpl) == (0x33, 3, 1, 0x2b, 3),
            "right {right}: it ended at CPL {}: {cs:x?} {ss:x?}",
            ss.dpl
        );
        expect_aborted_at(&vm, CODE)?;
        expect_stop(&mut vm, &Stop::Shutdown)?;
    }
    Ok(())
}

fn compatibility() -> Result<()> {
    // xor eax, eax; mov ecx, 1; vmfunc; out
    let mut code = vec![0x31, 0xc0, 0xb9, 1, 0, 0, 0, 0x0f, 0x01, 0xd4];
    code.extend_from_slice(&OUT);
    let template = Template::sealed(ADD)?;
    let options = VmOptions {
        compatibility: true,
        ..VmOptions::default()
    };
    let mut vm = Vm::new(&code, options)?;
    let grant = template.grant()?;
    let argument = AttachEptView {
        flags: ATTACH_EXIT_ON_ABORT,
        ..attach_argument(&grant, RIGHT_FAST)
    };
    sys::attach(&vm.vcpu, &argument)?;
    // The gate is above 4 GiB, where this code cannot go: the call is aborted, and so that the
    // guest can go on.
    expect_stop(&mut vm, &Stop::Aborted)?;
    expect_stop(&mut vm, &Stop::Shutdown)
}

/// Checks that registers are as an abort leaves them; the caller has pushed one return address.
fn expect_aborted_registers(vm: &Vm) -> Result<()> {
    expect_aborted_at(vm, STACK - 8)
}

/// Checks that registers are as an abort leaves them, with this stack pointer of the caller.
pub fn expect_aborted_at(vm: &Vm, rsp: u64) -> Result<()> {
    let regs = vm.vcpu.get_regs()?;
    ensure!(
        regs.rip == ABORTED && regs.rsp == rsp,
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

/// A VM whose vCPU was interrupted inside the service [`WAIT`], called at its first slot.
pub fn inside_a_call(template: &Template, right: u32) -> Result<Vm> {
    let mut vm = Vm::attached(&call_code(), template, right, 0)?;
    stop_inside(&mut vm, template)?;
    Ok(vm)
}

/// Runs a vCPU until it was interrupted inside the service [`WAIT`].
pub fn stop_inside(vm: &mut Vm, template: &Template) -> Result<()> {
    template.data.write_word(0, 0);
    template.data.write_word(8, 0);
    interrupt_every(Duration::from_millis(5))?;
    let stopped = (0..1000).find_map(|_| match vm.run() {
        Stop::Interrupted if template.data.read_word(0) == 1 => Some(Ok(())),
        Stop::Interrupted => None,
        other => Some(Err(other)),
    });
    interrupt_every(Duration::ZERO)?;
    match stopped.context("the service never ran")? {
        Ok(()) => Ok(()),
        Err(other) => anyhow::bail!("the call ended with {other:?}"),
    }
}

/// Sends SIGALRM in intervals, or no more.
pub fn interrupt_every(interval: Duration) -> Result<()> {
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

/// What user space sees of a vCPU's state.
fn shown(vm: &Vm) -> Result<(kvm_regs, kvm_sregs, kvm_vcpu_events)> {
    Ok((
        vm.vcpu.get_regs()?,
        vm.vcpu.get_sregs()?,
        vm.vcpu.get_vcpu_events()?,
    ))
}

/// All getters tell one story of a call under way: what an abort would leave.
fn getters() -> Result<()> {
    for right in [RIGHT_FAST, RIGHT_STRICT] {
        let template = Template::sealed(WAIT)?;
        let vm = inside_a_call(&template, right)?;
        expect_aborted_registers(&vm)?;
        let during = shown(&vm)?;
        // Looking did not end the call.
        ensure!(sys::stats(&vm.vcpu, 0)?.aborts == 0, "the call was aborted");
        let exception = during.2.exception;
        ensure!(
            exception.nr == 6 && (exception.pending | exception.injected) != 0,
            "right {right}: #UD is not pending: {exception:?}"
        );
        vm.vcpu.set_mp_state(kvm_mp_state {
            mp_state: KVM_MP_STATE_RUNNABLE,
        })?;
        ensure!(
            sys::stats(&vm.vcpu, 0)?.aborts == 1,
            "the call was not aborted"
        );
        let after = shown(&vm)?;
        ensure!(
            during == after,
            "right {right}: during the call {during:x?}, after its abort {after:x?}"
        );
    }
    Ok(())
}

fn resume() -> Result<()> {
    for right in [RIGHT_FAST, RIGHT_STRICT] {
        let template = Template::sealed(WAIT)?;
        let mut vm = inside_a_call(&template, right)?;
        template.data.write_word(8, 55);
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
        ("KVM_SET_FPU", |vm| {
            Ok(vm.vcpu.set_fpu(&vm.vcpu.get_fpu()?)?)
        }),
        ("KVM_SET_XCRS", |vm| {
            Ok(vm.vcpu.set_xcrs(&vm.vcpu.get_xcrs()?)?)
        }),
        ("KVM_SET_XSAVE", |vm| {
            // SAFETY: the VM has no feature by request, so the state has 4096 bytes.
            Ok(unsafe { vm.vcpu.set_xsave(&vm.vcpu.get_xsave()?) }?)
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
    let template = Template::sealed(WAIT)?;
    for (name, set) in SETTERS {
        let vm = inside_a_call(&template, RIGHT_FAST)?;
        set(&vm)?;
        ensure!(sys::stats(&vm.vcpu, 0)?.aborts == 1, "{name} did not abort");
        expect_aborted_registers(&vm)?;
    }
    // New registers take the place of the call altogether.
    let mut vm = inside_a_call(&template, RIGHT_FAST)?;
    vm.memory.write(0x2000, &[0xb0, 9, OUT[0], OUT[1]]); // mov al, 9; out
    let mut regs = vm.vcpu.get_regs()?;
    regs.rip = CODE + 0x1000;
    vm.vcpu.set_regs(&regs)?;
    ensure!(
        sys::stats(&vm.vcpu, 0)?.aborts == 1,
        "KVM_SET_REGS did not abort"
    );
    expect_stop(&mut vm, &Stop::Out(9))
}

fn nmi() -> Result<()> {
    for right in [RIGHT_FAST, RIGHT_STRICT] {
        let template = Template::sealed(WAIT)?;
        let mut vm = inside_a_call(&template, right)?;
        sys::nmi(&vm.vcpu)?;
        // Run on with the NMI pending: it must wait, however long the call takes.
        interrupt_every(Duration::from_millis(5))?;
        let stop = vm.run();
        interrupt_every(Duration::ZERO)?;
        ensure!(
            stop == Stop::Interrupted,
            "right {right}: with an NMI pending: {stop:?}"
        );
        let stats = sys::stats(&vm.vcpu, 0)?;
        ensure!(
            stats.aborts == 0 && stats.deferred_leaves == 0,
            "right {right}: {stats:?}"
        );
        // The call returns, then the NMI arrives, for which the guest has no handler.
        template.data.write_word(8, 55);
        expect_stop(&mut vm, &Stop::Shutdown)?;
        let stats = sys::stats(&vm.vcpu, 0)?;
        ensure!(
            stats.aborts == 0 && stats.deferred_leaves == 1,
            "right {right}: {stats:?}"
        );
        let regs = vm.vcpu.get_regs()?;
        ensure!(
            regs.rdx == 55,
            "right {right}: the call returned {:#x}",
            regs.rdx
        );
    }
    Ok(())
}

fn memory_slots() -> Result<()> {
    let template = Template::sealed(WAIT)?;
    let mut vm = inside_a_call(&template, RIGHT_FAST)?;
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
    template.data.write_word(8, 55);
    expect_stop(&mut vm, &Stop::Out(0))?;
    ensure!(
        vm.vcpu.get_regs()?.rdx == 55,
        "the call returned {:#x}",
        vm.vcpu.get_regs()?.rdx
    );
    Ok(())
}

fn detach() -> Result<()> {
    let template = Template::sealed(WAIT)?;
    let mut vm = inside_a_call(&template, RIGHT_FAST)?;
    sys::detach(&vm.vcpu, &DetachEptView::default())?;
    expect_aborted_registers(&vm)?;
    expect_stop(&mut vm, &Stop::Shutdown)
}
