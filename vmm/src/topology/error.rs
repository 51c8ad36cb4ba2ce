//! Why a file or a text describes no topology.
#![deny(unsafe_code)]

use std::io;
use std::path::PathBuf;

/// Why a file describes no topology, or a topology cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Something in it is wrong.
    #[error("{}:{line}: {message}", file.display())]
    Content {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The fault, in words.
        message: String,
    },
    /// TOML cannot hold it.
    #[error("cannot write the topology as TOML")]
    Write(#[source] Box<toml::ser::Error>),
}

/// A text that describes no topology: its fault, and where it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ContentError {
    /// The byte of the text that the message is about.
    pub offset: usize,
    /// The fault, in words.
    pub message: String,
}

impl ContentError {
    /// The line of `text` that the message is about, from 1.
    pub fn line(&self, text: &str) -> usize {
        let before = text.as_bytes().iter().take(self.offset);
        1 + before.filter(|&&byte| byte == b'\n').count()
    }
}
