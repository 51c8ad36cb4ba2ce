//! Why a device stops until its driver resets it.
#![deny(unsafe_code)]

use std::io;

use vm_memory::GuestMemoryError;

use crate::virtio::relay::RelayFault;

/// What ends the work on a device's queues: a mistake of the driver, or something of the host's that
/// is gone.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// More descriptors in a chain than the queue has.
    #[error("the driver gave a chain with more descriptors than the queue has")]
    ChainLength,
    /// A descriptor that cannot be, or a chain that goes round.
    #[error("the driver gave a chain of descriptors that is broken")]
    Chain,
    /// A buffer that the device may not access the way it has to.
    #[error("the driver gave a buffer to be written where one to be read is due, or the reverse")]
    WrongWay,
    /// A buffer that is not RAM, or one in too many pieces.
    #[error("the driver gave a buffer that is not in its memory")]
    NotRam,
    /// A frame without the header that every frame has.
    #[error("the driver gave a frame shorter than its header")]
    NoHeader,
    /// A chain of the control queue that is no command.
    #[error("the driver gave a command without room for its answer")]
    NoAnswer,
    /// Rings that cannot be accessed, or an index that cannot be.
    #[error("the driver broke a queue ({0})")]
    Queue(#[from] virtio_queue::Error),
    /// Rings that cannot be accessed.
    #[error("the driver broke a queue ({0})")]
    Memory(#[from] GuestMemoryError),
    /// The driver cannot be interrupted.
    #[error("the driver cannot be interrupted ({0})")]
    Call(io::Error),
    /// What the kernel's backend has told.
    #[error(transparent)]
    Relay(#[from] RelayFault),
    /// The TAP is gone.
    #[error("the TAP is gone ({0})")]
    Tap(io::Error),
    /// The host refused a call.
    #[error("the host refused to {0} ({1})")]
    Host(&'static str, io::Error),
}
