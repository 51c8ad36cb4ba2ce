//! How often the self-test tries things.
#![deny(unsafe_code)]

use postern_abi::source::Source;

/// Numbers of rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// Stores to the list with a VMFUNC behind each.
    pub stores: u64,
    /// VMFUNCs that must be refused, each of which ends a run of the guest.
    pub refusals: u64,
    /// Changes by ioctls.
    pub changes: u64,
    /// Loads of CR3 by the guest, to and fro.
    pub loads: u64,
    /// Calls of a round in which exits are counted.
    pub calls: u64,
    /// Such rounds.
    pub call_rounds: u64,
    /// Times that are taken.
    pub times: u64,
}

impl Effort {
    /// What takes some seconds on such a machine. The emulated one does nothing by chance, so more
    /// rounds would show no more.
    pub fn on(source: Source) -> Effort {
        match source {
            Source::Emulated => Effort {
                stores: 5_000,
                refusals: 30,
                changes: 20,
                loads: 500,
                calls: 1_000,
                call_rounds: 10,
                times: 200,
            },
            Source::Nested | Source::Hardware => Effort {
                stores: 1_000_000,
                refusals: 1_000,
                changes: 500,
                loads: 100_000,
                calls: 2_000,
                call_rounds: 500,
                times: 20_000,
            },
        }
    }
}
