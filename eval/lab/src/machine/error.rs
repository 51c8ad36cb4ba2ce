//! What can go wrong with a machine.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use postern_init::DecodeError;

/// A machine that could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// A file or process could not be handled.
    #[error("emulated machine: {what}")]
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
        "emulated machine: cannot start {} (`cargo lab setup` builds it)",
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
        "emulated machine: not done after {} s; {}",
        after.as_secs(),
        end_of("console", tail)
    )]
    Timeout {
        /// The time it was given.
        after: Duration,
        /// End of the console.
        tail: String,
    },
    /// The machine's kernel panicked.
    #[error("emulated machine: {line}; {}", end_of("console", tail))]
    KernelPanic {
        /// The kernel's last line.
        line: String,
        /// End of the console.
        tail: String,
    },
    /// The emulator gave up, for example at a triple fault.
    #[error("emulated machine: Bochs: {line}; {}", end_of("console", tail))]
    Emulator {
        /// Bochs' reason.
        line: String,
        /// End of the console.
        tail: String,
    },
    /// The machine ended before its work was done, and gave no reason.
    #[error(
        "emulated machine: it ended before its work was done; {}",
        end_of("console", tail)
    )]
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

/// What is told of the end of something that the machine wrote.
fn end_of(what: &str, tail: &str) -> String {
    match tail.trim().is_empty() {
        true => format!("its {what} is empty"),
        false => format!("the end of its {what}:\n{tail}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_console_is_told_as_such() {
        let timeout = |tail: &str| {
            let error = MachineError::Timeout {
                after: Duration::from_secs(3),
                tail: tail.to_owned(),
            };
            error.to_string()
        };
        let empty = "emulated machine: not done after 3 s; its console is empty";
        assert_eq!(timeout("\n"), empty);
        let words = "emulated machine: not done after 3 s; the end of its console:\n    words\n";
        assert_eq!(timeout("    words\n"), words);
    }

    #[test]
    fn the_reason_is_told_once() {
        let error = anyhow::Error::from(MachineError::Prepare {
            what: "reading x.ko".to_owned(),
            source: io::Error::other("no file"),
        });
        assert_eq!(
            format!("{error:#}"),
            "emulated machine: reading x.ko: no file"
        );
    }
}
