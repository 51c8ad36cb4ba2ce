//! Errors of subcommands: what to say and which status to end with.
#![deny(unsafe_code)]

use postern_nic_client::request::ClientError;
use postern_nic_owner::server::ServerError;
use postern_vmm::{status, vm};

/// Why a subcommand failed.
#[derive(Debug)]
pub struct CommandError {
    /// The exit status.
    pub status: u8,
    /// What to tell the user.
    pub error: anyhow::Error,
}

impl CommandError {
    /// Flags, configuration or files are unfit.
    pub fn configuration(error: impl Into<anyhow::Error>) -> CommandError {
        CommandError {
            status: status::CONFIGURATION,
            error: error.into(),
        }
    }

    /// Something failed that no user could have avoided.
    pub fn internal(error: impl Into<anyhow::Error>) -> CommandError {
        CommandError {
            status: status::INTERNAL,
            error: error.into(),
        }
    }
}

impl From<vm::Error> for CommandError {
    fn from(error: vm::Error) -> CommandError {
        CommandError {
            status: error.status(),
            error: error.into(),
        }
    }
}

impl From<ServerError> for CommandError {
    fn from(error: ServerError) -> CommandError {
        let status = match &error {
            ServerError::Image(_)
            | ServerError::InUse(_)
            | ServerError::NotASocket(_)
            | ServerError::Listen { .. }
            | ServerError::Kept { .. }
            | ServerError::NoSuchPort { .. } => status::CONFIGURATION,
            ServerError::Memory(_)
            | ServerError::Keeper(_)
            | ServerError::Clock(_)
            | ServerError::Bells(_)
            | ServerError::Wait(_) => status::NIC,
        };
        CommandError {
            status,
            error: error.into(),
        }
    }
}

impl From<ClientError> for CommandError {
    fn from(error: ClientError) -> CommandError {
        let status = match &error {
            ClientError::Refused { .. } | ClientError::TooLong { .. } => status::CONFIGURATION,
            _ => status::NIC,
        };
        CommandError {
            status,
            error: error.into(),
        }
    }
}
