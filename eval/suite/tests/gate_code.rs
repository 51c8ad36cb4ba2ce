//! The code pages that the kernel makes for views, disassembled from every byte.
//!
//! A guest can enter the gate view so that any byte of page B is the next instruction. From each of
//! the 4096 offsets, through both outcomes of every branch, the gate must not
//!
//! * write memory anywhere but at the constant address of the one list entry;
//! * branch backward, or branch at all once the entry is armed;
//! * reach VMFUNC with the entry armed and an ECX that is not the constant index;
//! * read memory at a guest's address and then get home (the list holds host-physical addresses).
//!
//! Whatever faults, or takes an exit, ends in the abort of the call and needs no further look.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod series;

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic,
    OpAccess, OpKind, Register,
};
use postern_abi::PAGE_SIZE;
use postern_abi::view::{
    DEFAULT_INDEX, GATE_GVA, GATE_INDEX, IMAGE_GVA, LIST_GVA, SERVICE_INDEX, STUB_GVA,
};

const PAGE: usize = PAGE_SIZE as usize;

/// First byte of the list entry that the gate arms.
const ENTRY: u64 = LIST_GVA + SERVICE_INDEX as u64 * 8;

struct Pages {
    gate_fast: Vec<u8>,
    gate_strict: Vec<u8>,
    stub_fast: Vec<u8>,
    stub_strict: Vec<u8>,
}

/// The pages of each series.
fn kernel_pages() -> Vec<Pages> {
    series::all().iter().map(pages_of).collect()
}

fn pages_of(series: &series::Series) -> Pages {
    let code = "arch/x86/kvm/vmx/ept_view_code.c";
    let header = "include/uapi/linux/kvm_ept_view.h";
    let folder = series::added_files(series, &[code, header]);
    let tests = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernel");
    let vmx = folder.path().join("arch/x86/kvm/vmx");
    std::fs::copy(tests.join("gate_shim.h"), vmx.join("ept_view.h")).unwrap();
    std::fs::copy(tests.join("gate_dump.c"), vmx.join("gate_dump.c")).unwrap();
    let bytes = series::compile_and_run(
        folder.path(),
        "arch/x86/kvm/vmx/gate_dump.c",
        &["include/uapi", "arch/x86/kvm/vmx"],
    );
    assert_eq!(bytes.len(), 4 * PAGE);
    let page = |index: usize| bytes[index * PAGE..(index + 1) * PAGE].to_vec();
    Pages {
        gate_fast: page(0),
        gate_strict: page(1),
        stub_fast: page(2),
        stub_strict: page(3),
    }
}

/// The bits of ECX that do not depend on the guest.
#[derive(Clone, Copy, PartialEq)]
struct Ecx {
    known: u32,
    value: u32,
}

impl Ecx {
    const GUESTS: Ecx = Ecx { known: 0, value: 0 };

    fn constant(value: u32) -> Ecx {
        Ecx {
            known: u32::MAX,
            value,
        }
    }

    fn can_be(self, value: u32) -> bool {
        value & self.known == self.value
    }
}

/// What is known of the processor on one path of execution through the gate.
#[derive(Clone, Copy)]
struct Execution {
    ip: u64,
    armed: bool,
    ecx: Ecx,
    /// Memory at an address from a register was read.
    read: bool,
}

fn decode(page: &[u8], ip: u64) -> Option<Instruction> {
    let offset = (ip - GATE_GVA) as usize;
    let mut decoder = Decoder::with_ip(64, &page[offset..], ip, DecoderOptions::NONE);
    let instruction = decoder.decode();
    // Invalid, or it runs into page C, which no view maps: a fault.
    (!instruction.is_invalid()).then_some(instruction)
}

/// Privileged or exiting at CPL 3 whatever the guest has set up: the call is aborted.
fn always_aborts(instruction: &Instruction) -> bool {
    use Mnemonic::*;
    matches!(
        instruction.mnemonic(),
        Hlt | In
            | Insb
            | Insw
            | Insd
            | Out
            | Outsb
            | Outsw
            | Outsd
            | Int
            | Int1
            | Int3
            | Syscall
            | Sysenter
            | Ud2
    )
}

fn track_ecx(ecx: Ecx, instruction: &Instruction, info: &mut InstructionInfoFactory) -> Ecx {
    match instruction.code() {
        Code::Xor_rm32_r32 | Code::Xor_r32_rm32
            if instruction.op0_register() == Register::ECX
                && instruction.op1_register() == Register::ECX =>
        {
            Ecx::constant(0)
        }
        Code::Mov_r8_imm8 if instruction.op0_register() == Register::CL => Ecx {
            known: ecx.known | 0xff,
            value: ecx.value & !0xff | u32::from(instruction.immediate8()),
        },
        Code::Mov_r32_imm32 if instruction.op0_register() == Register::ECX => {
            Ecx::constant(instruction.immediate32())
        }
        _ => {
            let writes = info.info(instruction).used_registers().iter().any(|used| {
                used.register().full_register() == Register::RCX
                    && !matches!(used.access(), OpAccess::Read | OpAccess::CondRead)
            });
            if writes { Ecx::GUESTS } else { ecx }
        }
    }
}

/// All breaches of the criterion from one offset.
fn breaches(page: &[u8], offset: usize) -> Vec<String> {
    let mut found = Vec::new();
    let mut info = InstructionInfoFactory::new();
    let mut executions = vec![Execution {
        ip: GATE_GVA + offset as u64,
        armed: false,
        ecx: Ecx::GUESTS,
        read: false,
    }];
    let mut steps = 0;
    while let Some(mut execution) = executions.pop() {
        loop {
            steps += 1;
            assert!(steps < 100_000, "offset {offset:#x} does not end");
            if !(GATE_GVA..GATE_GVA + PAGE_SIZE).contains(&execution.ip) {
                break; // not mapped in the gate view: a fault
            }
            let Some(instruction) = decode(page, execution.ip) else {
                break;
            };
            if always_aborts(&instruction) {
                break;
            }
            let at = format!(
                "entry {offset:#x}: {instruction} at {:#x}",
                execution.ip - GATE_GVA
            );

            let mut arms = false;
            for memory in info.info(&instruction).used_memory() {
                let writes = !matches!(
                    memory.access(),
                    OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess
                );
                // iced resolves RIP-relative operands to absolute ones.
                let constant = memory.base() == Register::None && memory.index() == Register::None
                    || instruction.is_ip_rel_memory_operand();
                let address = memory.displacement();
                if writes && constant && (ENTRY..ENTRY + 8).contains(&address) {
                    match instruction.mnemonic() {
                        Mnemonic::And => arms = true,
                        Mnemonic::Bts | Mnemonic::Or => execution.armed = false,
                        _ => found.push(format!("{at}: writes the list entry in another way")),
                    }
                } else if writes {
                    found.push(format!("{at}: writes memory"));
                } else if memory.access() != OpAccess::NoMemAccess && !constant {
                    execution.read = true;
                }
            }
            execution.ecx = track_ecx(execution.ecx, &instruction, &mut info);

            if instruction.mnemonic() == Mnemonic::Vmfunc {
                if execution.armed && execution.ecx != Ecx::constant(SERVICE_INDEX) {
                    found.push(format!("{at}: armed, and ECX is not the constant index"));
                }
                // All other entries of the list are invalid: VMFUNC exits.
                let goes_on =
                    execution.ecx.can_be(DEFAULT_INDEX) || execution.ecx.can_be(GATE_INDEX);
                if execution.read && goes_on {
                    found.push(format!("{at}: leaves after reading memory"));
                }
                if !goes_on {
                    break;
                }
                // ECX may name the gate view itself: go on behind the instruction.
                execution.ip = instruction.next_ip();
                continue;
            }
            execution.armed |= arms;

            match instruction.flow_control() {
                FlowControl::Next => execution.ip = instruction.next_ip(),
                FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch => {
                    if execution.armed {
                        found.push(format!("{at}: branches while the entry is armed"));
                    }
                    let target = instruction.near_branch_target();
                    if instruction.op0_kind() != OpKind::NearBranch64 {
                        break;
                    }
                    if target <= execution.ip && target >= GATE_GVA {
                        found.push(format!("{at}: branches backward"));
                    } else if instruction.flow_control() == FlowControl::ConditionalBranch {
                        executions.push(Execution {
                            ip: target,
                            ..execution
                        });
                    }
                    execution.ip = if instruction.flow_control() == FlowControl::ConditionalBranch {
                        instruction.next_ip()
                    } else if target > execution.ip {
                        target
                    } else {
                        break;
                    };
                }
                // Anywhere in the page: another entry, which is looked at on its own.
                _ => {
                    if execution.armed {
                        found.push(format!("{at}: jumps while the entry is armed"));
                    }
                    break;
                }
            }
        }
    }
    found
}

fn all_breaches(page: &[u8]) -> Vec<String> {
    (0..PAGE)
        .flat_map(|offset| breaches(page, offset))
        .collect()
}

#[test]
fn gate_is_harmless_from_every_byte() {
    for pages in kernel_pages() {
        assert_eq!(all_breaches(&pages.gate_fast), Vec::<String>::new());
        assert_eq!(all_breaches(&pages.gate_strict), Vec::<String>::new());
    }
}

/// The check finds fault with the obvious encodings of the gate.
#[test]
fn obvious_encodings_are_found_out() {
    kernel_pages().iter().for_each(find_fault);
}

fn find_fault(pages: &Pages) {
    let with = |code: &[u8]| {
        let mut page = pages.gate_fast.clone();
        page[7..7 + code.len()].copy_from_slice(code);
        all_breaches(&page)
    };
    // mov ecx, 0xcc: its immediate decodes to add [rax], al.
    assert!(!with(&[0xb9, 0xcc, 0, 0, 0, 0x0f, 0x01, 0xd4]).is_empty());
    // The index set before the arm: VMFUNC with the guest's ECX.
    assert!(!with(&[0x90, 0x90, 0x90, 0x90, 0x0f, 0x01, 0xd4]).is_empty());
    // A store of a register to the list, as the published gate does.
    let mut page = pages.gate_fast.clone();
    let relative = (ENTRY as i64 - (GATE_GVA + 7) as i64) as i32;
    page[..3].copy_from_slice(&[0x48, 0x89, 0x15]);
    page[3..7].copy_from_slice(&relative.to_le_bytes());
    assert!(!all_breaches(&page).is_empty());
    // A leave before the way home.
    let mut page = pages.gate_strict.clone();
    page[PAGE - 5..].copy_from_slice(&[0x31, 0xc9, 0x0f, 0x01, 0xd4]);
    assert!(!all_breaches(&page).is_empty());
}

/// Follows the stub from the gate's VMFUNC to the last one, through a service that only returns.
fn stub_instructions(page: &[u8], end: u64) -> u64 {
    let mut ip = STUB_GVA;
    let mut count = 0;
    while ip < end {
        let instruction = decode(page, ip).expect("the stub decodes");
        count += 1;
        ip = match instruction.flow_control() {
            FlowControl::Call => {
                assert_eq!(instruction.near_branch_target(), IMAGE_GVA + 0x40);
                count += 2; // xor eax, eax; ret
                instruction.next_ip()
            }
            FlowControl::UnconditionalBranch => instruction.near_branch_target(),
            _ => instruction.next_ip(),
        };
    }
    assert_eq!(ip, end);
    count
}

#[test]
fn calls_are_as_short_as_promised() {
    kernel_pages().iter().for_each(count_instructions);
}

fn count_instructions(pages: &Pages) {
    // Page A (3) and the caller's call, the gate (4), page C (2).
    let around = 3 + 1 + 4 + 2;
    let fast = around + stub_instructions(&pages.stub_fast, GATE_GVA + PAGE_SIZE);
    assert!(fast <= 30, "fast mode: {fast} instructions");
    // The tail in the gate: bts, shr, vmfunc.
    let strict = around + 3 + stub_instructions(&pages.stub_strict, GATE_GVA + PAGE_SIZE - 13);
    assert!(strict <= 36, "strict mode: {strict} instructions");
}
