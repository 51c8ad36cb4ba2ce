//! Quantities that are measured.

use serde::{Deserialize, Serialize};

/// A measured quantity. All are for one unit of work ([`Definition::per`]) unless said otherwise.
///
/// [`Definition::per`]: crate::experiment::Definition::per
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantity {
    /// All of the CPU's instructions.
    TotalInstructions,
    /// Instructions in guest mode, in whatever view.
    GuestInstructions,
    /// VM exits, less those for interrupts and waits.
    VmExits,
    /// VM exits of all kinds, where they are not told apart.
    AllExits,
    /// VM exits for interrupts.
    InterruptExits,
    /// VM exits of a guest that has nothing to do.
    WaitExits,
    /// VMFUNCs.
    Vmfuncs,
    /// Nanoseconds, on hardware.
    Nanoseconds,
    /// Median of answering times, in microseconds of the guests' clock.
    MedianMicroseconds,
    /// 99th percentile of answering times, in microseconds of the guests' clock.
    P99Microseconds,
    /// Longest answering time, in microseconds of the guests' clock.
    MaxMicroseconds,
    /// Memory of the host, in KiB.
    MemoryKib,
    /// One where an attack was repelled and nobody else was harmed; there is no other value, since
    /// any other end is a failure of the run.
    Repelled,
}

impl Quantity {
    /// All quantities, in the order of a table's columns.
    pub const ALL: [Quantity; 13] = [
        Quantity::TotalInstructions,
        Quantity::GuestInstructions,
        Quantity::VmExits,
        Quantity::AllExits,
        Quantity::InterruptExits,
        Quantity::WaitExits,
        Quantity::Vmfuncs,
        Quantity::Nanoseconds,
        Quantity::MedianMicroseconds,
        Quantity::P99Microseconds,
        Quantity::MaxMicroseconds,
        Quantity::MemoryKib,
        Quantity::Repelled,
    ];

    /// Name of the quantity in files.
    pub const fn name(self) -> &'static str {
        match self {
            Quantity::TotalInstructions => "total_instructions",
            Quantity::GuestInstructions => "guest_instructions",
            Quantity::VmExits => "vm_exits",
            Quantity::AllExits => "all_exits",
            Quantity::InterruptExits => "interrupt_exits",
            Quantity::WaitExits => "wait_exits",
            Quantity::Vmfuncs => "vmfuncs",
            Quantity::Nanoseconds => "nanoseconds",
            Quantity::MedianMicroseconds => "median_microseconds",
            Quantity::P99Microseconds => "p99_microseconds",
            Quantity::MaxMicroseconds => "max_microseconds",
            Quantity::MemoryKib => "memory_kib",
            Quantity::Repelled => "repelled",
        }
    }

    /// The heading of its column.
    pub const fn heading(self) -> &'static str {
        match self {
            Quantity::TotalInstructions => "total instr",
            Quantity::GuestInstructions => "guest instr",
            Quantity::VmExits => "VM exits",
            Quantity::AllExits => "all exits",
            Quantity::InterruptExits => "irq exits",
            Quantity::WaitExits => "wait exits",
            Quantity::Vmfuncs => "VMFUNCs",
            Quantity::Nanoseconds => "ns",
            Quantity::MedianMicroseconds => "median, us",
            Quantity::P99Microseconds => "p99, us",
            Quantity::MaxMicroseconds => "max, us",
            Quantity::MemoryKib => "KiB",
            Quantity::Repelled => "repelled",
        }
    }

    /// The quantity of this [`Quantity::name`].
    pub fn from_name(name: &str) -> Option<Quantity> {
        Quantity::ALL.into_iter().find(|one| one.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_files() {
        for quantity in Quantity::ALL {
            let text = serde_json::to_string(&quantity).unwrap();
            assert_eq!(text, format!("{:?}", quantity.name()));
            assert_eq!(Quantity::from_name(quantity.name()), Some(quantity));
        }
    }
}
