//! What can go wrong with a machine.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use postern_init::DecodeError;

/// A machine that could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// A file or process could not be handled.
    #[error("emulated machine: {what}: {source}")]
    Prepare {
        /// The operation that failed.
        what: String,
        /// The system's error.
        source: io::Error,
    },
    /// A tool failed.
    #[error("emulated machine: {tool} failed: {message}")]
    Tool {
        /// Name of the tool.
        tool: String,
        /// Message of the tool.
        message: String,
    },
    /// The emulator could not be started.
    #[error(
        "emulated machine: cannot start {}: {source}; `cargo lab setup` builds it",
        program.display()
    )]
    Start {
        /// The emulator.
        program: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The machine was not done in time.
    #[error(
        "emulated machine: not done after {} s; the end of its console:\n{tail}",
        after.as_secs()
    )]
    Timeout {
        /// The time it was given.
        after: Duration,
        /// End of the console.
        tail: String,
    },
    /// The machine's kernel panicked.
    #[error("emulated machine: {line}; the end of its console:\n{tail}")]
    KernelPanic {
        /// The kernel's last line.
        line: String,
        /// End of the console.
        tail: String,
    },
    /// The emulator gave up, for example at a triple fault.
    #[error("emulated machine: Bochs: {line}; the end of its console:\n{tail}")]
    Emulator {
        /// Bochs' reason.
        line: String,
        /// End of the console.
        tail: String,
    },
    /// The machine ended before its work was done, and gave no reason.
    #[error("emulated machine: it ended before its work was done; the end of its console:\n{tail}")]
    Ended {
        /// End of the console.
        tail: String,
    },
    /// A kernel module could not be loaded.
    #[error("emulated machine: loading {module}: {error}; the end of the kernel's log:\n{tail}")]
    Module {
        /// The module's file.
        module: String,
        /// The kernel's error.
        error: String,
        /// End of the kernel's log.
        tail: String,
    },
    /// The machine's output is not a sequence of records.
    #[error("emulated machine: {0}")]
    Records(#[from] DecodeError),
    /// The user pressed Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}
