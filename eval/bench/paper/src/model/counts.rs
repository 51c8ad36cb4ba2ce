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
    /// there, is work that the model does not cover, or was measured without counting VMFUNCs (hardware
    /// has no counter of them).
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

    /// These of a packet of `size` bytes that the host's kernel switches, if its copy took this many
    /// instructions a byte instead of string instructions.
    pub fn with_copy_in_host(self, size: u32, instructions: f64) -> Counts {
        let strings = by_switch(size);
        Counts {
            host_instructions: self.host_instructions + instructions * f64::from(size),
            string_copies: self.string_copies - strings.copies,
            string_bytes: self.string_bytes - strings.bytes,
            ..self
        }
    }
}

/// Copies of a frame by string instructions.
#[derive(Clone, Copy, Debug, Default)]
struct Strings {
    copies: f64,
    bytes: f64,
}

impl Strings {
    fn of(bytes: u32) -> Strings {
        match bytes {
            0 => Strings::default(),
            bytes => Strings {
                copies: 1.0,
                bytes: f64::from(bytes),
            },
        }
    }
}

/// How a frame of `size` bytes is copied between bare guests: the sender writes it, the switch copies
/// it, the receiver reads it. A bare guest has no vector registers, and neither has the switch in a
/// view, a guest or the host's kernel. In a VMM it has, and its copies are instructions that were counted.
/// Both counters of instructions, the processor's and the emulated machine's, count a string
/// instruction once, however many bytes it moves.
fn string_copies(path: CallPath, size: u32) -> Strings {
    let guest = by_guest(size);
    let switch = match path {
        CallPath::ExitUser => Strings::default(),
        _ => by_switch(size),
    };
    Strings {
        copies: 2.0 * guest.copies + switch.copies,
        bytes: 2.0 * guest.bytes + switch.bytes,
    }
}

/// A copy of the guest library's (`ring::copy`): more than 256 bytes are left to memcpy, which takes a
/// string instruction.
fn by_guest(size: u32) -> Strings {
    match size > 256 {
        true => Strings::of(size),
        false => Strings::default(),
    }
}

/// A copy of the switch's (`copy`) without vector registers: the multiple of 256 bytes behind the
/// frame's first 16.
fn by_switch(size: u32) -> Strings {
    Strings::of(size.saturating_sub(16) & !0xff)
}

#[cfg(test)]
mod tests {
    use super::super::made_up::{self, traffic};
    use super::*;
    use crate::workload::Calls;

    /// Results of one point, of series `a`.
    fn results(workload: Workload, values: &[(Quantity, f64)]) -> FigureResults {
        made_up::results(&[("a", None, workload, values)])
    }

    const VALUES: [(Quantity, f64); 5] = [
        (Quantity::TotalInstructions, 1000.0),
        (Quantity::GuestInstructions, 400.0),
        (Quantity::VmExits, 2.0),
        (Quantity::InterruptExits, 0.5),
        (Quantity::Vmfuncs, 3.0),
    ];

    #[test]
    fn nothing_is_counted_twice() {
        for (path, user_exits) in [(CallPath::Elisa, 0.0), (CallPath::ExitUser, 2.0)] {
            let calls = Workload::Calls(Calls { path, calls: 5 });
            let counts = Counts::of(&results(calls, &VALUES), "a", None).unwrap();
            let expected = Counts {
                guest_instructions: 397.0,
                host_instructions: 600.0,
                vmfuncs: 3.0,
                exits: 2.5,
                user_exits,
                ..Counts::default()
            };
            assert_eq!(counts, expected);
        }
    }

    #[test]
    fn what_was_not_measured_has_no_counts() {
        let calls = Workload::Calls(Calls {
            path: CallPath::Elisa,
            calls: 5,
        });
        let whole = results(calls.clone(), &VALUES);
        assert_eq!(Counts::of(&whole, "b", None), None);
        assert_eq!(Counts::of(&whole, "a", Some(1)), None);
        // Hardware counts no VMFUNCs.
        assert_eq!(Counts::of(&results(calls, &VALUES[..4]), "a", None), None);
    }

    #[test]
    fn large_frames_are_copied_by_strings_small_ones_by_what_was_counted() {
        let strings = |path: CallPath, size| {
            let counts =
                Counts::of(&results(traffic(path.name(), size), &VALUES), "a", None).unwrap();
            (counts.string_copies, counts.string_bytes)
        };
        assert_eq!(strings(CallPath::Elisa, 256), (0.0, 0.0));
        assert_eq!(strings(CallPath::Elisa, 512), (3.0, 1280.0));
        assert_eq!(strings(CallPath::ExitUser, 512), (2.0, 1024.0));
        assert_eq!(strings(CallPath::ExitKernel, 1472), (3.0, 4224.0));
    }

    #[test]
    fn another_copy_takes_the_place_of_the_strings() {
        let before = Counts {
            host_instructions: 100.0,
            string_copies: 3.0,
            string_bytes: 1280.0,
            ..Counts::default()
        };
        let after = before.with_copy_in_host(512, 5.0);
        assert_eq!(after.host_instructions, 100.0 + 5.0 * 512.0);
        assert_eq!((after.string_copies, after.string_bytes), (2.0, 1024.0));
    }
}
