//! The code pages that the kernel makes for views, the gates of all slots disassembled from every
//! byte.
//!
//! A guest can enter a gate view so that any byte of page B is the next instruction. From each of
//! the 4096 offsets, through both outcomes of every branch, a gate must not
//!
//! * write memory anywhere but at the constant address of its slot's one list entry, and there in
//!   any way but to change bit 63;
//! * branch backward, or branch at all once the entry is armed;
//! * reach VMFUNC with the entry armed and an ECX that is not the constant index, or anywhere but
//!   where the stub begins behind it;
//! * read memory, but for the change of that bit, and then get home (the list holds host-physical
//!   addresses).
//!
//! Whatever faults, or takes an exit, ends in the abort of the call and needs no further look. An
//! address is not looked at for that: none counts as one that faults.
//!
//! A stub is entered at its first instruction alone, from its slot's gate; it is followed from
//! there.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod series;

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic,
    OpAccess, OpKind, Register, UsedMemory,
};
use postern_abi::PAGE_SIZE;
use postern_abi::view::{
    CALL_PAGE_GVA, DEFAULT_INDEX, GATE_GVA, IMAGE_GVA, LIST_GVA, SERVICE_INDICES, SLOTS, STUB_GVA,
    gate_index,
};

const PAGE: usize = PAGE_SIZE as usize;

/// Where the last instructions of a strict gate begin, through which a call leaves.
const STRICT_TAIL_GVA: u64 = GATE_GVA + PAGE_SIZE - 13;

/// The code of one slot for one way to call.
struct Pages {
    slot: u32,
    strict: bool,
    /// Offset behind the stub's save of RSP, as the kernel has it.
    saved_rsp_at: u64,
    gate: Vec<u8>,
    stub: Vec<u8>,
}

impl Pages {
    /// What the pages are, for messages.
    fn name(&self) -> String {
        let right = if self.strict { "strict" } else { "fast" };
        format!("slot {}, {right}", self.slot)
    }

    /// Where the stub ends.
    fn stub_end(&self) -> u64 {
        if self.strict {
            STRICT_TAIL_GVA
        } else {
            GATE_GVA + PAGE_SIZE
        }
    }

    /// EPTP-list index that the gate arms.
    fn service_index(&self) -> u32 {
        SERVICE_INDICES[self.slot as usize]
    }

    /// First byte of the list entry that the gate arms.
    fn entry(&self) -> u64 {
        LIST_GVA + u64::from(self.service_index()) * 8
    }

    /// The same pages with other bytes in the gate.
    fn with_gate(&self, offset: usize, code: &[u8]) -> Pages {
        let mut gate = self.gate.clone();
        gate[offset..offset + code.len()].copy_from_slice(code);
        Pages {
            gate,
            stub: self.stub.clone(),
            ..*self
        }
    }
}

/// The pages of each series, right and slot.
fn kernel_pages() -> Vec<Pages> {
    series::all().iter().flat_map(pages_of).collect()
}

fn pages_of(series: &series::Series) -> Vec<Pages> {
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
    let (rights, slots) = (2, SLOTS as usize);
    assert_eq!(bytes.len(), rights * (4 + slots * 2 * PAGE));
    let mut pages = Vec::new();
    for (right, bytes) in bytes.chunks(bytes.len() / rights).enumerate() {
        let (saved_rsp_at, bytes) = bytes.split_first_chunk().unwrap();
        for (slot, bytes) in (0..).zip(bytes.chunks(2 * PAGE)) {
            let (gate, stub) = bytes.split_at(PAGE);
            pages.push(Pages {
                slot,
                strict: right == 1,
                saved_rsp_at: u32::from_le_bytes(*saved_rsp_at).into(),
                gate: gate.to_vec(),
                stub: stub.to_vec(),
            });
        }
    }
    pages
}

/// The bits of ECX that do not depend on the guest.
#[derive(Clone, Copy, Debug, PartialEq)]
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

    /// Whether a VMFUNC with no entry armed can succeed: all other entries of the list are invalid.
    fn can_switch(self) -> bool {
        self.can_be(DEFAULT_INDEX) || (0..SLOTS).any(|slot| self.can_be(gate_index(slot)))
    }
}

/// What is known of the processor on one path of execution through the gate.
#[derive(Clone, Copy)]
struct Execution {
    ip: u64,
    armed: bool,
    ecx: Ecx,
    /// Memory was read other than to change the list entry's bit 63.
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

/// The address of an operand, if no register and no segment base is part of it.
fn constant_address(instruction: &Instruction, memory: &UsedMemory) -> Option<u64> {
    // iced resolves RIP-relative operands to absolute ones.
    let no_register = memory.base() == Register::None && memory.index() == Register::None
        || instruction.is_ip_rel_memory_operand();
    let no_segment = !matches!(memory.segment(), Register::FS | Register::GS);
    (no_register && no_segment).then(|| memory.displacement())
}

/// What an instruction does to bit 63 of a list entry, and to nothing else.
enum Bit63 {
    Cleared,
    Set,
}

fn changes_bit_63(instruction: &Instruction, address: u64, entry: u64) -> Option<Bit63> {
    let top_word = address == entry + 4;
    let top_byte = address == entry + 7;
    match instruction.code() {
        Code::And_rm8_imm8 if top_byte && instruction.immediate8() == 0x7f => Some(Bit63::Cleared),
        Code::Or_rm8_imm8 if top_byte && instruction.immediate8() == 0x80 => Some(Bit63::Set),
        Code::Bts_rm32_imm8 if top_word && instruction.immediate8() == 31 => Some(Bit63::Set),
        _ => None,
    }
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
        Code::Shr_rm32_CL
            if instruction.op0_register() == Register::ECX && ecx == Ecx::constant(ecx.value) =>
        {
            Ecx::constant(ecx.value >> (ecx.value & 31))
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

/// All breaches of the criterion from one offset of a gate.
fn breaches(pages: &Pages, offset: usize) -> Vec<String> {
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
            let Some(instruction) = decode(&pages.gate, execution.ip) else {
                break;
            };
            if always_aborts(&instruction) {
                break;
            }
            let at = format!(
                "{}, entry {offset:#x}: {instruction} at {:#x}",
                pages.name(),
                execution.ip - GATE_GVA
            );

            for memory in info.info(&instruction).used_memory() {
                let constant = constant_address(&instruction, memory);
                if memory.access() == OpAccess::NoMemAccess {
                    continue;
                }
                let writes = !matches!(memory.access(), OpAccess::Read | OpAccess::CondRead);
                let change =
                    constant.and_then(|at| changes_bit_63(&instruction, at, pages.entry()));
                match change {
                    Some(Bit63::Cleared) => execution.armed = true,
                    Some(Bit63::Set) => execution.armed = false,
                    None if writes => found.push(format!("{at}: writes memory")),
                    None => execution.read = true,
                }
            }
            execution.ecx = track_ecx(execution.ecx, &instruction, &mut info);

            if instruction.mnemonic() == Mnemonic::Vmfunc {
                if execution.armed && execution.ecx != Ecx::constant(pages.service_index()) {
                    found.push(format!("{at}: armed, and ECX is not the constant index"));
                }
                if execution.armed && instruction.next_ip() != STUB_GVA {
                    found.push(format!("{at}: armed, and the stub is elsewhere"));
                }
                if execution.read && execution.ecx.can_switch() {
                    found.push(format!("{at}: leaves after reading memory"));
                }
                if !execution.ecx.can_switch() {
                    break;
                }
                // ECX may name this gate view: go on behind the instruction. Or another slot's: an
                // entry there, which is looked at on its own.
                execution.ip = instruction.next_ip();
                continue;
            }

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
                FlowControl::XbeginXabortXend => {
                    found.push(format!("{at}: may go on elsewhere"));
                    break;
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

fn all_breaches(pages: &Pages) -> Vec<String> {
    (0..PAGE)
        .flat_map(|offset| breaches(pages, offset))
        .collect()
}

#[test]
fn gates_are_harmless_from_every_byte() {
    for pages in kernel_pages() {
        assert_eq!(all_breaches(&pages), Vec::<String>::new());
    }
}

/// The check finds fault with the obvious encodings of the gate.
#[test]
fn obvious_encodings_are_found_out() {
    kernel_pages().iter().for_each(find_fault);
}

fn find_fault(pages: &Pages) {
    let is_found = |offset: usize, code: &[u8], what: &str| {
        let found = all_breaches(&pages.with_gate(offset, code));
        assert!(
            found.iter().any(|breach| breach.ends_with(what)),
            "{}, {code:x?}: '{what}' is not among {found:?}",
            pages.name()
        );
    };
    let index = pages.service_index() as u8;
    // mov ecx, imm32: its immediate decodes to add [rax], al.
    let code = [0xb9, index, 0, 0, 0, 0x0f, 0x01, 0xd4];
    is_found(7, &code, "writes memory");
    // The index set before the arm: VMFUNC with the guest's ECX.
    let code = [0x90, 0x90, 0x90, 0x90, 0x0f, 0x01, 0xd4];
    is_found(7, &code, "ECX is not the constant index");
    // The index of another slot.
    let other = SERVICE_INDICES[(pages.slot as usize + 1) % SERVICE_INDICES.len()] as u8;
    is_found(10, &[other], "ECX is not the constant index");
    // The entry of another slot, armed or disarmed.
    let displacement = |entry: u64, next: u64| ((entry - (GATE_GVA + next)) as u32).to_le_bytes();
    let entry = LIST_GVA + u64::from(other) * 8 + 7;
    is_found(2, &displacement(entry, 7), "writes memory");
    // Another bit of the entry.
    is_found(6, &[0xff], "writes memory");
    // The stub somewhere else.
    let code = [0x31, 0xc9, 0xb1, index, 0x90, 0x0f, 0x01, 0xd4];
    is_found(7, &code, "the stub is elsewhere");
    // A store of a register to the list, as the published gate does.
    let mut code = vec![0x48, 0x89, 0x15];
    code.extend(displacement(pages.entry(), 7));
    is_found(0, &code, "writes memory");
    // A read before the way home: leave, at the guest's address.
    let way_home = |code: &[u8]| {
        let code = [code, &[0x31, 0xc9, 0x0f, 0x01, 0xd4]].concat();
        is_found(PAGE - code.len(), &code, "leaves after reading memory");
    };
    way_home(&[0xc9]);
    // mov al, [rip + relative]: of the list.
    let mut code = vec![0x8a, 0x05];
    code.extend(displacement(pages.entry(), PAGE_SIZE - 5));
    way_home(&code);
    // mov al, [moffs64], and with the guest's segment bases.
    for prefix in [&[][..], &[0x64], &[0x65]] {
        way_home(&[prefix, &[0xa0], &pages.entry().to_le_bytes()].concat());
    }
    // The list entry relative to the guest's segment base: armed elsewhere.
    let mut code = vec![0x64, 0x80, 0x25];
    code.extend(displacement(pages.entry() + 7, 8));
    code.extend([0x7f, 0x31, 0xc9, 0xb1, index, 0x0f, 0x01, 0xd4]);
    is_found(0, &code, "writes memory");
}

/// Follows the stub from the gate's VMFUNC to the last one, through a service that only returns;
/// without the service's own two instructions.
fn stub_path(pages: &Pages) -> Vec<Instruction> {
    let mut ip = STUB_GVA;
    let mut path = Vec::new();
    while ip < pages.stub_end() {
        let instruction = decode(&pages.stub, ip).expect("the stub decodes");
        path.push(instruction);
        ip = match instruction.flow_control() {
            FlowControl::Call => {
                assert_eq!(instruction.near_branch_target(), IMAGE_GVA + 0x40);
                instruction.next_ip()
            }
            FlowControl::UnconditionalBranch => instruction.near_branch_target(),
            _ => instruction.next_ip(),
        };
    }
    assert_eq!(ip, pages.stub_end());
    path
}

/// The steps of a call of a service that answers an empty request, each with its number of instructions
/// and of VMFUNCs.
fn steps(pages: &Pages) -> Vec<(&'static str, usize, usize)> {
    let vmfuncs = |path: &[Instruction]| {
        let is_vmfunc = |one: &&Instruction| one.mnemonic() == Mnemonic::Vmfunc;
        path.iter().filter(is_vmfunc).count()
    };
    let step = |name, path: &[Instruction]| (name, path.len(), vmfuncs(path));
    let stub = stub_path(pages);
    let is_call = |one: &Instruction| one.flow_control() == FlowControl::Call;
    let (way_in, way_out) = stub.split_at(stub.iter().position(is_call).unwrap() + 1);
    let mut steps = vec![
        ("the caller sets ECX to the index and calls page A", 2, 0),
        // `page_a_enters_the_gate_view_with_its_last_instruction` of the guest library.
        ("page A: enters the gate's view", 2, 1),
        step(
            "gate: arms the service's list entry, enters its view",
            &straight(pages, GATE_GVA, STUB_GVA),
        ),
        step("stub: saves, takes its stack, calls the service", way_in),
        // `an_empty_request_is_four_instructions` of the switch.
        ("service: an empty request", 4, 0),
    ];
    match pages.strict {
        true => steps.extend([
            step("stub: restores, enters the gate's view", way_out),
            step(
                "gate: disarms the entry, enters the default view",
                &straight(pages, pages.stub_end(), GATE_GVA + PAGE_SIZE),
            ),
        ]),
        false => steps.push(step("stub: restores, enters the default view", way_out)),
    }
    steps.push(("page C: returns to the caller", 1, 0));
    steps
}

/// What the evaluation says of the steps of an empty call.
#[test]
fn steps_of_a_call_are_those_that_the_evaluation_shows() {
    let file = "eval/experiments/fig-01_empty_call/steps.csv";
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let shown = std::fs::read_to_string(root.join(file)).unwrap();
    for series in series::all() {
        let mut lines = "series,step,instructions,vmfuncs\n".to_owned();
        for pages in pages_of(&series).iter().filter(|pages| pages.slot == 0) {
            let path = if pages.strict {
                "elisa-strict"
            } else {
                "elisa"
            };
            for (name, instructions, vmfuncs) in steps(pages) {
                lines += &format!("{path},\"{name}\",{instructions},{vmfuncs}\n");
            }
        }
        assert_eq!(
            lines, shown,
            "the content of {file}, as the code has it, is on the left"
        );
    }
}

/// The instructions of a gate from one address up to another.
fn straight(pages: &Pages, from: u64, end: u64) -> Vec<Instruction> {
    let mut ip = from;
    let mut path: Vec<Instruction> = Vec::new();
    while ip < end {
        path.push(decode(&pages.gate, ip).expect("the gate decodes"));
        ip = path[path.len() - 1].next_ip();
    }
    assert_eq!(ip, end);
    path
}

/// ECX of each VMFUNC of a call, with the list entry's state there, behind the one in page A.
fn switches(pages: &Pages) -> Vec<(Ecx, bool)> {
    let mut info = InstructionInfoFactory::new();
    let mut path = straight(pages, GATE_GVA, STUB_GVA);
    path.extend(stub_path(pages));
    path.extend(straight(pages, pages.stub_end(), GATE_GVA + PAGE_SIZE));

    let (mut ecx, mut armed) = (Ecx::GUESTS, false);
    let mut switches = Vec::new();
    for instruction in &path {
        for memory in info.info(instruction).used_memory() {
            let address = constant_address(instruction, memory);
            let list = address.is_some_and(|at| (LIST_GVA..LIST_GVA + PAGE_SIZE).contains(&at));
            match address.and_then(|at| changes_bit_63(instruction, at, pages.entry())) {
                Some(Bit63::Cleared) => armed = true,
                Some(Bit63::Set) => armed = false,
                None => assert!(!list, "{}: {instruction} uses the list", pages.name()),
            }
        }
        ecx = match instruction.flow_control() {
            FlowControl::Call => Ecx::GUESTS,
            _ => track_ecx(ecx, instruction, &mut info),
        };
        if instruction.mnemonic() == Mnemonic::Vmfunc {
            switches.push((ecx, armed));
        }
    }
    switches
}

/// Through the views, armed for the one switch into the service's alone where its view can disarm,
/// and always disarmed on the way home.
#[test]
fn calls_take_the_way_of_their_slot() {
    for pages in kernel_pages() {
        let service = (Ecx::constant(pages.service_index()), true);
        let gate = (Ecx::constant(gate_index(pages.slot)), true);
        let home = (Ecx::constant(DEFAULT_INDEX), false);
        let way = if pages.strict {
            vec![service, gate, home]
        } else {
            vec![service, home]
        };
        assert_eq!(switches(&pages), way, "{}", pages.name());
    }
}

/// A fast stub disarms the entry before anything else.
#[test]
fn fast_stubs_disarm_first() {
    for pages in kernel_pages().iter().filter(|pages| !pages.strict) {
        let first = stub_path(pages)[0];
        let address = first.memory_displacement64();
        assert!(
            matches!(
                changes_bit_63(&first, address, pages.entry()),
                Some(Bit63::Set)
            ),
            "{}: {first}",
            pages.name()
        );
    }
}

/// From the offset that the kernel has, and not before, the call page holds the caller's RSP.
#[test]
fn saved_rsp_is_that_of_the_call_from_there_on() {
    for pages in kernel_pages() {
        let path = stub_path(&pages);
        let saves: Vec<&Instruction> = path
            .iter()
            .filter(|instruction| {
                instruction.code() == Code::Mov_rm64_r64
                    && instruction.op1_register() == Register::RSP
                    && instruction.memory_displacement64() == CALL_PAGE_GVA
            })
            .collect();
        assert_eq!(saves.len(), 1, "{}", pages.name());
        let behind = saves[0].next_ip() - GATE_GVA;
        assert_eq!(behind, pages.saved_rsp_at, "{}", pages.name());
    }
}

#[test]
fn calls_are_as_short_as_promised() {
    for pages in kernel_pages() {
        // The caller's load of ECX and call, page A (xor, vmfunc), the gate (4), a service that only
        // returns (xor, ret), page C (ret).
        let around = 2 + 2 + 4 + 2 + 1;
        // The tail in the gate: bts, shr, vmfunc.
        let (tail, promised) = if pages.strict { (3, 30) } else { (0, 28) };
        let count = around + stub_path(&pages).len() + tail;
        assert_eq!(count, promised, "{}", pages.name());
    }
}
