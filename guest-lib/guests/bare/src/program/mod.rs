//! The program: runs at CPL 3 in an address space of its own and plays one role.
//!
//! What it says on the console is meant for people, except the last line: `result role=NAME ...`
//! with figures, or `error: ...`.
//!
//! | module | object |
//! | --- | --- |
//! | [`arena`] | the program's memory |
//! | [`failure`] | how roles fail |
//! | [`idle`] | waiting, and for how long |
//! | [`nic`] | the NIC port, on any path |
//! | [`calls`] | role `calls` |
//! | [`send`], [`receive`] | roles `send` and `receive` |
//! | [`echo`] | roles `echo` and `ping` |
//! | [`attacks`] | role `attack` |

mod arena;
mod attacks;
mod calls;
mod echo;
mod failure;
mod idle;
mod nic;
mod receive;
mod send;

use core::{slice, str};

use postern_guest_bare::cmdline::{Options, Role};
use postern_guest_bare::status;

use crate::console::{exit, println};
use crate::{layout, syscall};
use arena::Arena;
use failure::Failure;

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

/// What a role has to work with.
struct Machine {
    options: Options<'static>,
    initrd: Option<&'static [u8]>,
    arena: Arena,
    window_size: u64,
}

/// Where the kernel starts the program.
pub extern "sysv64" fn main(arguments: &'static Arguments) -> ! {
    // SAFETY: the kernel mapped all three, for the program alone, and found the command line to be
    // UTF-8.
    let (cmdline, initrd, arena) = unsafe {
        let bytes =
            |address: u64, size: u64| slice::from_raw_parts(address as *const u8, size as usize);
        let cmdline = bytes(arguments.cmdline, arguments.cmdline_size);
        let initrd_size = arguments.initrd_size;
        (
            str::from_utf8_unchecked(cmdline),
            (initrd_size != 0).then(|| bytes(layout::INITRD, initrd_size)),
            Arena::new(arguments.arena_physical, arguments.arena_size),
        )
    };
    let played = match Options::parse(cmdline) {
        Ok(options) => play(Machine {
            options,
            initrd,
            arena,
            window_size: arguments.window_size,
        }),
        Err(error) => Err(Failure::Cmdline(error)),
    };
    match played {
        Ok(()) => exit(status::OK),
        Err(failure) => {
            println!("error: {failure}");
            exit(failure.status())
        }
    }
}

fn play(machine: Machine) -> Result<(), Failure> {
    match machine.options.role {
        Role::Hello => {
            let ticks = if machine.options.timer == 0 {
                0
            } else {
                syscall::wait()
            };
            println!("result role=hello ticks={ticks}");
            Ok(())
        }
        Role::Calls => calls::play(machine),
        Role::Send => send::play(machine),
        Role::Receive => receive::play(machine),
        Role::Echo => echo::echo(machine),
        Role::Ping => echo::ping(machine),
        Role::Attack => attacks::play(machine),
    }
}
