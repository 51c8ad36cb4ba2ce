//! Why a guest's start cannot be prepared.
#![deny(unsafe_code)]

use linux_loader::configurator;
use vm_memory::GuestMemoryError;

/// Why a guest's start cannot be prepared.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A structure could not be written; RAM of at least [`crate::layout::MIN_RAM`] holds all.
    #[error("cannot write the {what} into guest memory")]
    Write {
        /// Name of the structure.
        what: &'static str,
        /// The error of the write.
        source: GuestMemoryError,
    },
    /// The zero page could not be written.
    #[error("cannot write the zero page into guest memory")]
    BootParams(#[source] configurator::Error),
    /// The command line has bytes that cannot be passed.
    #[error("the command line {0:?} has a byte that is not printable ASCII: leave it out")]
    CmdlineByte(String),
    /// The command line is too long.
    #[error("the command line has {length} bytes, but the kernel takes at most {max}: shorten it")]
    CmdlineTooLong {
        /// Bytes of the command line.
        length: usize,
        /// The most that the kernel takes.
        max: usize,
    },
}
