//! VMFUNC from the default view to anything but the gate view.
#![deny(unsafe_code)]

use postern_abi::view::{DEFAULT_INDEX, STUB_GVA};

use super::attacker::{Attacker, GATE_INDEX, SERVICE_INDEX, VMFUNC, is_refused_vmfunc};
use super::verdict::{Verdict, repelled, succeeded};

/// Number of indices that are tried: the entries of an EPTP list, and some more.
const INDICES: u32 = 520;

/// Number of VM functions that are tried: all that can be enabled, and some more.
const FUNCTIONS: u32 = 66;

/// Runs the attack.
pub fn run(attacker: &mut Attacker) -> Verdict {
    let indices = (0..INDICES).chain([0x1_0000 | SERVICE_INDEX, 1 << 31, u32::MAX]);
    let switches = indices
        .filter(|index| ![DEFAULT_INDEX, GATE_INDEX].contains(index))
        .map(|index| (0, index));
    let functions = (1..FUNCTIONS).chain([1 << 31, u32::MAX]);
    let others =
        functions.flat_map(|function| [GATE_INDEX, SERVICE_INDEX].map(|index| (function, index)));
    // The most interesting one first.
    let mut tries = 0;
    for (function, index) in [(0, SERVICE_INDEX)]
        .into_iter()
        .chain(switches)
        .chain(others)
    {
        match attacker.vmfunc(function, index) {
            Ok(_) => {
                return succeeded!("VM function {function} with index {index:#x} entered a view");
            }
            Err(exception) if is_refused_vmfunc(&exception, STUB_GVA - VMFUNC.len() as u64) => {
                tries += 1;
            }
            Err(exception) => {
                return succeeded!(
                    "VM function {function} with index {index:#x} ended elsewhere: {exception}"
                );
            }
        }
    }
    repelled!("{tries} VMFUNCs, each an invalid opcode")
}
