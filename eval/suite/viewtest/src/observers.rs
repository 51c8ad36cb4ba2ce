//! What could watch a service, or learn from an abort: breakpoints, single steps, records of
//! branches, stack pointers. And what the host sees of an abort.

use std::ffi::CString;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kvm_bindings::{
    KVM_MP_STATE_RUNNABLE, Msrs, kvm_debugregs, kvm_mp_state, kvm_msi, kvm_msr_entry,
};
use postern_abi::kvm::{
    ABORT_BY_DETACH, ABORT_BY_INIT, ABORT_BY_IOCTL, ABORT_BY_REVOKE, ATTACH_EXIT_ON_ABORT,
    AttachEptView, DetachEptView, RIGHT_FAST, RIGHT_STRICT,
};
use postern_abi::view::{GATE_GVA, IMAGE_GVA, SERVICE_INDICES, STACK_GVA, STUB_GVA, gate_index};

use crate::calls::{expect_aborted_at, expect_stop, inside_a_call, interrupt_every};
use crate::guest::{
    ABORTED, ADD, CODE, FAULT, ID, STACK, Stop, TO_USER, Template, Vm, VmOptions, WAIT, and_out,
    attach_argument, call_slot,
};
use crate::{DEBUG, Test, omits, skip, sys};

pub const TESTS: &[Test] = &[
    (
        "no breakpoint of user space observes a service",
        breakpoint_by_user_space,
    ),
    (
        "no breakpoint of the guest observes a service",
        breakpoint_by_guest,
    ),
    ("no record of branches observes a service", branch_records),
    ("a single step ends at the gate", single_step),
    (
        "an abort in the gate hands out no stack pointer",
        stack_pointer,
    ),
    (
        "an abort in the stub hands out no stack pointer",
        stack_pointer_in_stub,
    ),
    ("the tracepoint tells each abort's reason", trace),
    (
        "the tracepoint tells the addresses of a fault",
        trace_addresses,
    ),
];

/// Enables one breakpoint on execution.
const DR7_L0: u64 = 0x401;

fn breakpoint(address: u64, dr7: u64) -> kvm_debugregs {
    kvm_debugregs {
        db: [address, 0, 0, 0],
        dr6: 0xffff_0ff0,
        dr7,
        ..Default::default()
    }
}

/// The call was refused before any view was active.
fn expect_refused(vm: &mut Vm, what: &str) -> Result<()> {
    let stop = vm.run();
    let stats = sys::stats(&vm.vcpu, 0)?;
    let at = (stop == Stop::Aborted).then(|| vm.abort_report());
    ensure!(
        stop == Stop::Shutdown && stats.exits_in_view == 0 && stats.armed == 0,
        "{what}: a view was entered, and the vCPU stopped with {stop:x?} {at:x?}"
    );
    Ok(())
}

fn breakpoint_by_user_space() -> Result<()> {
    let code = and_out(call_slot(0, 5, 7));
    for right in [RIGHT_FAST, RIGHT_STRICT] {
        let template = Template::sealed(ADD)?;
        // Each of the four, local and global.
        for enable in 0..8 {
            let mut vm = Vm::attached(&code, &template, right, ATTACH_EXIT_ON_ABORT)?;
            let mut registers = breakpoint(IMAGE_GVA, 0x400 | 1 << enable);
            registers.db = [IMAGE_GVA; 4];
            vm.vcpu.set_debug_regs(&registers)?;
            expect_refused(&mut vm, &format!("DR7 {:#x}", registers.dr7))?;
            // Without it the same vCPU can call; LE and GE enable nothing.
            vm.vcpu.set_debug_regs(&breakpoint(IMAGE_GVA, 0x700))?;
            vm.restart(&code)?;
            expect_stop(&mut vm, &Stop::Out(0))?;
            ensure!(sys::stats(&vm.vcpu, 0)?.armed == 1, "it is not armed");
        }
        // Set while a call is under way.
        let template = Template::sealed(WAIT)?;
        let mut vm = inside_a_call(&template, right)?;
        vm.vcpu.set_debug_regs(&breakpoint(IMAGE_GVA, DR7_L0))?;
        ensure!(sys::stats(&vm.vcpu, 0)?.aborts == 1, "it was not aborted");
        vm.restart(&code)?;
        expect_stop(&mut vm, &Stop::Shutdown)?;
        ensure!(sys::stats(&vm.vcpu, 0)?.armed == 0, "it is armed");
    }
    Ok(())
}

/// Code at CPL 0 that reads DR7, after which KVM would let it have the debug registers, sets a
/// breakpoint, and goes to [`CODE`] at CPL 3.
fn set_breakpoint(address: u64, dr7: u64) -> Vec<u8> {
    // mov rax, dr7; mov rax, address; mov dr0, rax; mov eax, dr7; mov dr7, rax
    let mut code = vec![0x0f, 0x21, 0xf8, 0x48, 0xb8];
    code.extend_from_slice(&address.to_le_bytes());
    code.extend_from_slice(&[0x0f, 0x23, 0xc0, 0xb8]);
    code.extend_from_slice(&(dr7 as u32).to_le_bytes());
    code.extend_from_slice(&[0x0f, 0x23, 0xf8]);
    code.extend_from_slice(&TO_USER);
    code
}

/// A VM that starts at CPL 0 with `kernel`, then makes a call at CPL 3.
fn with_kernel(kernel: &[u8], template: &Template, right: u32) -> Result<Vm> {
    let options = VmOptions {
        kernel: true,
        ..VmOptions::default()
    };
    let vm = Vm::new(kernel, options)?;
    vm.memory.write(CODE as usize, &and_out(call_slot(0, 5, 7)));
    let grant = template.grant()?;
    let argument = AttachEptView {
        flags: ATTACH_EXIT_ON_ABORT,
        ..attach_argument(&grant, right)
    };
    sys::attach(&vm.vcpu, &argument)?;
    Ok(vm)
}

fn breakpoint_by_guest() -> Result<()> {
    let template = Template::sealed(ADD)?;
    for right in [RIGHT_FAST, RIGHT_STRICT] {
        let mut vm = with_kernel(&set_breakpoint(IMAGE_GVA, DR7_L0), &template, right)?;
        expect_refused(&mut vm, "a breakpoint")?;
        // That the guest's code as such is no obstacle.
        let mut vm = with_kernel(&set_breakpoint(IMAGE_GVA, 0x400), &template, right)?;
        expect_stop(&mut vm, &Stop::Out(0))?;
        ensure!(vm.vcpu.get_regs()?.rdx == 12, "the call's result");
    }
    Ok(())
}

const DEBUGCTL: u32 = 0x1d9;
const LBR_AND_BTF: u64 = 3;

fn branch_records() -> Result<()> {
    // KVM says in the log what it ignores, which here is no complaint.
    let quiet = "/sys/module/kvm/parameters/report_ignored_msrs";
    let before = std::fs::read_to_string(quiet)?;
    std::fs::write(quiet, "N")?;
    let result = set_branch_records();
    std::fs::write(quiet, before.trim())?;
    result
}

fn set_branch_records() -> Result<()> {
    let template = Template::sealed(ADD)?;
    let code = and_out(call_slot(0, 5, 7));
    // By user space. KVM lets a VM have what it emulates, which may be nothing.
    let mut vm = Vm::attached(&code, &template, RIGHT_FAST, 0)?;
    let entry = |data| kvm_msr_entry {
        index: DEBUGCTL,
        data,
        ..Default::default()
    };
    vm.vcpu
        .set_msrs(&Msrs::from_entries(&[entry(LBR_AND_BTF)])?)?;
    let mut read = Msrs::from_entries(&[entry(0)])?;
    ensure!(vm.vcpu.get_msrs(&mut read)? == 1, "DEBUGCTL cannot be read");
    if read.as_slice()[0].data & LBR_AND_BTF != 0 {
        expect_refused(&mut vm, "DEBUGCTL by user space")?;
    } else {
        expect_stop(&mut vm, &Stop::Out(0))?;
    }
    // By the guest: mov ecx, DEBUGCTL; mov eax, 3; xor edx, edx; wrmsr; rdmsr; mov rbx, rax
    let mut kernel = vec![0xb9];
    kernel.extend_from_slice(&DEBUGCTL.to_le_bytes());
    kernel.extend_from_slice(&[0xb8, LBR_AND_BTF as u8, 0, 0, 0, 0x31, 0xd2, 0x0f, 0x30]);
    kernel.extend_from_slice(&[0x0f, 0x32, 0x48, 0x89, 0xc3]);
    kernel.extend_from_slice(&TO_USER);
    let mut vm = with_kernel(&kernel, &template, RIGHT_FAST)?;
    match vm.run() {
        Stop::Out(_) => {
            let kept = vm.vcpu.get_regs()?.rbx;
            ensure!(kept & LBR_AND_BTF == 0, "armed with DEBUGCTL {kept:#x}");
        }
        Stop::Shutdown => {
            let stats = sys::stats(&vm.vcpu, 0)?;
            ensure!(stats.exits_in_view == 0, "{stats:?}");
        }
        other => bail!("it stopped with {other:?}"),
    }
    Ok(())
}

/// `mov rsp, rsp; xor eax, eax; mov ecx, gate; mov r11, to; jmp r11`.
fn jump_with_stack(rsp: u64, to: u64) -> Vec<u8> {
    let mut code = vec![0x48, 0xbc];
    code.extend_from_slice(&rsp.to_le_bytes());
    code.extend_from_slice(&[0x31, 0xc0, 0xb9]);
    code.extend_from_slice(&gate_index(0).to_le_bytes());
    code.extend_from_slice(&[0x49, 0xbb]);
    code.extend_from_slice(&to.to_le_bytes());
    code.extend_from_slice(&[0x41, 0xff, 0xe3]);
    code
}

fn single_step() -> Result<()> {
    let template = Template::sealed(ADD)?;
    for right in [RIGHT_FAST, RIGHT_STRICT] {
        let mut vm = Vm::attached(&[], &template, right, ATTACH_EXIT_ON_ABORT)?;
        // The popf in front of page A's VMFUNC sets TF: the step is over in the gate.
        vm.memory.write(0x21000 - 4, &[0x9d]);
        let mut code = vec![0x68, 0x02, 0x33, 0x00, 0x00]; // push 0x3302
        code.extend_from_slice(&jump_with_stack(STACK - 8, ABORTED - 1));
        vm.restart(&code)?;
        expect_stop(&mut vm, &Stop::Aborted)?;
        let report = vm.abort_report();
        ensure!(
            report.view == gate_index(0) && report.rip == GATE_GVA,
            "right {right}: {report:x?}"
        );
        expect_aborted_at(&vm, STACK)?;
        let flags = vm.vcpu.get_regs()?.rflags;
        ensure!(flags & 0x100 == 0, "TF is set after the abort");
        vm.restart(&and_out(call_slot(0, 5, 7)))?;
        expect_stop(&mut vm, &Stop::Out(0))?;
    }
    Ok(())
}

/// A stack pointer in the view's stack, which a guest may have, too.
const IN_VIEW_STACK: u64 = STACK_GVA + 0x1000;

/// One process calls; another, whose stack pointer looks like the view's, stops itself at a byte of
/// the gate that is HLT. It must get its own stack pointer back, not the other's.
fn stack_pointer() -> Result<()> {
    let template = Template::sealed(ADD)?;
    for right in [RIGHT_FAST, RIGHT_STRICT] {
        let code = and_out(call_slot(0, 5, 7));
        let mut vm = Vm::attached(&code, &template, right, ATTACH_EXIT_ON_ABORT)?;
        expect_stop(&mut vm, &Stop::Out(0))?;
        let vmfunc = vm.enter_gate_at(0x800);
        vm.restart(&jump_with_stack(IN_VIEW_STACK, vmfunc))?;
        expect_stop(&mut vm, &Stop::Aborted)?;
        let report = vm.abort_report();
        ensure!(
            report.view == gate_index(0) && report.rip == GATE_GVA + 0x800,
            "right {right}: {report:x?}"
        );
        expect_aborted_at(&vm, IN_VIEW_STACK)?;
        // After an abort in the service, too: what was saved for that call is forgotten.
        let faulty = Template::sealed(FAULT)?;
        let mut vm = Vm::attached(&code, &faulty, right, ATTACH_EXIT_ON_ABORT)?;
        expect_stop(&mut vm, &Stop::Aborted)?;
        ensure!(
            vm.abort_report().view == SERVICE_INDICES[0],
            "not in the service"
        );
        expect_aborted_at(&vm, STACK - 8)?;
        let vmfunc = vm.enter_gate_at(0x800);
        vm.restart(&jump_with_stack(IN_VIEW_STACK, vmfunc))?;
        expect_stop(&mut vm, &Stop::Aborted)?;
        expect_aborted_at(&vm, IN_VIEW_STACK)?;
    }
    Ok(())
}

/// In front of the instruction of the stub that saves the stack pointer, what is saved is an older
/// call's. A guest can stop itself there only where breakpoints are not kept out.
fn stack_pointer_in_stub() -> Result<()> {
    if !omits(DEBUG)? {
        return skip("only a module without the defence against breakpoints can stop there");
    }
    let template = Template::sealed(ADD)?;
    for right in [RIGHT_FAST, RIGHT_STRICT] {
        let mut stops = 0;
        for offset in 0..96 {
            let code = and_out(call_slot(0, 5, 7));
            let mut vm = Vm::attached(&code, &template, right, ATTACH_EXIT_ON_ABORT)?;
            expect_stop(&mut vm, &Stop::Out(0))?;
            vm.vcpu
                .set_debug_regs(&breakpoint(STUB_GVA + offset, DR7_L0))?;
            vm.restart(&jump_with_stack(IN_VIEW_STACK, ABORTED))?;
            match vm.run() {
                Stop::Aborted => {
                    stops += 1;
                    expect_aborted_at(&vm, IN_VIEW_STACK)
                        .with_context(|| format!("right {right}, {offset} bytes into the stub"))?;
                }
                // The landing pad returns by a stack that is not there.
                Stop::Shutdown => {}
                other => bail!("it stopped with {other:?}"),
            }
        }
        ensure!(stops > 4, "the breakpoints hit {stops} instructions");
    }
    Ok(())
}

const TRACING: &str = "/sys/kernel/tracing";

/// What the tracepoint of aborts records during `action`: one line each.
fn traced(action: impl FnOnce() -> Result<()>) -> Result<Vec<String>> {
    let path = |name: &str| Path::new(TRACING).join(name);
    let switch = path("events/kvm/kvm_ept_view_abort/enable");
    std::fs::write(path("trace"), "").context("emptying the trace")?;
    std::fs::write(&switch, "1").context("switching the tracepoint on")?;
    let result = action();
    std::fs::write(&switch, "0").context("switching the tracepoint off")?;
    result?;
    let text = std::fs::read_to_string(path("trace"))?;
    Ok(text
        .lines()
        .filter(|line| line.contains("kvm_ept_view_abort:"))
        .map(str::to_owned)
        .collect())
}

/// Whether there is a tracepoint; mounts its file system if it is not.
fn has_tracepoint() -> Result<bool> {
    let there = || {
        Path::new(TRACING)
            .join("events/kvm/kvm_ept_view_abort")
            .exists()
    };
    if there() {
        return Ok(true);
    }
    let (kind, target) = (CString::new("tracefs")?, CString::new(TRACING)?);
    // SAFETY: strings that end in 0; there are no data.
    let result = unsafe {
        libc::mount(
            kind.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            0,
            std::ptr::null(),
        )
    };
    Ok(result == 0 && there())
}

fn trace() -> Result<()> {
    if !has_tracepoint()? {
        return skip("this kernel has no tracing");
    }
    type Abort = (&'static str, u32, fn(&Template, &mut Vm) -> Result<()>);
    const ABORTS: &[Abort] = &[
        ("an ioctl", ABORT_BY_IOCTL, |_, vm| {
            Ok(vm.vcpu.set_mp_state(kvm_mp_state {
                mp_state: KVM_MP_STATE_RUNNABLE,
            })?)
        }),
        ("INIT", ABORT_BY_INIT, |_, vm| {
            // A message to the first APIC with the delivery mode INIT.
            let message = kvm_msi {
                address_lo: 0xfee0_0000,
                data: 0x500,
                ..Default::default()
            };
            vm.fd.signal_msi(message)?;
            // The reset vector has no memory; what becomes of that is no question here.
            interrupt_every(Duration::from_millis(20))?;
            vm.run();
            interrupt_every(Duration::ZERO)
        }),
        ("a revocation", ABORT_BY_REVOKE, |template, vm| {
            ensure!(template.revoke(ID)? == 1, "one grant");
            expect_stop(vm, &Stop::Shutdown)
        }),
        ("detaching", ABORT_BY_DETACH, |_, vm| {
            Ok(sys::detach(&vm.vcpu, &DetachEptView::default())?)
        }),
    ];
    for (what, reason, abort) in ABORTS {
        let template = Template::sealed(WAIT)?;
        let mut vm = inside_a_call(&template, RIGHT_FAST)?;
        let lines = traced(|| abort(&template, &mut vm))?;
        ensure!(
            lines.len() == 1 && tells(&lines[0], *reason),
            "{what} is {reason:#x}, and the trace has {lines:?}"
        );
    }
    // An exit's own reason, of one that was not the last: 48 is an EPT violation.
    let template = Template::sealed(FAULT)?;
    let mut vm = Vm::attached(
        &and_out(call_slot(0, 5, 7)),
        &template,
        RIGHT_FAST,
        ATTACH_EXIT_ON_ABORT,
    )?;
    let lines = traced(|| expect_stop(&mut vm, &Stop::Aborted))?;
    let reason = vm.abort_report().exit_reason;
    ensure!(
        lines.len() == 1 && tells(&lines[0], reason),
        "the reason is {reason}, and the trace has {lines:?}"
    );
    Ok(())
}

/// Whether the tracepoint's addresses are those of the exit, and none where the exit has none.
fn trace_addresses() -> Result<()> {
    if !has_tracepoint()? {
        return skip("this kernel has no tracing");
    }
    const EPT_VIOLATION: u32 = 48;
    // mov [IMAGE_GVA], al: its own code, which it cannot write.
    let mut store = vec![0xa2];
    store.extend_from_slice(&IMAGE_GVA.to_le_bytes());
    const UD2: &[u8] = &[0x0f, 0x0b];
    for (service, violation) in [(&store[..], true), (UD2, false)] {
        let template = Template::sealed(service)?;
        let code = and_out(call_slot(0, 5, 7));
        let mut vm = Vm::attached(&code, &template, RIGHT_FAST, ATTACH_EXIT_ON_ABORT)?;
        let lines = traced(|| expect_stop(&mut vm, &Stop::Aborted))?;
        let report = vm.abort_report();
        ensure!(
            (report.exit_reason == EPT_VIOLATION) == violation
                && (report.gva == IMAGE_GVA) == violation
                && (report.gpa != 0) == violation,
            "wrong report {report:x?}"
        );
        let addresses = format!(
            "gpa {:#x} gva {:#x} rip {:#x}",
            report.gpa, report.gva, report.rip
        );
        ensure!(
            report.rip == IMAGE_GVA && lines.len() == 1 && lines[0].contains(&addresses),
            "it was {addresses}, and the trace has {lines:?}"
        );
    }
    Ok(())
}

/// Whether a line of the trace has this exit reason, as a number or by its name.
fn tells(line: &str, reason: u32) -> bool {
    let name = match reason {
        0 => "EXCEPTION_NMI",
        2 => "TRIPLE_FAULT",
        48 => "EPT_VIOLATION",
        ABORT_BY_IOCTL => "IOCTL",
        ABORT_BY_INIT => "INIT",
        ABORT_BY_REVOKE => "REVOKE",
        ABORT_BY_DETACH => "DETACH",
        _ => return line.contains(&format!("reason {reason:#x}")),
    };
    line.contains(&format!("{reason:#x}")) || line.contains(name)
}
