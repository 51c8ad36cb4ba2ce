//! Capture files that cannot be made or written.
#![forbid(unsafe_code)]

use std::io;
use std::path::PathBuf;

/// A capture file that cannot be made, or holds not all of a capture.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file exists already.
    #[error("capture file {} exists; remove it or name another", file.display())]
    Exists {
        /// The file.
        file: PathBuf,
    },
    /// The file cannot be made.
    #[error("cannot create capture file {}", file.display())]
    Create {
        /// The file.
        file: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error(
        "cannot write to capture file {}; it holds what was captured before that", file.display()
    )]
    Write {
        /// The file.
        file: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file system does not take the last frames.
    #[error(
        "the last frames have not been written to capture file {} within seconds; its file system \
         does not answer, or is slow", file.display()
    )]
    Slow {
        /// The file.
        file: PathBuf,
    },
    /// The thread cannot be started.
    #[error("cannot start the thread that writes capture file {}", file.display())]
    Thread {
        /// The file.
        file: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}
