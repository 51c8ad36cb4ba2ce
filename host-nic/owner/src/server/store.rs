//! The owner's side of the [keeper](super::keeper).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with,
    socketpair,
};

use super::ServerError;
use super::keeper::{PATIENCE, RECORD_MAX, address};
use super::listener::Listener;
use postern_nic_client::socket;

/// The program that is the keeper: it calls [`keep`](super::keep).
#[derive(Clone, Debug)]
pub struct KeeperProgram {
    /// Where it is.
    pub program: PathBuf,
    /// What it is called with.
    pub arguments: Vec<OsString>,
}

/// Why the NIC would not outlive its owner.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The keeper does not start.
    #[error("cannot start the NIC's keeper, {}", program.display())]
    Start {
        /// Its program.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The keeper does not take or give what it should.
    #[error("the NIC's keeper does not answer (while the owner wanted to {step})")]
    Lost {
        /// What was tried.
        step: &'static str,
        /// How it failed.
        source: io::Error,
    },
    /// What it holds is no NIC.
    #[error("what the keeper at {} holds is no NIC: {what}; stop process that listens there", socket.display())]
    Garbage {
        /// Where the keeper listens.
        socket: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
}

/// What a keeper holds, by name.
pub(super) type Kept = BTreeMap<String, Vec<OwnedFd>>;

/// Whom one finds at a keeper's socket.
pub(super) enum Found {
    /// Nobody.
    Nobody,
    /// A keeper with an owner.
    Owned,
    /// A keeper without; this is its owner now.
    Kept(Store, Kept),
}

/// A keeper. It holds what it was given until [`Store::end`], or until it finds that nobody needs it.
#[derive(Debug)]
pub(super) struct Store {
    connection: OwnedFd,
    child: Option<Child>,
}

fn lost(step: &'static str) -> impl FnOnce(Errno) -> StoreError {
    move |errno| StoreError::Lost {
        step,
        source: errno.into(),
    }
}

impl Store {
    /// Starts a keeper for the NIC that listens at `socket`.
    pub(super) fn start(
        program: &KeeperProgram,
        listener: &Listener,
        socket: &Path,
    ) -> Result<Store, ServerError> {
        let mut own = Listener::bind(&address(socket))?;
        let flags = SocketFlags::CLOEXEC;
        let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
        let (connection, end) = pair.map_err(lost("make its socket"))?;
        set_socket_timeout(&connection, Timeout::Send, Some(PATIENCE))
            .map_err(lost("set up its socket"))?;
        let child = Command::new(&program.program)
            .args(&program.arguments)
            .stdin(Stdio::from(end))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|source| StoreError::Start {
                program: program.program.clone(),
                source,
            })?;
        let mut store = Store {
            connection,
            child: Some(child),
        };
        // Names that are not UTF-8 would be others there.
        let path = socket.to_str().ok_or_else(|| StoreError::Start {
            program: program.program.clone(),
            source: io::Error::other("the name of the NIC's socket is not UTF-8"),
        })?;
        let path = std::path::absolute(path).map_err(|source| StoreError::Start {
            program: program.program.clone(),
            source,
        })?;
        let record = format!("sockets {}", path.display());
        store.send(&record, &[listener.as_fd(), own.as_fd()])?;
        // The keeper removes the name, unless it is gone.
        own.leave();
        Ok(store)
    }

    /// Looks for a keeper of the NIC at `socket`; if it has no owner, this becomes it.
    pub(super) fn find(socket: &Path) -> Result<Found, StoreError> {
        let path = address(socket);
        let garbage = |what| StoreError::Garbage {
            socket: path.clone(),
            what,
        };
        let step = "take over the NIC";
        let Ok(name) = SocketAddrUnix::new(&path) else {
            return Ok(Found::Nobody);
        };
        let flags = SocketFlags::CLOEXEC;
        let connection = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .map_err(lost(step))?;
        for which in [Timeout::Recv, Timeout::Send] {
            set_socket_timeout(&connection, which, Some(PATIENCE)).map_err(lost(step))?;
        }
        if connect(&connection, &name).is_err() {
            return Ok(Found::Nobody);
        }
        let mut buffer = [0; RECORD_MAX];
        let mut receive = || {
            let (size, fds) = socket::receive(&connection, &mut buffer).map_err(lost(step))?;
            let text = String::from_utf8_lossy(&buffer[..size]).into_owned();
            Ok::<_, StoreError>((text, fds))
        };
        let (answer, _) = receive()?;
        let count = match answer.split_once(' ') {
            Some(("owned", _)) => return Ok(Found::Owned),
            Some(("kept", count)) => count.parse::<u32>(),
            _ => return Err(garbage("it says something else")),
        };
        let count = count.map_err(|_| garbage("it does not say how much"))?;
        let mut kept = Kept::new();
        for _ in 0..count {
            let (name, fds) = receive()?;
            if name.is_empty() {
                return Err(garbage("it stops in the middle"));
            }
            kept.insert(name, fds);
        }
        let child = None;
        Ok(Found::Kept(Store { connection, child }, kept))
    }

    fn send(&mut self, record: &str, fds: &[BorrowedFd<'_>]) -> Result<(), StoreError> {
        socket::send(&self.connection, record.as_bytes(), fds, SendFlags::empty())
            .map_err(lost("give it a descriptor"))
    }

    /// Gives it descriptors to hold, in place of others of that name.
    pub(super) fn hold(&mut self, name: &str, fds: &[BorrowedFd<'_>]) -> Result<(), StoreError> {
        self.send(&format!("hold {name}"), fds)
    }

    /// Has it close what it has by that name.
    pub(super) fn forget(&mut self, name: &str) -> Result<(), StoreError> {
        self.send(&format!("drop {name}"), &[])
    }

    /// What becomes readable when the keeper is gone.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }

    /// Leaves the keeper alone, with all that it has.
    pub(super) fn leave(&mut self) {
        // Not waited for: it goes on.
        self.child = None;
    }

    /// Ends the keeper, and waits for that.
    pub(super) fn end(mut self) {
        let _ = self.send("end", &[]);
        let _ = set_socket_timeout(&self.connection, Timeout::Recv, Some(PATIENCE));
        // It says nothing more but that it has closed its end.
        let _ = socket::receive(&self.connection, &mut [0; RECORD_MAX]);
        self.bury();
    }

    /// Takes leave of a keeper that is gone or ending.
    pub(super) fn bury(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
