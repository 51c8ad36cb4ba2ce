//! The lab: an emulated Intel machine with VMFUNC, everything that it is made of, and testbeds that
//! run jobs in it or on this host.
//!
//! ```text
//!   setup  --> cache: packages, Bochs, kernel, patched KVM, programs
//!     |
//!     v
//!   testbed: this host, or the emulated machine  <-- jobs (scripts and files)
//!     |                         |
//!     |                         v
//!     |                     machine: disc --> Bochs --> records of postern-init
//!     v                         |
//!   outcomes of jobs <----------+
//! ```
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`setup`] | everything that must exist first |
//! | [`machine`] | the emulated machine |
//! | [`testbed`] | this host's KVM or the emulated machine |
//! | [`topology_files`] | what a topology needs, to run it in the machine |
//! | [`job`] | a piece of work for a testbed, and its outcome |
//! | [`source`] | the label of a figure: emulated, nested or hardware |
//! | [`diagnosis`] | signs of trouble in logs |
//! | [`interrupt`] | Ctrl-C |
//! | [`output`] | files that appear whole or not at all |
//!
//! # Example
//!
//! A job is a script, the files that it needs, and those that it gives back. A testbed runs it
//! (`Testbed::prepare()?.run(&[job], "")`), and its outcome says how it went.
//!
//! ```
//! use postern_lab::job::{Job, JobOutcome};
//!
//! let job = Job::new("greet", "cat greeting > copy")
//!     .bytes("greeting", b"hello".as_slice())
//!     .fetch("copy");
//! assert_eq!(job.fetch, ["copy"]);
//!
//! let failed = JobOutcome {
//!     status: Some(3),
//!     ..JobOutcome::default()
//! };
//! assert!(failed.success().is_err());
//! ```
#![deny(unsafe_code)]

pub mod diagnosis;
pub mod interrupt;
pub mod job;
pub mod machine;
pub mod output;
pub mod setup;
pub mod source;
pub mod testbed;
pub mod topology_files;
