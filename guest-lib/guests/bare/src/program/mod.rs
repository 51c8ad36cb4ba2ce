//! The program: runs at CPL 3 in an address space of its own and plays one role.
//!
//! Its output on the console is meant for people, except the last line: `result role=NAME ...` with
//! figures, or `error: ...`.
//!
//! | module | object |
//! | --- | --- |
//! | [`arguments`] | the page that the kernel passes to the program |
//! | [`arena`] | the program's memory |
//! | [`resources`] | the parts of the VM that a role works with |
//! | [`error`] | the reasons for which a role fails |
//! | [`idle`] | waiting for ticks of the timer, and giving up |
//! | [`port`] | the NIC port, on any path |
//! | [`calls`] | role `calls` |
//! | [`send`], [`receive`] | roles `send` and `receive` |
//! | [`echo`] | roles `echo` and `ping` |
//! | [`attacks`] | role `attack` |

mod arena;
pub mod arguments;
mod attacks;
mod calls;
mod echo;
mod error;
mod idle;
mod port;
mod receive;
mod resources;
mod send;

use core::{slice, str};

use postern_guest_bare::cmdline::{GuestOptions, Role};
use postern_guest_bare::status;

use crate::console::{exit, println};
use crate::{layout, syscall};
use arena::Arena;
use arguments::Arguments;

use error::RoleError;
use resources::Resources;

/// The program's entry point, which the kernel starts.
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
    let result = match GuestOptions::parse(cmdline) {
        Ok(options) => run_role(Resources {
            options,
            initrd,
            arena,
            window_size: arguments.window_size,
        }),
        Err(error) => Err(RoleError::Cmdline(error)),
    };
    match result {
        Ok(()) => exit(status::OK),
        Err(error) => {
            println!("error: {error}");
            exit(error.status())
        }
    }
}

/// Plays the role that the command line names.
fn run_role(resources: Resources) -> Result<(), RoleError> {
    match resources.options.role {
        Role::Hello => {
            let ticks = if resources.options.timer == 0 {
                0
            } else {
                syscall::wait()
            };
            println!("result role=hello ticks={ticks}");
            Ok(())
        }
        Role::Calls => calls::run(resources),
        Role::Send => send::run(resources),
        Role::Receive => receive::run(resources),
        Role::Echo => echo::echo(resources),
        Role::Ping => echo::ping(resources),
        Role::Attack => attacks::run(resources),
    }
}
