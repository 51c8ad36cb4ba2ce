//! The program: runs at CPL 3 in an address space of its own and plays one role.

use core::{slice, str};

use postern_testguest::cmdline::{Options, Role};
use postern_testguest::status;

use crate::console::{exit, println};
use crate::layout;

/// What the kernel tells the program. Addresses are the program's; see [`layout`].
#[repr(C)]
#[derive(Debug, Default)]
pub struct Arguments {
    /// Address of the command line.
    pub cmdline: u64,
    /// Its bytes.
    pub cmdline_size: u64,
    /// Bytes of the initrd, 0 if there is none.
    pub initrd_size: u64,
    /// Guest-physical address of the arena, which is contiguous.
    pub arena_physical: u64,
    /// Bytes of the arena.
    pub arena_size: u64,
    /// Bytes at [`layout::WINDOW`], 0 if there is no NIC.
    pub window_size: u64,
}

/// Where the kernel starts the program.
pub extern "sysv64" fn main(arguments: &'static Arguments) -> ! {
    // SAFETY: the kernel put the command line there, which it found to be UTF-8.
    let cmdline = unsafe {
        let bytes = slice::from_raw_parts(
            arguments.cmdline as *const u8,
            arguments.cmdline_size as usize,
        );
        str::from_utf8_unchecked(bytes)
    };
    println!("hello from CPL 3: {cmdline} {arguments:?}");
    exit(status::OK)
}
