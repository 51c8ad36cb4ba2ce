//! The kernel: starts the CPU, runs the program, serves interrupts, exceptions and system calls.
//!
//! | module | object |
//! | --- | --- |
//! | [`start`] | the entry point |
//! | [`pvh`] | what the VMM says about the VM |
//! | [`frames`] | free page frames |
//! | [`space`] | page tables |
//! | [`image`] | the two copies of this image |
//! | [`cpu`] | control registers, descriptor tables |
//! | [`trap`] | interrupts, exceptions, system calls |
//! | [`apic`] | the timer |
//! | [`launch`] | the program's address space, and its start |

mod apic;
mod cpu;
mod frames;
mod image;
mod launch;
mod pvh;
mod space;
mod start;
mod trap;

pub use apic::{TIMER, end_of_interrupt};
pub use cpu::{KERNEL_CODE, KERNEL_DATA, TASK_STATE};

use core::fmt;

use postern_guest_bare::status;

use crate::console::{exit, println};

/// Ends the VM, since it is not what the guest needs.
fn refuse(why: impl fmt::Display) -> ! {
    println!("error: {why}");
    exit(status::USAGE)
}
