//! Why a guest's start cannot be prepared.
#![deny(unsafe_code)]

use vm_memory::GuestMemoryError;

use crate::layout;

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
    /// The command line has bytes that cannot be passed.
    #[error("the command line {0:?} has a byte that is not printable ASCII")]
    CmdlineByte(String),
    /// The command line is too long.
    #[error(
        "the command line has {0} bytes; there is room for {max}",
        max = layout::CMDLINE_SIZE - 1
    )]
    CmdlineTooLong(usize),
}
