//! Port I/O devices and the bus that finds them.
//!
//! Each vCPU has a bus of its own, made by its thread, so a device that only one vCPU needs is
//! reached without a lock; one that all share is put on every bus by [`Shared`]. Ports without a
//! device read as all ones and ignore writes, as on a PC. So do memory-mapped addresses: the VMM
//! has no device there at all.

mod bus;
mod exit;
mod outbox;
mod request;
mod serial;
mod snapshot;

pub use bus::{Bus, DeviceError, Effect, PioDevice, Shared};
pub use exit::ExitPort;
pub use outbox::Outbox;
pub use request::RequestPort;
pub use serial::{Output as SerialOutput, Serial};
pub use snapshot::SnapshotPort;
