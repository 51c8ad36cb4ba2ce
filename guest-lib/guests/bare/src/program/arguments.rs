//! The page that the kernel passes to the program.
#![deny(unsafe_code)]

/// The first words of the page at [`crate::layout::ARGUMENTS`], written by the kernel. Addresses
/// are the program's; see [`crate::layout`].
#[repr(C)]
#[derive(Debug, Default)]
pub struct Arguments {
    /// Address of the command line.
    pub cmdline: u64,
    /// Length of the command line, in bytes.
    pub cmdline_size: u64,
    /// Size of the initrd in bytes, 0 if there is none.
    pub initrd_size: u64,
    /// Guest-physical address of the arena, which is contiguous.
    pub arena_physical: u64,
    /// Size of the arena in bytes.
    pub arena_size: u64,
    /// Bytes at [`crate::layout::WINDOW`], 0 if there is no NIC.
    pub window_size: u64,
}
