//! Quantities that figures are numbers of.

use serde::{Deserialize, Serialize};

/// A quantity that figures are numbers of. The order is that of the table's columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantity {
    /// Instructions in guest mode, in whatever view.
    GuestInstructions,
    /// All of the CPU's instructions.
    TotalInstructions,
    /// VM exits, less those for interrupts and waits.
    VmExits,
    /// VMFUNCs.
    Vmfuncs,
    /// Nanoseconds from the call to its return.
    RoundTripNs,
    /// How many times cheaper than the path that exits to the host's kernel.
    RatioToExitKernel,
}

impl Quantity {
    /// All quantities.
    pub const ALL: [Quantity; 6] = [
        Quantity::GuestInstructions,
        Quantity::TotalInstructions,
        Quantity::VmExits,
        Quantity::Vmfuncs,
        Quantity::RoundTripNs,
        Quantity::RatioToExitKernel,
    ];

    /// Name of the quantity in files.
    pub const fn name(self) -> &'static str {
        match self {
            Quantity::GuestInstructions => "guest_instructions",
            Quantity::TotalInstructions => "total_instructions",
            Quantity::VmExits => "vm_exits",
            Quantity::Vmfuncs => "vmfuncs",
            Quantity::RoundTripNs => "round_trip_ns",
            Quantity::RatioToExitKernel => "ratio_to_exit_kernel",
        }
    }

    /// The heading of its column.
    pub const fn heading(self) -> &'static str {
        match self {
            Quantity::GuestInstructions => "guest instr",
            Quantity::TotalInstructions => "total instr",
            Quantity::VmExits => "VM exits",
            Quantity::Vmfuncs => "VMFUNCs",
            Quantity::RoundTripNs => "round trip, ns",
            Quantity::RatioToExitKernel => "ratio",
        }
    }
}
