//! Why a function cannot be put on the bus.
#![deny(unsafe_code)]

use std::io;

use super::config::ConfigError;
use crate::layout;

/// What can fail with a PCI bus before the guest runs.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An identity that no function can have.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// More functions than the bus has devices.
    #[error(
        "the VM's PCI bus has room for {most} devices: give it fewer disks, interfaces and the like",
        most = layout::PCI_DEVICES - 1
    )]
    Full,
    /// A second function that is to have an I/O APIC for its pin.
    #[error("a PCI bus has one pin that is not shared, and another function has it")]
    OwnPin,
    /// A memory BAR without memory.
    #[error("PCI function {id:#06x?} has no memory for its BAR {bar}")]
    NoMemory {
        /// Vendor and device ID.
        id: (u16, u16),
        /// Index of the BAR.
        bar: usize,
    },
    /// A BAR for which there is no place.
    #[error(
        "the VM's physical address space has no place for BAR {bar} ({size:#x} bytes) of PCI function {id:#06x?}"
    )]
    NoRoom {
        /// Vendor and device ID.
        id: (u16, u16),
        /// Index of the BAR.
        bar: usize,
        /// Its size in bytes.
        size: u64,
    },
    /// No event descriptor or interrupt route is left.
    #[error("cannot make the interrupts of PCI function {id:#06x?}")]
    Interrupts {
        /// Vendor and device ID.
        id: (u16, u16),
        /// The system's error.
        source: io::Error,
    },
    /// KVM refuses memory or an event.
    #[error("cannot map the BARs of PCI function {id:#06x?}")]
    Map {
        /// Vendor and device ID.
        id: (u16, u16),
        /// The system's error.
        source: io::Error,
    },
}
