//! An inspection of the switch's machine code: it must not contain certain instructions, whatever
//! the compiler had in mind.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod vectors;

use std::collections::BTreeMap;

use iced_x86::{
    CpuidFeature, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory,
    Mnemonic, OpKind, Register,
};
use object::{Object, ObjectSection, ObjectSymbol, RelocationTarget, SymbolKind};

/// The kernel's code through which its functions return.
pub const RETURN_THUNK: &str = "__x86_return_thunk";

/// A function of an ELF file.
pub struct Function {
    pub name: String,
    pub address: u64,
    pub code: Vec<u8>,
    /// Names of the functions that its calls and jumps reach by relocation, by offset of the
    /// relocation.
    relocations: BTreeMap<u64, String>,
}

impl Function {
    pub fn new(name: &str, address: u64, code: &[u8]) -> Function {
        Function {
            name: name.to_owned(),
            address,
            code: code.to_owned(),
            relocations: BTreeMap::new(),
        }
    }

    /// True for an instruction that returns from the function.
    pub fn returns_by(&self, instruction: &Instruction) -> bool {
        match instruction.flow_control() {
            FlowControl::Return => true,
            FlowControl::UnconditionalBranch => relocation(self, instruction) == Some(RETURN_THUNK),
            _ => false,
        }
    }

    fn instructions(&self) -> impl Iterator<Item = Instruction> {
        let options = DecoderOptions::NONE;
        let mut decoder = Decoder::with_ip(64, &self.code, self.address, options);
        std::iter::from_fn(move || decoder.can_decode().then(|| decoder.decode()))
    }
}

/// All functions of an ELF file. Code outside of them is padding, or an error.
pub fn functions(file: &[u8]) -> Vec<Function> {
    let elf = object::File::parse(file).unwrap();
    let mut functions = Vec::new();
    for symbol in elf
        .symbols()
        .filter(|symbol| symbol.kind() == SymbolKind::Text)
    {
        let index = symbol.section_index().expect("no undefined functions");
        let section = elf.section_by_index(index).unwrap();
        let code = section.data_range(symbol.address(), symbol.size()).unwrap();
        let mut function = Function::new(symbol.name().unwrap(), symbol.address(), code.unwrap());
        for (offset, relocation) in section.relocations() {
            let target = match relocation.target() {
                RelocationTarget::Symbol(index) => elf.symbol_by_index(index).unwrap(),
                other => panic!("relocation against {other:?}"),
            };
            // A section symbol stands for the one function that the section has.
            let name = match target.kind() {
                SymbolKind::Section => {
                    let section = target.section_index().unwrap();
                    let mut alike = elf.symbols().filter(|symbol| {
                        symbol.kind() == SymbolKind::Text && symbol.section_index() == Some(section)
                    });
                    alike.next().expect("a function").name().unwrap()
                }
                _ => target.name().unwrap(),
            };
            function.relocations.insert(offset, name.to_owned());
        }
        functions.push(function);
    }
    functions
}

/// The vector registers that a build may touch.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Vectors {
    /// None.
    Never,
    /// Those that the caller lends, in the one routine whose name has this word, which clears them.
    Lent(&'static str),
}

/// The problems of a set of functions, one line each.
pub fn problems(functions: &[Function], vectors: Vectors) -> Vec<String> {
    let mut problems = Vec::new();
    for function in functions {
        let may_use_vectors = match vectors {
            Vectors::Never => false,
            Vectors::Lent(word) => function.name.contains(word),
        };
        if may_use_vectors {
            problems.extend(vectors::problems(function));
        }
        let library = ["4core", "5alloc", "3std", "panic"];
        if library.iter().any(|part| function.name.contains(part)) {
            problems.push(format!("{}: library function", function.name));
        }
        let mut info = InstructionInfoFactory::new();
        let mut before = Mnemonic::INVALID;
        for instruction in function.instructions() {
            let cleared = std::mem::replace(&mut before, instruction.mnemonic()) == Mnemonic::Cld;
            if may_use_vectors && vectors::is_allowed(&instruction) {
                continue;
            }
            if let Some(problem) = problem(&instruction, cleared, &mut info) {
                let name = &function.name;
                problems.push(format!(
                    "{name} {:#x}: {instruction}: {problem}",
                    instruction.ip()
                ));
            }
        }
    }
    problems
}

/// What keeps the kernel from returning in its own way, one line each: it replaces jumps to its
/// thunk, and no other returns.
pub fn returns_of_its_own(functions: &[Function]) -> Vec<String> {
    let mut problems = Vec::new();
    for function in functions {
        for instruction in function.instructions() {
            let is_plain = instruction.flow_control() == FlowControl::Return;
            let to_thunk = relocation(function, &instruction) == Some(RETURN_THUNK);
            if is_plain || to_thunk && !function.returns_by(&instruction) {
                let name = &function.name;
                problems.push(format!("{name} {:#x}: {instruction}", instruction.ip()));
            }
        }
    }
    problems
}

/// The problem with an instruction, if it is not one of the plain instruction set or depends on
/// state that belongs to a guest. `cleared` says that the one before it has cleared the direction
/// flag.
fn problem(
    instruction: &Instruction,
    cleared: bool,
    info: &mut InstructionInfoFactory,
) -> Option<&'static str> {
    if instruction.is_invalid() {
        return Some("no instruction");
    }
    match instruction.flow_control() {
        FlowControl::IndirectBranch | FlowControl::IndirectCall => return Some("indirect"),
        FlowControl::Exception | FlowControl::Interrupt => return Some("trap"),
        FlowControl::XbeginXabortXend => return Some("transaction"),
        FlowControl::Return if instruction.mnemonic() != Mnemonic::Ret => {
            return Some("far return");
        }
        FlowControl::Call | FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch
            if !matches!(instruction.op0_kind(), OpKind::NearBranch64) =>
        {
            return Some("not a near branch");
        }
        _ => {}
    }
    let is_copy = cleared && instruction.mnemonic() == Mnemonic::Movsb;
    if instruction.is_privileged() || instruction.is_string_instruction() && !is_copy {
        return Some("privileged, or depends on the direction flag");
    }
    let plain = [
        CpuidFeature::INTEL8086,
        CpuidFeature::INTEL186,
        CpuidFeature::INTEL386,
        CpuidFeature::INTEL486,
        CpuidFeature::CMOV,
        CpuidFeature::X64,
        CpuidFeature::MULTIBYTENOP,
    ];
    let features = instruction.cpuid_features();
    // TZCNT is BSF with a prefix that older CPUs ignore: both are equal for a number that is not
    // zero. A prefetch, which came with SSE, touches no register, and every x86-64 CPU has it.
    let everywhere = [Mnemonic::Tzcnt, Mnemonic::Prefetcht0].contains(&instruction.mnemonic());
    if !everywhere && !features.iter().all(|feature| plain.contains(feature)) {
        return Some("not of the plain instruction set");
    }
    let info = info.info(instruction);
    // Segment registers are part of every access to memory, unchanged.
    let usual = |register: Register| {
        register.is_gpr() || register == Register::RIP || register.is_segment_register()
    };
    if !info
        .used_registers()
        .iter()
        .all(|used| usual(used.register()))
    {
        return Some("vector or special register");
    }
    let below_stack = info.used_memory().iter().any(|used| {
        used.base() == Register::RSP
            && used.index() == Register::None
            && (used.displacement() as i64) < 0
            && instruction.stack_pointer_increment() == 0
    });
    below_stack.then_some("red zone")
}

/// Number of bytes of stack that the deepest chain of calls from a function takes, its return
/// address included.
///
/// # Panics
///
/// There is recursion.
pub fn stack_depth(functions: &[Function], from: &str) -> u64 {
    depth(functions, from, &mut Vec::new())
}

fn depth<'a>(functions: &'a [Function], name: &'a str, above: &mut Vec<&'a str>) -> u64 {
    assert!(!above.contains(&name), "recursion: {above:?} {name}");
    let function = functions.iter().find(|function| function.name == name);
    let function = function.unwrap_or_else(|| panic!("{name} is called and not there"));
    above.push(name);
    // The sum of all pushes and subtractions of the function, as if none were undone before its
    // calls.
    let (mut own, mut below) = (8, 0);
    for instruction in function.instructions() {
        let leaves = match instruction.flow_control() {
            FlowControl::Call => true,
            FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch => {
                let target = instruction.near_branch64();
                let inside = function.address..function.address + function.code.len() as u64;
                !inside.contains(&target) || relocation(function, &instruction).is_some()
            }
            _ => false,
        };
        if leaves && !function.returns_by(&instruction) {
            let target = relocation(function, &instruction).unwrap_or_else(|| {
                let address = instruction.near_branch64();
                let target = functions
                    .iter()
                    .find(|function| function.address == address);
                &target
                    .unwrap_or_else(|| panic!("{name} leaves for {address:#x}"))
                    .name
            });
            below = below.max(depth(functions, target, above));
        } else if instruction.flow_control() == FlowControl::Next {
            own += i64::from(-instruction.stack_pointer_increment().min(0)) as u64;
            if instruction.mnemonic() == Mnemonic::Sub
                && instruction.op0_register() == Register::RSP
            {
                own += instruction.immediate(1);
            }
        }
    }
    above.pop();
    own + below
}

/// The function that a branch reaches by relocation.
fn relocation<'a>(function: &'a Function, instruction: &Instruction) -> Option<&'a str> {
    let range = instruction.ip()..instruction.next_ip();
    let (_, target) = function.relocations.range(range).next()?;
    Some(target)
}
