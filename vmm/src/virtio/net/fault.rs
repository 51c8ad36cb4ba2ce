//! Why a device stops until its driver resets it.
#![deny(unsafe_code)]

use std::io;

use vm_memory::GuestMemoryError;

use crate::virtio::chain::BrokenQueue;
use crate::virtio::relay::RelayFault;

/// What ends the work on a device's queues: a mistake of the driver, or something of the host's that
/// is gone.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// A queue that cannot be accessed or makes no sense.
    #[error("the driver broke a queue ({0})")]
    Queue(#[from] BrokenQueue),
    /// Rings that cannot be accessed.
    #[error("the driver broke a queue ({0})")]
    Memory(#[from] GuestMemoryError),
    /// A buffer that the device may not access the way it has to.
    #[error("the driver gave a buffer to be written where one to be read is due, or the reverse")]
    WrongWay,
    /// More ranges than the host's kernel takes at once.
    #[error("the driver gave buffers in too many pieces, up to descriptor chain {0}")]
    Vectors(u16),
    /// A frame without the header that every frame has.
    #[error("the driver gave a frame shorter than its header")]
    NoHeader,
    /// A chain of the control queue that is no command.
    #[error("the driver gave a command without room for its answer")]
    NoAnswer,
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

impl From<virtio_queue::Error> for Fault {
    fn from(error: virtio_queue::Error) -> Fault {
        Fault::Queue(error.into())
    }
}
