//! The PCI bus of a VM and its functions.
//!
//! A [`Segment`] has one bus: a host bridge, and up to 31 devices of one function each
//! ([`PciFunction`]). The bus has all of configuration space: headers, BARs, capabilities, MSI-X
//! tables. A function sees accesses to the registers behind its BARs. Guests reach configuration
//! space by memory ([`crate::layout::PCI_ECAM`]) and by I/O ports ([`ConfigPorts`]).
//!
//! What the bus needs of the VM is a [`Machine`]: [`KvmMachine`] on KVM, [`Detached`] for tests and
//! fuzzing. Whatever a guest writes is hostile: a function whose BAR cannot be where it is put is
//! not there, and costs nobody else anything.
//!
//! Locks are taken in this order: the ports' address register, the bus, a function, the function's
//! interrupts, its I/O APIC, the machine.

mod bars;
mod config;
mod error;
mod function;
mod interrupts;
mod io_apic;
mod ivshmem;
mod kvm;
mod machine;
mod ports;
mod segment;
mod slot;
#[cfg(test)]
mod tests;

pub use config::ConfigError;
pub use error::Error;
pub use function::{
    Bar, BarKind, BarMemory, Doorbell, Identity, Interrupts, Intx, PciFunction, Pin,
};
pub use io_apic::{FIRST_ID, IoApic};
pub use ivshmem::{Bell, Ivshmem, Peers};
pub use kvm::KvmMachine;
pub use machine::{Detached, Machine, Message, SlotNumber};
pub use ports::ConfigPorts;
pub use segment::Segment;
