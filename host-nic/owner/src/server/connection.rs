//! The connection to one client.
#![forbid(unsafe_code)]

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use postern_abi::platform::CallPath;
use postern_abi::window::PortId;
use postern_nic_client::protocol::{MAX_REQUEST, ProtocolError, Reply, Request, Status};
use postern_nic_client::socket::{self, MAX_DESCRIPTORS};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv};
use rustix::process::Pid;

/// Time that a client may take to say what it wants.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// The process at the other end of a connection.
#[derive(Debug)]
pub(super) struct Peer {
    /// Number of the process, if it has one in this PID namespace.
    pub(super) pid: Option<Pid>,
    /// How its end is told.
    pub(super) process: PeerProcess,
}

/// How the end of a process is told.
#[derive(Debug)]
pub(super) enum PeerProcess {
    /// It is the server's own.
    Own,
    /// By a pidfd.
    Other(OwnedFd),
    /// Not at all.
    Unknown,
}

impl PeerProcess {
    /// The pidfd, if there is one.
    pub(super) fn pidfd(&self) -> Option<&OwnedFd> {
        match self {
            PeerProcess::Other(pidfd) => Some(pidfd),
            PeerProcess::Own | PeerProcess::Unknown => None,
        }
    }
}

/// The stage that a connection has reached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Stage {
    /// The client has asked for nothing. The connection is closed at that time.
    Fresh { until: Instant },
    /// The client wants a port that another process has just given up. It is refused at that time.
    Waiting {
        port: u32,
        path: CallPath,
        until: Instant,
    },
    /// The client is the tenant of the port.
    Attached(PortId),
    /// The connection has ended.
    Closed,
}

impl Stage {
    /// The time at which something must happen although the client does nothing.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            Stage::Fresh { until } | Stage::Waiting { until, .. } => Some(*until),
            Stage::Attached(_) | Stage::Closed => None,
        }
    }
}

/// The result of reading from a client.
pub(super) enum Incoming {
    Nothing,
    Request(Request),
    Garbage(ProtocolError),
    End,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) socket: OwnedFd,
    pub(super) peer: Peer,
    pub(super) stage: Stage,
}

impl Connection {
    /// Reads one record, if there is one. Descriptors that come with it are dropped by the kernel.
    /// What a client has said that has gone since, because it was killed or would not wait any
    /// longer, is not read: nobody hears what comes of it.
    pub(super) fn receive(&self) -> Incoming {
        if self.has_gone() {
            return Incoming::End;
        }
        let mut buffer = vec![0u8; MAX_REQUEST + 1];
        match recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((0, _)) => Incoming::End,
            Ok((size, _)) => match Request::decode(&buffer[..size]) {
                Ok(request) => Incoming::Request(request),
                Err(problem) => Incoming::Garbage(problem),
            },
            Err(Errno::AGAIN | Errno::INTR) => Incoming::Nothing,
            Err(_) => Incoming::End,
        }
    }

    /// Whether the other side has closed the connection.
    fn has_gone(&self) -> bool {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // The end is told unasked.
        let mut fds = [PollFd::new(&self.socket, PollFlags::empty())];
        poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
    }

    /// Answers. A client whose buffer is full does not read, and is not waited for.
    pub(super) fn send(&self, reply: &Reply, fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        let record = reply.encode();
        let (first, rest) = fds.split_at(fds.len().min(MAX_DESCRIPTORS));
        socket::send(&self.socket, &record, first, SendFlags::DONTWAIT)?;
        for part in rest.chunks(MAX_DESCRIPTORS) {
            socket::send(&self.socket, &record, part, SendFlags::DONTWAIT)?;
        }
        Ok(())
    }

    /// Answers no, or says that a tenancy has ended. Nobody minds if the client does not hear it.
    pub(super) fn refuse(&self, status: Status, text: String) {
        let reply = Reply {
            status,
            grant: None,
            descriptors: 0,
            text,
        };
        let _ = self.send(&reply, &[]);
    }
}
