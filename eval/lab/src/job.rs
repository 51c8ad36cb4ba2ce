//! Jobs: shell scripts that testbeds run, with the files that they need and make, and their
//! outcomes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::diagnosis;

/// Content of a file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Content {
    /// A file of the host.
    File(PathBuf),
    /// The bytes themselves.
    Bytes(Vec<u8>),
}

impl From<PathBuf> for Content {
    fn from(path: PathBuf) -> Self {
        Content::File(path)
    }
}

impl From<&[u8]> for Content {
    fn from(bytes: &[u8]) -> Self {
        Content::Bytes(bytes.to_vec())
    }
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Content::Bytes(bytes)
    }
}

/// A shell script, the files it needs and the files it makes.
///
/// It runs in a directory of its own, where its files are; it should name them by relative paths.
#[derive(Clone, Debug)]
pub struct Job {
    /// Name of the job, for messages.
    pub name: String,
    /// Script for a POSIX shell.
    pub script: String,
    /// Files by their path, relative to the job's directory.
    pub files: BTreeMap<String, Content>,
    /// Files to bring back.
    pub fetch: Vec<String>,
    /// Time after which it is killed, by the testbed's clock: in the emulated machine, 100 million
    /// instructions are one second.
    pub timeout: Duration,
}

impl Job {
    /// A job without files that has two minutes.
    pub fn new(name: &str, script: &str) -> Self {
        Self {
            name: name.to_owned(),
            script: script.to_owned(),
            files: BTreeMap::new(),
            fetch: Vec::new(),
            timeout: Duration::from_secs(120),
        }
    }

    /// Adds a file of the host.
    pub fn file(self, name: &str, path: impl Into<PathBuf>) -> Self {
        self.bytes(name, path.into())
    }

    /// Adds a file.
    pub fn bytes(mut self, name: &str, content: impl Into<Content>) -> Self {
        self.files.insert(name.to_owned(), content.into());
        self
    }

    /// Brings a file back.
    pub fn fetch(mut self, name: &str) -> Self {
        self.fetch.push(name.to_owned());
        self
    }

    /// Sets the time after which it is killed.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

/// Outcome of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobOutcome {
    /// Exit status, or 128 and the number of the signal that ended it; nothing if its time ran out.
    pub status: Option<i32>,
    /// Bytes that it wrote to standard output and error.
    pub output: Vec<u8>,
    /// Log of the kernel meanwhile: lines of `<priority>[seconds] text`.
    pub kernel_log: String,
    /// Files that were to be brought back.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Files that could not be brought back, and why.
    pub missing: BTreeMap<String, String>,
}

impl JobOutcome {
    /// The output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.output).into_owned()
    }

    /// A file that was brought back.
    ///
    /// # Errors
    ///
    /// The reason why the file was not brought back.
    pub fn file(&self, name: &str) -> Result<&[u8]> {
        match (self.files.get(name), self.missing.get(name)) {
            (Some(data), _) => Ok(data),
            (None, Some(error)) => bail!("no file {name}: {error}"),
            (None, None) => bail!("no file {name}: it was not asked for"),
        }
    }

    /// Lines of the kernel's log which mean that something is wrong.
    pub fn kernel_warnings(&self) -> Vec<&str> {
        diagnosis::kernel_warnings(&self.kernel_log)
    }

    /// The outcome itself, if the job ended with status 0, made all its files, and had no warning
    /// in the kernel's log.
    ///
    /// # Errors
    ///
    /// What failed, with the end of the output.
    pub fn success(self) -> Result<Self> {
        let tail = diagnosis::tail(&self.text());
        match self.status {
            Some(0) => {}
            Some(status) => bail!("it failed with status {status}; the end of its output:\n{tail}"),
            None => bail!("it was not done in time; the end of its output:\n{tail}"),
        }
        if let Some((name, error)) = self.missing.first_key_value() {
            bail!("it made no file {name}: {error}; the end of its output:\n{tail}");
        }
        if let Some(line) = self.kernel_warnings().first() {
            let log = diagnosis::tail(&self.kernel_log);
            bail!("the kernel complains: {line}; the end of its log:\n{log}");
        }
        Ok(self)
    }
}
