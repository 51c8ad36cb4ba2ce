//! Requests to the owner of a NIC: for a port, for counters, for a change.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{self, PathBuf};
use std::time::Duration;

use postern_abi::platform::CallPath;
use postern_abi::window::Geometry;
use postern_switch::credentials::Credentials;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv,
    socket_with,
};
use serde::de::DeserializeOwned;

use crate::control::Control;
use crate::counters::NicCounters;
use crate::protocol::{
    Grant, MAX_REPLY, MAX_REQUEST, ProtocolError, REQUEST_SIZE, Reply, Request, Status, TenancyFds,
};
use crate::socket;

/// Time that an owner may take for an answer: it may have to pin all of the NIC's memory, and to
/// wait for the end of a former tenant's process.
const REPLY_TIMEOUT: Duration = Duration::from_secs(20);

/// Size of the largest answer in a file, in bytes: several times what the largest NIC needs.
const MAX_FILE: u64 = 16 << 20;

/// A request that was not fulfilled.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens at the socket.
    #[error(
        "cannot connect to the NIC at {}; start one with postern nic --socket {}",
        socket.display(), socket.display()
    )]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The NIC is kept, and has no owner.
    #[error(
        "the owner of the NIC at {} has ended, and the NIC is kept: start another owner with \
         postern nic --socket {}, or end the NIC with postern nic stop {} --discard",
        socket.display(), socket.display(), socket.display()
    )]
    NoOwner {
        /// The socket.
        socket: PathBuf,
    },
    /// The owner lives, and does not answer. It does nothing for a client that has gone.
    #[error(
        "the owner of the NIC at {} has not answered for {} s: look whether it is stopped or busy, \
         and ask again; what it has not begun by now it will not do",
        socket.display(), REPLY_TIMEOUT.as_secs()
    )]
    Timeout {
        /// The socket.
        socket: PathBuf,
    },
    /// The connection broke.
    #[error(
        "lost the NIC at {} while waiting for its answer; see what it printed, and whether it has \
         done it (postern nic show)",
        socket.display()
    )]
    Lost {
        /// The socket.
        socket: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The answer is none of this protocol.
    #[error("what answers at {} is not a NIC of this version", socket.display())]
    Protocol {
        /// The socket.
        socket: PathBuf,
        /// The fault of the answer.
        source: ProtocolError,
    },
    /// The reply grants the request, and has other descriptors than the path needs.
    #[error(
        "the NIC at {} said yes and sent {found} descriptors instead of {expected}",
        socket.display()
    )]
    Descriptors {
        /// The socket.
        socket: PathBuf,
        /// Number of descriptors that the path needs.
        expected: usize,
        /// Number of descriptors that came.
        found: usize,
    },
    /// The request is longer than requests are.
    #[error("the request has {size} bytes and may have {most}: shorten the policy")]
    TooLong {
        /// The size of the request in bytes.
        size: usize,
        /// The size of the largest request in bytes.
        most: usize,
    },
    /// The NIC refused the request.
    #[error("the NIC at {} refused: {text}", socket.display())]
    Refused {
        /// The socket.
        socket: PathBuf,
        /// The kind of the reason.
        status: Status,
        /// The reason.
        text: String,
    },
}

/// The tenancy of a port. It ends when the value is dropped.
#[derive(Debug)]
pub struct Tenancy {
    /// The way of requests to the NIC.
    pub path: CallPath,
    /// Port, tenancy and geometry, for [`postern_switch::switch::serve`].
    pub credentials: Credentials,
    /// The MAC address that the NIC suggests to the guest.
    pub mac: [u8; 6],
    /// The descriptors that the path works with.
    pub fds: TenancyFds<OwnedFd>,
    /// The connection for whose time the port is this tenant's.
    connection: OwnedFd,
}

impl Tenancy {
    /// Ports, queues and sizes of the NIC.
    pub fn geometry(&self) -> Geometry {
        self.credentials.geometry()
    }

    /// What tells the end of the tenancy, also on another thread. While the value is there, the NIC
    /// takes the tenancy for one that goes on.
    ///
    /// # Errors
    ///
    /// No descriptor is left.
    pub fn end(&self) -> io::Result<TenancyEnd> {
        self.connection.try_clone().map(TenancyEnd)
    }
}

/// Tells the end of a tenancy that its tenant has not ended.
#[derive(Debug)]
pub struct TenancyEnd(OwnedFd);

/// Why a tenancy has ended, or is to be the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// The NIC's owner has taken the port back; this is what it said.
    Revoked(String),
    /// The NIC's owner has gone, and has nobody in its place.
    OwnerGone,
}

impl TenancyEnd {
    /// Waits until the NIC has ended the tenancy or has gone; nothing if `stop` can be read before.
    ///
    /// # Errors
    ///
    /// The system does not let it wait.
    pub fn wait(&self, stop: BorrowedFd<'_>) -> io::Result<Option<EndReason>> {
        let mut fds = [
            PollFd::new(&self.0, PollFlags::IN),
            PollFd::from_borrowed_fd(stop, PollFlags::IN),
        ];
        loop {
            match poll(&mut fds, None) {
                Ok(_) if fds[0].revents().is_empty() => return Ok(None),
                Ok(_) => {
                    if let Some(reason) = self.reason() {
                        return Ok(Some(reason));
                    }
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// What the NIC has said last, if that is an end. Where it has answered and then died, its keeper
    /// cannot know that the answer was sent, and sends one that means nothing to a tenant.
    fn reason(&self) -> Option<EndReason> {
        let mut buffer = vec![0; MAX_REPLY];
        let received = recv(&self.0, &mut buffer[..], RecvFlags::DONTWAIT);
        let reply = received.map(|(size, _)| Reply::decode(&buffer[..size]));
        match reply {
            Ok(Ok(reply)) if reply.status == Status::NoOwner => None,
            Ok(Ok(reply)) if reply.status == Status::Revoked => {
                Some(EndReason::Revoked(reply.text))
            }
            _ => Some(EndReason::OwnerGone),
        }
    }
}

/// Asks the NIC at a socket for a port.
///
/// # Errors
///
/// There is no answer, or none of this protocol; [`ClientError::Refused`] carries the NIC's own
/// reason.
pub fn port(socket: &path::Path, port: u32, path: CallPath) -> Result<Tenancy, ClientError> {
    let request = Request::Attach { port, path };
    let (connection, reply, descriptors) = exchange(socket, &request)?;
    let Some(Grant { credentials, mac }) = reply.grant else {
        return Err(ClientError::Protocol {
            socket: socket.to_owned(),
            source: ProtocolError::Field {
                field: "credentials",
                value: 0,
            },
        });
    };
    let (geometry, found) = (credentials.geometry(), descriptors.len());
    let Some(fds) = TenancyFds::from_wire(path, geometry, descriptors) else {
        return Err(ClientError::Descriptors {
            socket: socket.to_owned(),
            expected: TenancyFds::<OwnedFd>::count(path, geometry),
            found,
        });
    };
    Ok(Tenancy {
        path,
        credentials,
        mac,
        fds,
        connection,
    })
}

/// Asks the NIC at a socket for the counters of all its ports.
///
/// # Errors
///
/// The NIC does not answer with counters.
pub fn counters(socket: &path::Path) -> Result<NicCounters, ClientError> {
    exchange_file(socket, &Request::Counters)
}

/// Has the owner of the NIC at a socket do something, and gives its answer, whose type [`Control`]
/// says; `()` where it says nothing.
///
/// # Errors
///
/// The owner does not do it, or gives an answer of another type.
pub fn control<T: DeserializeOwned>(
    socket: &path::Path,
    control: &Control,
) -> Result<T, ClientError> {
    exchange_file(socket, &control_request(socket, control)?)
}

fn control_request(socket: &path::Path, control: &Control) -> Result<Request, ClientError> {
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
    Ok(Request::Control(text))
}

/// Ends the owner of the NIC at a socket, and waits until it has gone: the socket's name can be used
/// again then. The NIC ends with it, unless it is to `keep` the NIC; with `discard` the NIC ends also
/// if it is kept and has no owner.
///
/// # Errors
///
/// The owner does not do it, or takes long.
pub fn stop(socket: &path::Path, keep: bool, discard: bool) -> Result<(), ClientError> {
    let request = control_request(socket, &Control::Stop { keep, discard })?;
    let (connection, _, _) = exchange(socket, &request)?;
    // It says nothing more, and its end closes the connection.
    match recv(&connection, &mut [0; 1], RecvFlags::empty()) {
        Err(Errno::AGAIN) => Err(ClientError::Timeout {
            socket: socket.to_owned(),
        }),
        _ => Ok(()),
    }
}

/// Sends a request and reads the file with the answer.
fn exchange_file<T: DeserializeOwned>(
    socket: &path::Path,
    request: &Request,
) -> Result<T, ClientError> {
    let (_, _, descriptors) = exchange(socket, request)?;
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

/// Sends a request; gives the connection, the reply, and the descriptors that came with it.
fn exchange(
    socket: &path::Path,
    request: &Request,
) -> Result<(OwnedFd, Reply, Vec<OwnedFd>), ClientError> {
    let timeout = || ClientError::Timeout {
        socket: socket.to_owned(),
    };
    let connection = open_connection(socket).map_err(|errno| match errno {
        // So many wait that it takes no more.
        Errno::AGAIN => timeout(),
        errno => ClientError::Connect {
            socket: socket.to_owned(),
            source: errno.into(),
        },
    })?;
    let lost = |errno: Errno| match errno {
        Errno::AGAIN => timeout(),
        errno => ClientError::Lost {
            socket: socket.to_owned(),
            source: errno.into(),
        },
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
    if reply.status == Status::NoOwner {
        return Err(ClientError::NoOwner {
            socket: socket.to_owned(),
        });
    }
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

fn open_connection(path: &path::Path) -> Result<OwnedFd, Errno> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    for which in [Timeout::Recv, Timeout::Send] {
        set_socket_timeout(&socket, which, Some(REPLY_TIMEOUT))?;
    }
    connect(&socket, &address)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use std::os::fd::AsFd;

    use rustix::net::{send, socketpair};

    use super::*;

    #[test]
    fn a_tenant_takes_no_notice_of_an_answer_to_what_was_answered() {
        let pair = || {
            let flags = SocketFlags::CLOEXEC;
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
        };
        let say = |nic: &OwnedFd, status, text: &str| {
            let reply = Reply {
                status,
                grant: None,
                descriptors: 0,
                text: text.into(),
            };
            send(nic, &reply.encode(), SendFlags::empty()).unwrap();
        };
        let (nic, tenant) = pair();
        let (stop, stopped) = pair();
        let end = TenancyEnd(tenant);
        say(&nic, Status::NoOwner, "nobody");
        say(&stop, Status::Failed, "stop");
        assert_eq!(end.wait(stopped.as_fd()).unwrap(), None);
        say(&nic, Status::NoOwner, "nobody");
        say(&nic, Status::Revoked, "because");
        let revoked = EndReason::Revoked("because".into());
        assert_eq!(end.wait(stopped.as_fd()).unwrap(), Some(revoked));
        drop(nic);
        let gone = Some(EndReason::OwnerGone);
        assert_eq!(end.wait(stopped.as_fd()).unwrap(), gone);
    }
}
