//! Virtio devices (Virtual I/O Device (VIRTIO) 1.2) and their transport.
//!
//! A device is a [`VirtioDevice`]; [`pci::VirtioPci`] makes a function of the PCI bus of it.

pub mod blk;
mod buffers;
mod chain;
mod device;
mod kick;
pub mod net;
pub mod pci;
mod poll;
mod relay;
pub mod rng;
mod scheduling;
mod vhost;
pub mod vsock;

pub use device::{ActivateError, Activation, ActiveQueue, DeviceStatus, Notifier, VirtioDevice};
