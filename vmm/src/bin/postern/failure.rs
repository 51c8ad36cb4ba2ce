//! Errors of subcommands: what to say and which status to end with.

use postern_vmm::{status, vm};

/// Why a subcommand failed.
#[derive(Debug)]
pub struct Failure {
    /// The exit status.
    pub status: u8,
    /// What to tell the user.
    pub error: anyhow::Error,
}

impl Failure {
    /// Flags, configuration or files are unfit.
    pub fn configuration(error: impl Into<anyhow::Error>) -> Failure {
        Failure {
            status: status::CONFIGURATION,
            error: error.into(),
        }
    }

    /// Something failed that no user could have avoided.
    pub fn internal(error: impl Into<anyhow::Error>) -> Failure {
        Failure {
            status: status::INTERNAL,
            error: error.into(),
        }
    }
}

impl From<vm::Error> for Failure {
    fn from(error: vm::Error) -> Failure {
        Failure {
            status: error.status(),
            error: error.into(),
        }
    }
}
