//! Devices and the buses that find them.
//!
//! Each vCPU has a bus of its own, made by its thread, so a device that only one vCPU needs is
//! reached without a lock; one that all share is put on every bus by [`Shared`]. Ports without a
//! device read as all ones and ignore writes, as on a PC; so do addresses in memory. Functions of the
//! PCI bus are in [`crate::pci`].

mod bus;
mod exit;
mod outbox;
mod panic;
mod power;
mod request;
mod serial;
mod snapshot;

pub use bus::{Bus, DeviceError, Effect, MmioDevice, PioDevice, Shared};
pub use exit::ExitPort;
pub use outbox::Outbox;
pub use panic::PanicPort;
pub use power::PowerPorts;
pub use request::{Bells, RequestPort};
pub use serial::Serial;
pub use snapshot::SnapshotPort;
