//! Role `attack`: tries to break out of what the gate allows, as a hostile guest kernel or process
//! would, and says whether that worked.
//!
//! The last line is `attack NAME: repelled: ...` (status 0) or `attack NAME: succeeded: ...`
//! (status 1). An attack that ends the VM has been repelled, too; the status of the VMM tells.
//!
//! | name | what is tried |
//! | --- | --- |
//! | `vmfunc-direct` | VMFUNC straight to the service's index, and to all others |
//! | `gate-offsets` | to enter the gate view at every byte of page B |
//! | `cr3-packet` | CR3 at page tables in the TX ring |
//! | `breakpoint` | to stop a call at every instruction: breakpoints, watchpoint, single step |
//! | `idt` | interrupts in a view, with descriptor tables in the TX ring |
//! | `read-nic` | to read the memory of views, and of the NIC, from the default view |
//! | `cpl0` | to call the gate from CPL 0, with and without SMEP and SMAP |
//! | `no-secret` | to speak for the port without the secret of its tenancy |
//! | `direction-flag` | to turn the copies of a call around |
//! | `vector-registers` | to find something in vector registers behind a call; to lend such that are off |

mod attacker;
mod breakpoint;
mod cpl0;
mod cr3_packet;
mod direction;
mod enter;
mod gate_offsets;
mod idt;
mod no_secret;
mod read_nic;
mod state;
mod vectors;
mod verdict;
mod vmfunc_direct;

use postern_abi::guest_words::attack;
use postern_abi::platform::CallPath;
use postern_guest_bare::status;

use super::error::RoleError;
use super::resources::Resources;
use crate::console::{exit, println};
use attacker::Attacker;
use verdict::Verdict;

/// One attack.
type Attack = fn(&mut Attacker) -> Verdict;

const ATTACKS: [(&str, Attack); attack::ALL.len()] = [
    (attack::VMFUNC_DIRECT, vmfunc_direct::run),
    (attack::GATE_OFFSETS, gate_offsets::run),
    (attack::CR3_PACKET, cr3_packet::run),
    (attack::BREAKPOINT, breakpoint::run),
    (attack::IDT, idt::run),
    (attack::READ_NIC, read_nic::run),
    (attack::CPL0, cpl0::run),
    (attack::NO_SECRET, no_secret::run),
    (attack::DIRECTION_FLAG, direction::run),
    (attack::VECTOR_REGISTERS, vectors::run),
];

/// Plays the role.
pub fn run(resources: Resources) -> Result<(), RoleError> {
    let name = resources.options.attack.unwrap_or_default();
    let found = ATTACKS.iter().find(|(known, _)| *known == name);
    let &(name, run) = found.ok_or(RoleError::NoAttack(name))?;
    let path = resources.options.nic.ok_or(RoleError::NoNic)?.path;
    // Where there is no isolation, there is nothing to enter, but all to read.
    let fits = match path {
        CallPath::Elisa | CallPath::ElisaStrict => true,
        CallPath::Direct => name == attack::READ_NIC,
        // Calls reach the NIC there, too, and there is no gate.
        CallPath::ExitKernel | CallPath::ExitUser => name == attack::NO_SECRET,
    };
    if !fits {
        return Err(RoleError::Needs("the path elisa or elisa-strict"));
    }
    let mut attacker = Attacker::new(resources)?;
    println!("attack {name}: begins");
    let verdict = run(&mut attacker).and_still_works(&mut attacker);
    println!("attack {name}: {verdict}");
    exit(if verdict.repelled() {
        status::OK
    } else {
        status::FAILED
    })
}
