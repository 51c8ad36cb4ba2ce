//! Entering the gate view at every byte of page B, with registers that point where a store would do
//! harm: at the guest's own memory, and at the service's entry of the EPTP list.

use postern_abi::PAGE_SIZE;
use postern_abi::view::{GATE_GVA, LANDING_GVA, LIST_GVA};

use super::attacker::{Attacker, GATE_INDEX, MEMORY_PAGES, SERVICE_INDEX, VMFUNC};
use super::enter::{Registers, enter};
use super::verdict::{Verdict, repelled, succeeded};

/// Value of each byte of the guest's own memory.
const CANARY: u8 = 0xa5;

/// The service's entry of the EPTP list.
const ENTRY: u64 = LIST_GVA + SERVICE_INDEX as u64 * 8;

/// Runs the attack.
pub fn run(attacker: &mut Attacker) -> Verdict {
    attacker.memory.bytes.fill(CANARY);
    let canaries = &[CANARY; MEMORY_PAGES * PAGE_SIZE as usize];
    let memory = attacker.memory.bytes.as_ptr() as u64 + PAGE_SIZE;
    // RSP points there, too, or to the program's own stack, so that the code can return.
    let fillings = [
        Registers::filled(memory),
        Registers {
            rsp: memory,
            ..Registers::filled(memory)
        },
        Registers::filled(ENTRY),
        Registers {
            rsp: ENTRY,
            ..Registers::filled(ENTRY)
        },
        // The byte that says whether the entry is valid.
        Registers::filled(ENTRY + 7),
    ];
    let (mut aborted, mut returned) = (0, 0);
    for offset in 0..PAGE_SIZE {
        for filling in fillings {
            let registers = Registers {
                rax: 0,
                rcx: GATE_INDEX.into(),
                target: attacker.place_code(GATE_GVA + offset, &VMFUNC),
                ..filling
            };
            // SAFETY: what the gate does with these registers is the question. The library's pages
            // catch what comes back.
            match unsafe { enter(&registers) } {
                Ok(_) => returned += 1,
                Err(exception) if exception.is_abort() => aborted += 1,
                // Back at the guest's own return instruction, with a stack that leads nowhere.
                Err(exception) if exception.rip == LANDING_GVA => returned += 1,
                Err(exception) => {
                    return succeeded!("offset {offset:#x}: {exception}");
                }
            }
        }
        if *attacker.memory.bytes != canaries[..] {
            return succeeded!("offset {offset:#x}: the gate wrote the guest's memory");
        }
        if attacker.entry_is_armed() {
            return succeeded!("offset {offset:#x}: the service's entry is left armed");
        }
    }
    repelled!("{PAGE_SIZE} offsets: {aborted} entries aborted, {returned} returned")
}
