//! The one routine that may use vector registers: which, by which instructions, and that nothing is
//! left in them on any way out of it.

use std::collections::BTreeMap;

use iced_x86::{FlowControl, Instruction, Mnemonic, OpKind, Register};

use super::Function;

/// The number of registers that are lent, from 0 on.
const LENT: u32 = 4;

/// What may be in the lent registers: a bit for each that holds something, and one for the upper
/// halves of any.
type Dirty = u32;
const UPPER: Dirty = 1 << LENT;

/// The number of a vector register.
fn number(register: Register) -> Option<u32> {
    (register.is_xmm() || register.is_ymm()).then(|| register.number() as u32)
}

/// Whether an instruction is one that such a routine is made of: a move between a lent register and
/// memory, or one that clears.
pub fn is_allowed(instruction: &Instruction) -> bool {
    let lent = |operand| number(instruction.op_register(operand)).is_some_and(|n| n < LENT);
    let is = |operand, kind| instruction.op_kind(operand) == kind;
    match instruction.mnemonic() {
        Mnemonic::Vmovups => is(0, OpKind::Memory) && lent(1) || is(1, OpKind::Memory) && lent(0),
        Mnemonic::Vxorps => {
            let register = instruction.op0_register();
            lent(0)
                && register.is_xmm()
                && instruction.op1_register() == register
                && instruction.op2_register() == register
        }
        Mnemonic::Vzeroupper => true,
        _ => false,
    }
}

/// The registers behind an instruction.
fn behind(instruction: &Instruction, before: Dirty) -> Dirty {
    let Some(n) = number(instruction.op0_register()) else {
        return match instruction.mnemonic() {
            Mnemonic::Vzeroupper => before & !UPPER,
            _ => before,
        };
    };
    match instruction.mnemonic() {
        Mnemonic::Vxorps => before & !(1 << n),
        _ if instruction.op0_register().is_ymm() => before | 1 << n | UPPER,
        _ => before | 1 << n,
    }
}

/// The ways out of a routine on which something may be left in a vector register, one line each.
pub fn problems(function: &Function) -> Vec<String> {
    let code: BTreeMap<u64, Instruction> = function
        .instructions()
        .map(|instruction| (instruction.ip(), instruction))
        .collect();
    let mut seen = BTreeMap::<u64, Dirty>::new();
    let mut waiting = vec![(function.address, 0)];
    let mut problems = Vec::new();
    while let Some((at, dirty)) = waiting.pop() {
        let known = seen.get(&at).copied();
        if known.is_some_and(|known| known & dirty == dirty) {
            continue;
        }
        seen.insert(at, known.unwrap_or(0) | dirty);
        let Some(instruction) = code.get(&at) else {
            if dirty != 0 {
                problems.push(format!("{} {at:#x}: leaves {dirty:#x}", function.name));
            }
            continue;
        };
        let dirty = behind(instruction, dirty);
        match instruction.flow_control() {
            FlowControl::Next => waiting.push((instruction.next_ip(), dirty)),
            FlowControl::UnconditionalBranch => {
                waiting.push((instruction.near_branch64(), dirty));
            }
            FlowControl::ConditionalBranch => {
                waiting.push((instruction.near_branch64(), dirty));
                waiting.push((instruction.next_ip(), dirty));
            }
            // A call, a return, or what the inspection refuses anyway.
            _ if dirty != 0 => {
                let name = &function.name;
                problems.push(format!("{name} {at:#x}: {instruction}: leaves {dirty:#x}"));
            }
            _ => {}
        }
    }
    problems
}
