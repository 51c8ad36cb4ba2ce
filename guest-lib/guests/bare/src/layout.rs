//! Guest-virtual layout. The kernel and the program have an address space each.
//!
//! ```text
//!                                    kernel's          program's
//!   0x00_0020_0000  image            kernel's copy     program's copy; its first page (the
//!                                                      trampoline) is the kernel's in both
//!   0               RAM, the NIC,    as guest-physical descriptor tables, for the kernel alone
//!                   local APIC       (the rest)
//!   0x10_0000_0000  ARGUMENTS        -                 r    what the kernel tells the program
//!   0x11_0000_0000  STACK            -                 rw   grows down from STACK_TOP
//!   0x12_0000_0000  INITRD           -                 r
//!   0x13_0000_0000  ARENA            -                 rw   all RAM that is left
//!   0x14_0000_0000  WINDOW           -                 rw   the port's window, or the whole NIC
//!   0x15_0000_0000  SCRATCH          -                 as an attack asks
//!   0x20_0000_0000  KERNEL_STACKS    rw                rw, for the kernel alone
//!   GATE_AREA_GVA   gate area        -                 rx   pages A and C (postern_abi::view)
//! ```
#![deny(unsafe_code)]

/// Address of one page: [`crate::program::arguments::Arguments`], then the command line.
pub const ARGUMENTS: u64 = 0x10_0000_0000;

/// First byte above the program's stack.
pub const STACK_TOP: u64 = 0x11_0000_0000 + STACK_SIZE;

/// Bytes of the program's stack.
pub const STACK_SIZE: u64 = 256 << 10;

/// Address of the initrd.
pub const INITRD: u64 = 0x12_0000_0000;

/// Address of the program's memory.
pub const ARENA: u64 = 0x13_0000_0000;

/// Address of the window of the NIC port or, on the direct path, the NIC's whole memory.
pub const WINDOW: u64 = 0x14_0000_0000;

/// Address of pages that attacks map.
pub const SCRATCH: u64 = 0x15_0000_0000;

/// Address of the stacks of traps, with a gap below each.
pub const KERNEL_STACKS: u64 = 0x20_0000_0000;
