//! Exact event counters of the emulated machine, read by host programs through port I/O.
//!
//! Only the emulated machine has these counters: a read of [`PORT_MAGIC`] gives [`MAGIC`] there,
//! and all ones on any other machine. A 32-bit write of any value to [`PORT_LATCH`] takes a
//! snapshot of all counters. Each is then read as two 32-bit halves. Counting takes no instruction.
//!
//! All counters start at 0 at power-on and belong to the machine's only CPU. The rules of
//! counting:
//!
//! - An instruction counts once, when it has run to its end, as in a hardware counter of retired
//!   instructions. One that ends in a fault or a VM exit is not counted; a repeated string
//!   instruction counts once, however often it is interrupted.
//! - The VM entry instruction is the host's, the instruction after it the guest's.
//! - The snapshot shows the state before the OUT instruction that takes it.

/// I/O port; a 32-bit write of any value takes a snapshot of all counters.
pub const PORT_LATCH: u16 = 0x8910;

/// I/O port; a 32-bit read gives [`MAGIC`] where the counters exist.
pub const PORT_MAGIC: u16 = 0x8910;

/// The value that [`PORT_MAGIC`] reads as, "POST".
pub const MAGIC: u32 = 0x504f_5354;

/// Number of ports from [`PORT_LATCH`] on: those that a program needs permission for.
pub const PORT_COUNT: u16 = 44;

/// I/O port; a 32-bit read gives the low half of the number of instructions, in all modes; the high
/// half is 4 ports on.
pub const PORT_INSTRUCTIONS: u16 = 0x8914;

/// I/O port; a 32-bit read gives the low half of the number of instructions in VMX non-root
/// operation (at any privilege level, in any view); the high half is 4 ports on.
pub const PORT_GUEST_INSTRUCTIONS: u16 = 0x891c;

/// I/O port; a 32-bit read gives the low half of the number of VMFUNCs that switched to another EPT
/// hierarchy; the high half is 4 ports on.
pub const PORT_VMFUNCS: u16 = 0x8924;

/// I/O port; a 32-bit read gives the low half of the number of VM exits, of any reason; the high
/// half is 4 ports on.
pub const PORT_VM_EXITS: u16 = 0x892c;

/// I/O port; a 32-bit read gives the low half of the number of VM entries that reached the guest;
/// the high half is 4 ports on.
pub const PORT_VM_ENTRIES: u16 = 0x8934;

const _: () = assert!(PORT_LATCH + PORT_COUNT == PORT_VM_ENTRIES + 8);
