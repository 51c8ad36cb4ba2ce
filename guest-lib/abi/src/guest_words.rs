//! Words that the bare guest prints on its console and others look for.
#![forbid(unsafe_code)]

/// Names of attacks: values of the word `attack=` on the guest's command line.
pub mod attack {
    /// VMFUNC straight to the service's index, and to all others.
    pub const VMFUNC_DIRECT: &str = "vmfunc-direct";
    /// Entries of the gate view at every byte of page B.
    pub const GATE_OFFSETS: &str = "gate-offsets";
    /// CR3 at page tables in the TX ring.
    pub const CR3_PACKET: &str = "cr3-packet";
    /// Breakpoints, watchpoint and single step at every instruction of a call.
    pub const BREAKPOINT: &str = "breakpoint";
    /// Interrupts in a view, with descriptor tables in the TX ring.
    pub const IDT: &str = "idt";
    /// Reads of the memory of views, and of the NIC, from the default view.
    pub const READ_NIC: &str = "read-nic";
    /// Calls of the gate from CPL 0.
    pub const CPL0: &str = "cpl0";
    /// Requests without the secret of the tenancy.
    pub const NO_SECRET: &str = "no-secret";
    /// Calls with the direction flag set.
    pub const DIRECTION_FLAG: &str = "direction-flag";
    /// A look at vector registers behind calls, and calls that lend such as are off.
    pub const VECTOR_REGISTERS: &str = "vector-registers";

    /// All names.
    pub const ALL: [&str; 10] = [
        VMFUNC_DIRECT,
        GATE_OFFSETS,
        CR3_PACKET,
        BREAKPOINT,
        IDT,
        READ_NIC,
        CPL0,
        NO_SECRET,
        DIRECTION_FLAG,
        VECTOR_REGISTERS,
    ];
}

/// Verdict on an attack that did not work. The guest's last line is
/// `attack NAME: VERDICT: what was seen`.
pub const REPELLED: &str = "repelled";

/// Verdict on an attack that worked.
pub const SUCCEEDED: &str = "succeeded";
