//! Why a file or a text describes no topology.
#![deny(unsafe_code)]

use std::fmt;
use std::path::{Path, PathBuf};

use postern_nic_client::file::FileError;

/// Why a file describes no topology, or a topology cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("the topology {}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// The fault of the file.
        source: FileError,
    },
    /// Things in it are wrong: `FILE:LINE: SENTENCE`, one a line.
    #[error("{}", faults.join("\n"))]
    Content {
        /// The faults.
        faults: Vec<String>,
    },
    /// TOML cannot hold it.
    #[error("cannot write the topology as TOML")]
    Write(#[source] Box<toml::ser::Error>),
}

impl Error {
    pub(super) fn content(file: &Path, text: &str, faults: &[ContentError]) -> Error {
        Error::Content {
            faults: faults.iter().map(|fault| fault.told(file, text)).collect(),
        }
    }
}

/// A fault of a text, and where it is.
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

    /// The fault as people are told: `FILE:LINE: SENTENCE`.
    pub fn told(&self, file: &Path, text: &str) -> String {
        format!("{}:{}: {}", file.display(), self.line(text), self.message)
    }
}

/// All faults of a text that describes no topology, in the order of the text; one at least.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentErrors(pub Vec<ContentError>);

impl fmt::Display for ContentErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            let end = if index == 0 { "" } else { "; " };
            write!(f, "{end}{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ContentErrors {}
