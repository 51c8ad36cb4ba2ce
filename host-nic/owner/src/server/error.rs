//! Errors of the server: those that its caller gets, and those that clients get.
#![forbid(unsafe_code)]

use std::io;
use std::path::PathBuf;

use postern_abi::platform::CallPath;
use postern_abi::window::PortId;
use postern_nic_client::memory::MemoryError;
use postern_nic_client::protocol::Status;
use rustix::process::Pid;

use crate::image::ImageError;

/// A NIC that cannot be made, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// There is no memory for the NIC.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The file of the NIC's image is none.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Another NIC listens at the socket.
    #[error(
        "another NIC is already listening on {}; choose another socket, or end that one \
         (postern nic stop {} --discard)",
        .0.display(), .0.display()
    )]
    InUse(PathBuf),
    /// The name of the socket belongs to something else.
    #[error("{} exists and is not a socket; choose another name or remove it", .0.display())]
    NotASocket(PathBuf),
    /// The socket cannot be made.
    #[error("cannot listen on {}", socket.display())]
    Listen {
        /// The socket.
        socket: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A port of the options is not one of the NIC.
    #[error("there is no port {port} on a NIC of {ports} ports")]
    NoSuchPort {
        /// The number in the options.
        port: u32,
        /// Number of the NIC's ports.
        ports: u32,
    },
    /// There is no keeper.
    #[error(transparent)]
    Keeper(#[from] KeeperClientError),
    /// The NIC that is kept has another geometry than the options.
    #[error(
        "the NIC that is kept at {} has {kept}, not {wanted}; \
         ask for the same, or end it (postern nic stop {} --discard)",
        socket.display(), socket.display()
    )]
    Kept {
        /// Socket of the NIC that is kept.
        socket: PathBuf,
        /// Geometry of the NIC that is kept, as text.
        kept: String,
        /// The geometry of the options, as text.
        wanted: String,
    },
    /// The bells of the NIC's queues cannot be made.
    #[error("cannot make the bells of the NIC's queues")]
    Bells(#[source] io::Error),
    /// The clock does not run.
    #[error("cannot start the NIC's clock")]
    Clock(#[source] io::Error),
    /// The system refused something without which the server cannot go on.
    #[error("the NIC cannot wait for its clients")]
    Wait(#[source] io::Error),
}

/// A keeper that does not do its work, so that the NIC would not outlive its owner.
#[derive(Debug, thiserror::Error)]
pub enum KeeperClientError {
    /// The keeper does not start.
    #[error("cannot start the NIC's keeper, {}", program.display())]
    Start {
        /// The keeper's program.
        program: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The keeper does not take or give what it should.
    #[error("the NIC's keeper does not answer (while the owner wanted to {step})")]
    Lost {
        /// The step that was tried.
        step: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The keeper holds something that is no NIC.
    #[error(
        "what the keeper at {} holds is no NIC: {what}; stop the process that listens there",
        socket.display()
    )]
    Garbage {
        /// The socket at which the keeper listens.
        socket: PathBuf,
        /// The fault.
        what: &'static str,
    },
}

/// A port that was not let.
#[derive(Debug, thiserror::Error)]
pub(super) enum TenancyError {
    #[error("there is no port {port}; the NIC has ports 0 to {last}")]
    NoSuchPort { port: u32, last: u32 },
    #[error(
        "port {port} is taken{}; choose another or stop that VM", by_process(*.by)
    )]
    Taken { port: PortId, by: Option<Pid> },
    #[error("port {port} is an uplink or a capture; choose another or remove that")]
    Owner { port: PortId },
    #[error("port {port} is disabled; choose another or enable it (postern nic port)")]
    Disabled { port: PortId },
    #[error(
        "port {port} was given up by {}, which still has its memory; end that process \
         (postern nic port SOCKET {port} revoke --kill)",
        process_name(*.by)
    )]
    Leaving { port: PortId, by: Option<Pid> },
    #[error(
        "port {port} was given up by {}, which has ended and left its memory to another process; \
         end what it started",
        process_name(*.by)
    )]
    Left { port: PortId, by: Option<Pid> },
    #[error(
        "the NIC cannot see when the process ends that asks for a port: another one has connected \
         and is gone, or it is in a PID namespace that the NIC does not see; ask from a process \
         that connects itself, in the NIC's namespace"
    )]
    PeerUnknown,
    #[error("the NIC does not offer the path {}", .0.name())]
    PathRefused(CallPath),
    #[error("the path {} needs EPT views: {reason}", path.name())]
    NoViews { path: CallPath, reason: String },
    #[error("{0}")]
    Failed(String),
}

fn by_process(pid: Option<Pid>) -> String {
    pid.map_or(String::new(), |pid| format!(" by process {pid}"))
}

/// A process in words.
pub(super) fn process_name(pid: Option<Pid>) -> String {
    match pid {
        Some(pid) => format!("process {pid}"),
        None => "a process that has no number here".to_owned(),
    }
}

/// Grants that KVM did not take back.
#[derive(Debug, thiserror::Error)]
#[error("KVM did not take back what was granted for port {port}")]
pub(super) struct RevocationError {
    pub(super) port: PortId,
    pub(super) source: io::Error,
}

impl TenancyError {
    pub(super) fn status(&self) -> Status {
        match self {
            TenancyError::NoSuchPort { .. } => Status::NoSuchPort,
            TenancyError::Taken { .. }
            | TenancyError::Leaving { .. }
            | TenancyError::Left { .. }
            | TenancyError::Owner { .. } => Status::PortTaken,
            TenancyError::Disabled { .. } => Status::Disabled,
            TenancyError::PeerUnknown => Status::PeerUnknown,
            TenancyError::PathRefused(_) => Status::PathRefused,
            TenancyError::NoViews { .. } => Status::NoViews,
            TenancyError::Failed(_) => Status::Failed,
        }
    }
}

impl From<MemoryError> for TenancyError {
    fn from(error: MemoryError) -> TenancyError {
        TenancyError::Failed(explain(&error))
    }
}

impl From<KeeperClientError> for TenancyError {
    fn from(error: KeeperClientError) -> TenancyError {
        TenancyError::Failed(explain(&error))
    }
}

/// A request that is not fulfilled, as the client will hear it.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(super) struct RequestError {
    pub(super) status: Status,
    pub(super) text: String,
}

impl RequestError {
    /// The request makes no sense.
    pub(super) fn bad(text: impl Into<String>) -> RequestError {
        RequestError {
            status: Status::BadRequest,
            text: text.into(),
        }
    }

    /// The owner tried, and the system refused.
    pub(super) fn failed(text: impl Into<String>) -> RequestError {
        RequestError {
            status: Status::Failed,
            text: text.into(),
        }
    }
}

impl From<TenancyError> for RequestError {
    fn from(error: TenancyError) -> RequestError {
        RequestError {
            status: error.status(),
            text: error.to_string(),
        }
    }
}

impl From<RevocationError> for RequestError {
    fn from(error: RevocationError) -> RequestError {
        RequestError::failed(explain(&error))
    }
}

impl From<KeeperClientError> for RequestError {
    fn from(error: KeeperClientError) -> RequestError {
        RequestError::failed(explain(&error))
    }
}

impl From<serde_json::Error> for RequestError {
    fn from(error: serde_json::Error) -> RequestError {
        RequestError::failed(error.to_string())
    }
}

/// An error with all its causes, in one line.
pub(super) fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
