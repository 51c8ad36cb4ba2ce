//! What one unit of work consists of.

use postern_abi::platform::CallPath;
use serde::{Deserialize, Serialize};

use crate::quantity::Quantity;
use crate::results::FigureResults;
use crate::workload::Workload;

/// What one unit of work consists of: a call, a packet. The cost model has a price for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Counts {
    /// Instructions in guest mode, in whatever view, VMFUNCs not among them.
    pub guest_instructions: f64,
    /// Instructions of the host: of its kernel and of VMMs.
    pub host_instructions: f64,
    /// VMFUNCs.
    pub vmfuncs: f64,
    /// VM exits of all kinds, each with the VM entry that follows.
    pub exits: f64,
    /// Those of them that a VMM's process serves.
    pub user_exits: f64,
    /// String instructions that copy (REP MOVS).
    pub string_copies: f64,
    /// Bytes that they copy.
    pub string_bytes: f64,
    /// Nanoseconds of something that was published as a time and of which nothing was counted.
    pub nanoseconds: f64,
}

impl Counts {
    /// What a figure's results say of a series at a place of the axis; nothing if it was not measured
    /// there, is work that the model does not cover, or without counting VMFUNCs (hardware has no counter of them).
    pub fn of(results: &FigureResults, series: &str, x: Option<u32>) -> Option<Counts> {
        let value = |quantity| results.value(series, x, quantity);
        let total = value(Quantity::TotalInstructions)?;
        let guest = value(Quantity::GuestInstructions)?;
        let vmfuncs = value(Quantity::Vmfuncs)?;
        let requests = value(Quantity::VmExits)?;
        let others = [Quantity::InterruptExits, Quantity::WaitExits];
        let others: f64 = others.into_iter().filter_map(value).sum();
        let mut points = results.about.points.iter();
        let point = points.find(|point| point.series == series && point.x == x)?;
        let (path, size) = match &point.workload {
            Workload::Calls(calls) => (calls.path, 0),
            Workload::Traffic(traffic) => (traffic.path, traffic.size),
            // The host's network stack copies, too, by string instructions that nobody counts.
            _ => return None,
        };
        let strings = string_copies(path, size);
        Some(Counts {
            guest_instructions: (guest - vmfuncs).max(0.0),
            host_instructions: (total - guest).max(0.0),
            vmfuncs,
            exits: requests + others,
            user_exits: match path {
                CallPath::ExitUser => requests,
                _ => 0.0,
            },
            string_copies: strings.copies,
            string_bytes: strings.bytes,
            nanoseconds: 0.0,
        })
    }

    /// These for each of `units`: a crossing's, spread over the requests that it serves.
    pub fn shared_by(self, units: f64) -> Counts {
        Counts {
            guest_instructions: self.guest_instructions / units,
            host_instructions: self.host_instructions / units,
            vmfuncs: self.vmfuncs / units,
            exits: self.exits / units,
            user_exits: self.user_exits / units,
            string_copies: self.string_copies / units,
            string_bytes: self.string_bytes / units,
            nanoseconds: self.nanoseconds / units,
        }
    }
}

/// Copies of a frame by string instructions.
struct Strings {
    copies: f64,
    bytes: f64,
}

/// From this size on the copies of programs without vector registers use a string instruction: those
/// of the guest library and of the switch.
const STRINGS_FROM: u32 = 256;

/// How a frame of `size` bytes is copied between bare guests: the sender writes it, the switch copies
/// it, the receiver reads it. A bare guest has no vector registers, and neither has the switch in a
/// view, a guest or the host's kernel. In a VMM it has, and its copies are instructions that were counted.
/// Both counters of instructions, the processor's and the emulated machine's, count a string
/// instruction once, however many bytes it moves.
fn string_copies(path: CallPath, size: u32) -> Strings {
    let size = match size > STRINGS_FROM {
        true => f64::from(size),
        false => 0.0,
    };
    let copies = match (size > 0.0, path) {
        (false, _) => 0.0,
        (true, CallPath::ExitUser) => 2.0,
        (true, _) => 3.0,
    };
    Strings {
        copies,
        bytes: copies * size,
    }
}
