//! A VMM's side of the socket: asking for a port.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::fd::OwnedFd;
use std::path::{self, PathBuf};
use std::time::Duration;

use postern_abi::platform::CallPath;
use postern_abi::window::Geometry;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with,
};

use crate::control::Control;
use crate::counters::Counters;
use crate::protocol::{
    Grant, MAX_REPLY, MAX_REQUEST, ProtocolError, REQUEST_SIZE, Reply, Request, Status,
};
use crate::socket;
use postern_switch::credentials::Credentials;
use serde::de::DeserializeOwned;

/// How long a NIC may take for an answer: it may have to pin all of its memory, and to wait for the
/// end of a former tenant's process.
const PATIENCE: Duration = Duration::from_secs(20);

/// Most bytes of an answer in a file, several times what the largest NIC has.
const MAX_FILE: u64 = 16 << 20;

/// Why there is no port.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers.
    #[error(
        "cannot connect to the NIC at {}; start one with postern nic --socket {}",
        socket.display(), socket.display()
    )]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The connection broke.
    #[error("lost the NIC at {} while waiting for its answer; see what it printed", socket.display())]
    Lost {
        /// The socket.
        socket: PathBuf,
        /// How.
        source: io::Error,
    },
    /// It speaks another language.
    #[error("what answers at {} is not a NIC of this version", socket.display())]
    Protocol {
        /// The socket.
        socket: PathBuf,
        /// What it said.
        source: ProtocolError,
    },
    /// It said yes and gave something else.
    #[error("the NIC at {} said yes and sent {found} descriptors instead of {expected}", socket.display())]
    Descriptors {
        /// The socket.
        socket: PathBuf,
        /// How many belong to the path.
        expected: usize,
        /// How many came.
        found: usize,
    },
    /// The request is longer than requests are.
    #[error("the request has {size} bytes and may have {most}: shorten the policy")]
    TooLong {
        /// Its size in bytes.
        size: usize,
        /// The most that there may be.
        most: usize,
    },
    /// It says no.
    #[error("the NIC at {} refused: {text}", socket.display())]
    Refused {
        /// The socket.
        socket: PathBuf,
        /// The kind of reason.
        status: Status,
        /// The reason.
        text: String,
    },
}

/// A port. It is given back when the value is dropped.
#[derive(Debug)]
pub struct Attachment {
    /// How requests reach the NIC.
    pub path: CallPath,
    /// Port, tenancy and geometry, for [`postern_switch::switch::serve`].
    pub caller: Credentials,
    /// MAC address that the NIC suggests to the guest.
    pub mac: [u8; 6],
    /// What the path works with.
    pub resources: Resources,
    /// The port is this tenant's as long as the connection stands.
    _connection: OwnedFd,
}

/// Descriptors of an attachment.
#[derive(Debug)]
pub enum Resources {
    /// `elisa`, `elisa-strict`, `exit-kernel`.
    View {
        /// Sealed, to be attached to each vCPU.
        view: OwnedFd,
        /// The port's own window, a memfd of [`Geometry::window_size`] bytes.
        window: OwnedFd,
    },
    /// `exit-user`, `direct`: for [`crate::memory::Memory::open`].
    Memory {
        /// The switch state, a memfd of [`postern_switch::state::size`] bytes.
        state: OwnedFd,
        /// The windows of all ports, memfds of [`Geometry::window_size`] bytes.
        windows: Vec<OwnedFd>,
    },
}

impl Attachment {
    /// Ports, queues and sizes of the NIC.
    pub fn geometry(&self) -> Geometry {
        self.caller.geometry()
    }
}

/// Asks the NIC at a socket for a port.
///
/// # Errors
/// Why there is none; [`ClientError::Refused`] carries the NIC's own reason.
pub fn attach(socket: &path::Path, port: u32, path: CallPath) -> Result<Attachment, ClientError> {
    let request = Request::Attach { port, path };
    let (connection, reply, descriptors) = ask(socket, &request)?;
    let Some(Grant { caller, mac }) = reply.grant else {
        return Err(ClientError::Protocol {
            socket: socket.to_owned(),
            source: ProtocolError::Field {
                field: "caller",
                value: 0,
            },
        });
    };
    let expected = match path {
        CallPath::Elisa | CallPath::ElisaStrict | CallPath::ExitKernel => 2,
        CallPath::ExitUser | CallPath::Direct => 1 + caller.geometry().ports() as usize,
    };
    let found = descriptors.len();
    let mut descriptors = descriptors.into_iter();
    let (Some(first), true) = (descriptors.next(), found == expected) else {
        return Err(ClientError::Descriptors {
            socket: socket.to_owned(),
            expected,
            found,
        });
    };
    let resources = match (path, descriptors.next()) {
        (CallPath::Elisa | CallPath::ElisaStrict | CallPath::ExitKernel, Some(window)) => {
            Resources::View {
                view: first,
                window,
            }
        }
        (_, second) => Resources::Memory {
            state: first,
            windows: second.into_iter().chain(descriptors).collect(),
        },
    };
    Ok(Attachment {
        path,
        caller,
        mac,
        resources,
        _connection: connection,
    })
}

/// Asks the NIC at a socket for the counters of all its ports.
///
/// # Errors
/// When it does not answer with counters.
pub fn counters(socket: &path::Path) -> Result<Counters, ClientError> {
    file(socket, &Request::Counters)
}

/// Asks the owner of the NIC at a socket for something; the kinds of answers are with [`Control`], those without
/// one are `()`.
///
/// # Errors
/// When it does not do that, or gives another kind of answer.
pub fn control<T: DeserializeOwned>(
    socket: &path::Path,
    control: &Control,
) -> Result<T, ClientError> {
    let text = serde_json::to_vec(control).map_err(|error| ClientError::Lost {
        socket: socket.to_owned(),
        source: error.into(),
    })?;
    let size = REQUEST_SIZE + text.len();
    if size > MAX_REQUEST {
        return Err(ClientError::TooLong {
            size,
            most: MAX_REQUEST,
        });
    }
    file(socket, &Request::Control(text))
}

/// An answer that comes in a file.
fn file<T: DeserializeOwned>(socket: &path::Path, request: &Request) -> Result<T, ClientError> {
    let (_, _, descriptors) = ask(socket, request)?;
    let found = descriptors.len();
    let Some(file) = descriptors.into_iter().next() else {
        return Err(ClientError::Descriptors {
            socket: socket.to_owned(),
            expected: 1,
            found,
        });
    };
    let text = BufReader::new(File::from(file).take(MAX_FILE));
    serde_json::from_reader(text).map_err(|error| ClientError::Lost {
        socket: socket.to_owned(),
        source: error.into(),
    })
}

fn ask(
    socket: &path::Path,
    request: &Request,
) -> Result<(OwnedFd, Reply, Vec<OwnedFd>), ClientError> {
    let connection = dial(socket).map_err(|errno| ClientError::Connect {
        socket: socket.to_owned(),
        source: errno.into(),
    })?;
    let lost = |errno: Errno| ClientError::Lost {
        socket: socket.to_owned(),
        source: errno.into(),
    };
    socket::send(&connection, &request.encode(), &[], SendFlags::empty()).map_err(lost)?;
    let mut buffer = vec![0; MAX_REPLY];
    let (size, mut descriptors) = socket::receive(&connection, &mut buffer).map_err(lost)?;
    if size == 0 {
        return Err(lost(Errno::CONNRESET));
    }
    let reply = Reply::decode(&buffer[..size]).map_err(|source| ClientError::Protocol {
        socket: socket.to_owned(),
        source,
    })?;
    if reply.status != Status::Granted {
        return Err(ClientError::Refused {
            socket: socket.to_owned(),
            status: reply.status,
            text: reply.text,
        });
    }
    while !descriptors.is_empty() && descriptors.len() < reply.descriptors as usize {
        let (_, more) = socket::receive(&connection, &mut buffer).map_err(lost)?;
        if more.is_empty() {
            break;
        }
        descriptors.extend(more);
    }
    Ok((connection, reply, descriptors))
}

fn dial(path: &path::Path) -> Result<OwnedFd, Errno> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    for which in [Timeout::Recv, Timeout::Send] {
        set_socket_timeout(&socket, which, Some(PATIENCE))?;
    }
    connect(&socket, &address)?;
    Ok(socket)
}
