//! The parts of the VM that a role works with.
#![deny(unsafe_code)]

use postern_guest_bare::cmdline::GuestOptions;

use super::arena::Arena;

/// The parts of the VM that the program was given, and what the command line asks for.
pub struct Resources {
    /// The command line.
    pub options: GuestOptions<'static>,
    /// The bytes of the initrd, if there is one.
    pub initrd: Option<&'static [u8]>,
    /// The program's memory.
    pub arena: Arena,
    /// Bytes at [`crate::layout::WINDOW`], 0 if there is no NIC.
    pub window_size: u64,
}
