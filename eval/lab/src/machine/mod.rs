//! The emulated Intel machine: one call boots it, runs jobs in it and brings the results back.
//!
//! ```no_run
//! # use postern_lab::job::Job;
//! # use postern_lab::machine::{EmulatedMachine, Kernel, MachineError, MachineFiles};
//! # fn example(files: &MachineFiles, kernel: &Kernel) -> Result<(), MachineError> {
//! let job = Job::new("hello", "echo hello; uname -r");
//! let outcome = EmulatedMachine::new(files, kernel).run(job)?;
//! assert_eq!(outcome.status, Some(0));
//! # Ok(())
//! # }
//! ```
//!
//! The machine is Bochs with VMX, EPT and VMFUNC; its clock counts instructions. It boots a disc
//! with a kernel and an initial file system ([`initramfs`]) whose first process is
//! `postern-init`. Equal machines execute equal instructions.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `emulated` | [`EmulatedMachine`]: what is wanted, the boot, what came of it |
//! | `files` | programs, firmware and kernels that machines are made of |
//! | `disc` | the disc of one boot: [`initramfs`] and `iso` |
//! | `disks` | large files of jobs as disks |
//! | `directory` | [`RunDirectory`], of one boot or one test, removed when it ends |
//! | `bochs` | the emulator's process and configuration |
//! | `console` | the serial console |
//! | `results` | outcomes of jobs, from the records that `postern-init` sends |
//! | `shell` | a person at the console |

#[allow(
    unsafe_code,
    reason = "the emulator ends with the program that started it"
)]
mod bochs;
mod console;
mod directory;
mod disc;
mod disks;
mod emulated;
mod error;
mod files;
pub mod initramfs;
mod iso;
mod results;
mod shell;
mod tool;

/// Argument for a machine's kernel, for people: it says on the console only what ends it. On each
/// boot it complains of the processor's microcode and of a counter, both of which this processor does
/// not have.
pub const CONSOLE_LEVEL: &str = "loglevel=3";

pub use bochs::CPU_MODEL;
pub use directory::RunDirectory;
pub use disc::first_process;
pub use emulated::{BootOutcome, EmulatedMachine};
pub use error::MachineError;
pub use files::{Kernel, MachineFiles};
pub use iso::COMMAND_LINE;
