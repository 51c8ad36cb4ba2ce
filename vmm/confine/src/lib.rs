//! Confinement: what a thread of Postern's processes may still ask of the host's kernel once it
//! works for guests.
//!
//! A guest that takes over the process that runs it, by a defect of a device model, has that
//! process's system calls, descriptors and memory. So a process gives up before the guest's first
//! instruction what it does not need any more: all capabilities, privileges that programs could
//! give (`no_new_privs`), and every system call that none of its threads makes (seccomp_filter.rst
//! of the kernel's documentation). Memory is shared between threads: what one may do, all can be
//! made to do. So the calls that matter are in no thread's list: there is no opening, connecting,
//! executing or tracing, no mapping of files, no executable memory, no receiving of descriptors, no
//! making of VMs and no attaching of views.
//!
//! | module | what |
//! | --- | --- |
//! | `kind` | kinds of threads |
//! | `table` | the system calls of each kind |
//! | `filter` | the table as seccomp filters |
//! | `trap` | what becomes of a process that makes another call |
//! | `capabilities` | dropping capabilities |
//! | `threads` | starting threads that are confined |
//! | `system` | what neither Rust nor rustix has |
//!
//! A program calls [`turn_on`] before it starts threads, opens all that it needs, starts threads by
//! [`spawn`], and has its main thread [`enter`] a filter. In a process that has not called it
//! nothing is confined, and [`spawn`] starts a plain thread: so libraries and their tests need not
//! know.
//!
//! ```
//! use postern_confine::{Kind, spawn};
//!
//! let thread = spawn(Kind::Console, "console", || 1 + 1)?;
//! assert_eq!(thread.join().ok(), Some(2));
//! # Ok::<(), std::io::Error>(())
//! ```

mod capabilities;
mod error;
mod filter;
mod kind;
mod system;
mod table;
mod threads;
mod trap;

pub use error::Error;
pub use kind::Kind;
pub use threads::{enter, enter_alone, give_up_privileges, is_on, spawn, spawn_prepared, turn_on};
pub use trap::before_the_end;
