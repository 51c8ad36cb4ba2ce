//! Vector registers of a service: what the guest and user space find in them when a call has been
//! aborted, and while it is under way.

use std::time::Duration;

use anyhow::{Result, ensure};
use kvm_bindings::{kvm_msi, kvm_xcrs};
use kvm_ioctls::Kvm;
use postern_abi::kvm::{ATTACH_EXIT_ON_ABORT, RIGHT_FAST, RIGHT_STRICT};
use postern_abi::view::{DATA_GVA, IMAGE_GVA};

use crate::calls::{call_code, expect_stop, interrupt_every, stop_inside};
use crate::guest::{OUT, SMEP_SMAP, Stop, Template, Vm, VmOptions, attach_argument};
use crate::{Test, skip, sys};

pub const TESTS: &[Test] = &[
    ("an abort leaves nothing in vector registers", fault),
    ("INIT leaves nothing in vector registers", init),
    ("getters show no vector register of a call", getters),
    (
        "getters show no vector register that a service has cleared",
        cleared,
    ),
    ("AVX in a service where it is off aborts the call", off),
];

/// CR4.OSXSAVE.
const OSXSAVE: u64 = 1 << 18;
/// CR0.TS.
const TS: u64 = 1 << 3;
/// XCR0 with x87, SSE and AVX.
const XCR0: u64 = 7;
/// Offset in the data of what a service has in its vector registers.
const SECRET: usize = 32;

/// A service that fills all vector registers with the data at [`SECRET`] and then goes on with
/// `then`, with [`DATA_GVA`] in RAX.
fn filling(then: &[u8]) -> Vec<u8> {
    let mut code = vec![0x48, 0xb8];
    code.extend_from_slice(&DATA_GVA.to_le_bytes());
    for register in 0..16u8 {
        // vmovups ymm, [rax+SECRET]
        let high = if register < 8 { 0xfc } else { 0x7c };
        code.extend_from_slice(&[0xc5, high, 0x10, 0x40 | (register & 7) << 3, SECRET as u8]);
    }
    code.extend_from_slice(then);
    code
}

/// `mov rax, [0]`.
const FAULT: [u8; 8] = [0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0];

/// Puts 1 into the data's first word, and waits until the second is not 0: `mov qword [rax], 1;
/// 1: mov rcx, [rax+8]; test rcx, rcx; jz 1b`.
const WAIT: [u8; 16] = [
    0x48, 0xc7, 0x00, 1, 0, 0, 0, 0x48, 0x8b, 0x48, 0x08, 0x48, 0x85, 0xc9, 0x74, 0xf7,
];

/// `vzeroall`.
const CLEAR: [u8; 3] = [0xc5, 0xfc, 0x77];
const RET: [u8; 1] = [0xc3];

/// A template of such a service.
fn template(then: &[u8]) -> Result<Template> {
    let template = Template::sealed(&filling(then))?;
    for word in 0..4 {
        template
            .data
            .write_word(SECRET + word * 8, 0x5ec0_ffee_5ec0_ffee);
    }
    Ok(template)
}

fn has_avx() -> Result<bool> {
    let cpuid = Kvm::new()?.get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)?;
    let leaf = cpuid.as_slice().iter().find(|entry| entry.function == 1);
    Ok(leaf.is_some_and(|leaf| leaf.ecx & 1 << 28 != 0))
}

const NO_AVX: &str = "this processor has no AVX";

/// A VM that makes a call, with AVX on in its vCPU.
fn calling(template: &Template, right: u32, flags: u32) -> Result<Vm> {
    let options = VmOptions {
        cr4: SMEP_SMAP | OSXSAVE,
        ..VmOptions::default()
    };
    let vm = Vm::new(&call_code(), options)?;
    let mut xcrs = kvm_xcrs {
        nr_xcrs: 1,
        ..Default::default()
    };
    xcrs.xcrs[0].value = XCR0;
    vm.vcpu.set_xcrs(&xcrs)?;
    let grant = template.grant()?;
    let mut argument = attach_argument(&grant, right);
    argument.flags = flags;
    sys::attach(&vm.vcpu, &argument)?;
    Ok(vm)
}

/// The vector registers that user space sees, all bytes of them.
fn shown(vm: &Vm) -> Result<Vec<u8>> {
    let xsave = vm.vcpu.get_xsave()?;
    let bytes: Vec<u8> = xsave
        .region
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    // Lower halves, as FXSAVE has them, and upper halves (Intel SDM volume 1, "Standard Form of
    // XSAVE Area"; AVX state is at 576 on all processors).
    let mut shown = [&bytes[160..416], &bytes[576..832]].concat();
    shown.extend(vm.vcpu.get_fpu()?.xmm.as_flattened());
    Ok(shown)
}

fn expect_nothing(vm: &Vm, when: &str) -> Result<()> {
    let shown = shown(vm)?;
    let left = shown.iter().filter(|byte| **byte != 0).count();
    ensure!(
        left == 0,
        "{when}, {left} bytes of vector registers are shown: {shown:x?}"
    );
    Ok(())
}

/// Where [`store`] puts registers in the guest's memory.
const STORED: usize = 0x4000;

/// Stores four vector registers: `vmovups [STORED + n * 32], ymm`, for the registers 0, 3, 8 and 15.
fn store() -> Vec<u8> {
    let mut code = Vec::new();
    for (n, register) in [0u8, 3, 8, 15].into_iter().enumerate() {
        let high = if register < 8 { 0xfc } else { 0x7c };
        code.extend_from_slice(&[0xc5, high, 0x11, 0x04 | (register & 7) << 3, 0x25]);
        code.extend_from_slice(&(STORED as u32 + n as u32 * 32).to_le_bytes());
    }
    code.extend_from_slice(&OUT);
    code
}

/// The guest itself looks into its registers.
fn expect_guest_finds_nothing(vm: &mut Vm) -> Result<()> {
    for word in 0..16 {
        vm.memory.write_word(STORED + word * 8, u64::MAX);
    }
    vm.restart(&store())?;
    expect_stop(vm, &Stop::Out(0))?;
    let found: Vec<u64> = (0..16)
        .map(|word| vm.memory.read_word(STORED + word * 8))
        .collect();
    ensure!(found == [0; 16], "the guest finds {found:x?}");
    Ok(())
}

fn fault() -> Result<()> {
    if !has_avx()? {
        return skip(NO_AVX);
    }
    for right in [RIGHT_FAST, RIGHT_STRICT] {
        let template = template(&FAULT)?;
        let mut vm = calling(&template, right, ATTACH_EXIT_ON_ABORT)?;
        expect_stop(&mut vm, &Stop::Aborted)?;
        let at = IMAGE_GVA + filling(&[]).len() as u64;
        ensure!(vm.abort_report().rip == at, "it never used a register");
        expect_nothing(&vm, "after the abort")?;
        expect_guest_finds_nothing(&mut vm)?;
    }
    Ok(())
}

/// A VM whose vCPU was interrupted inside a service that waits.
fn inside(template: &Template, right: u32) -> Result<Vm> {
    let mut vm = calling(template, right, 0)?;
    stop_inside(&mut vm, template)?;
    Ok(vm)
}

/// INIT keeps vector registers (Intel SDM volume 3, "Processor State After Reset").
fn init() -> Result<()> {
    if !has_avx()? {
        return skip(NO_AVX);
    }
    let template = template(&[&WAIT[..], &RET].concat())?;
    let mut vm = inside(&template, RIGHT_FAST)?;
    vm.fd.signal_msi(kvm_msi {
        address_lo: 0xfee0_0000,
        data: 0x500,
        ..Default::default()
    })?;
    // The reset vector has no memory; what becomes of that is no question here.
    interrupt_every(Duration::from_millis(20))?;
    vm.run();
    interrupt_every(Duration::ZERO)?;
    ensure!(sys::stats(&vm.vcpu, 0)?.aborts == 1, "it was not aborted");
    expect_nothing(&vm, "after INIT")
}

fn getters() -> Result<()> {
    if !has_avx()? {
        return skip(NO_AVX);
    }
    for right in [RIGHT_FAST, RIGHT_STRICT] {
        let template = template(&[&WAIT[..], &RET].concat())?;
        let mut vm = inside(&template, right)?;
        expect_nothing(&vm, "during the call")?;
        ensure!(sys::stats(&vm.vcpu, 0)?.aborts == 0, "the call was aborted");
        // It goes on with what it had, and hands it out, which is why services must not.
        template.data.write_word(8, 55);
        expect_stop(&mut vm, &Stop::Out(0))?;
        let shown = shown(&vm)?;
        ensure!(
            shown.iter().all(|byte| *byte != 0),
            "right {right}: the registers were lost: {shown:x?}"
        );
    }
    Ok(())
}

/// What the CPU wrote into memory during the call is not seen, either.
fn cleared() -> Result<()> {
    if !has_avx()? {
        return skip(NO_AVX);
    }
    let template = template(&[&WAIT[..], &CLEAR, &RET].concat())?;
    let mut vm = inside(&template, RIGHT_FAST)?;
    template.data.write_word(8, 55);
    expect_stop(&mut vm, &Stop::Out(0))?;
    expect_nothing(&vm, "after the call")?;
    expect_guest_finds_nothing(&mut vm)
}

fn off() -> Result<()> {
    let template = template(&RET)?;
    for (what, cr0, cr4) in [("CR4.OSXSAVE clear", 0, 0), ("CR0.TS set", TS, OSXSAVE)] {
        if cr4 != 0 && !has_avx()? {
            return skip(NO_AVX);
        }
        let mut vm = calling(&template, RIGHT_FAST, ATTACH_EXIT_ON_ABORT)?;
        let mut sregs = vm.vcpu.get_sregs()?;
        sregs.cr0 |= cr0;
        sregs.cr4 = sregs.cr4 & !OSXSAVE | cr4;
        vm.vcpu.set_sregs(&sregs)?;
        expect_stop(&mut vm, &Stop::Aborted)?;
        let report = vm.abort_report();
        // The first vector instruction, behind a move.
        ensure!(report.rip == IMAGE_GVA + 10, "{what}: {report:x?}");
        ensure!(sys::stats(&vm.vcpu, 0)?.aborts == 1, "{what}: not counted");
    }
    Ok(())
}
