//! What a host and the first process of its emulated machine agree on.
//!
//! The host puts a [`Plan`] into the machine's initial file system. The first process carries it
//! out and sends [`Record`]s through an output port, which the machine appends to a file.

pub mod plan;
pub mod record;

pub use plan::{Command, Module, Plan};
pub use record::{DecodeError, Record, decode};

/// Path of the plan in the machine, as JSON.
pub const PLAN_PATH: &str = "/postern/plan.json";

/// Output port: every byte written to it (8, 16 or 32 bits at a time) is a byte of the output file.
pub const PORT_OUTPUT: u16 = 0x8940;

/// Any write to it brings the output file up to date.
pub const PORT_FLUSH: u16 = 0x8944;

/// Writing [`SHUTDOWN`] to it, byte by byte, switches the machine off.
pub const PORT_SHUTDOWN: u16 = 0x8900;

/// Bytes that switch the machine off when they are written to [`PORT_SHUTDOWN`].
pub const SHUTDOWN: &[u8] = b"Shutdown";
