//! The owner's connection to the [keeper](super::keeper).

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use postern_nic_client::socket;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with,
    socketpair,
};

use super::error::{KeeperClientError, ServerError};
use super::keeper::{IO_TIMEOUT, MAX_RECORD, address};
use super::kept::KeptFds;
use super::launcher::Launcher;
use super::listener::Listener;
use super::options::KeeperProgram;

/// The listener at a keeper's socket.
pub(super) enum FoundKeeper {
    /// Nothing.
    Nothing,
    /// A keeper with an owner.
    Owned,
    /// A keeper without one, whose owner this process is now, and what it holds.
    Kept(KeeperClient, KeptFds),
}

/// A connection to a keeper. The keeper holds what it was given until [`KeeperClient::end`], or
/// until it finds that nobody needs it.
#[derive(Debug)]
pub(super) struct KeeperClient {
    connection: OwnedFd,
    /// The keeper, if this process has started it.
    child: Option<Child>,
}

fn lost(step: &'static str) -> impl FnOnce(Errno) -> KeeperClientError {
    move |errno| KeeperClientError::Lost {
        step,
        source: errno.into(),
    }
}

impl KeeperClient {
    /// Starts a keeper for the NIC that listens at `socket`, or has `launcher` do so.
    pub(super) fn start(
        program: &KeeperProgram,
        launcher: Option<&Launcher>,
        listener: &Listener,
        socket: &Path,
    ) -> Result<KeeperClient, ServerError> {
        let mut own = Listener::bind(&address(socket))?;
        let flags = SocketFlags::CLOEXEC;
        let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
        let (connection, end) = pair.map_err(lost("make its socket"))?;
        set_socket_timeout(&connection, Timeout::Send, Some(IO_TIMEOUT))
            .map_err(lost("set up its socket"))?;
        let started = match launcher {
            Some(launcher) => launcher.launch(end.as_fd()).map(|()| None),
            None => Command::new(&program.program)
                .args(&program.arguments)
                .stdin(Stdio::from(end))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .map(Some),
        };
        let child = started.map_err(|source| KeeperClientError::Start {
            program: program.program.clone(),
            source,
        })?;
        let mut store = KeeperClient { connection, child };
        // Names that are not UTF-8 would be others there.
        let path = socket.to_str().ok_or_else(|| KeeperClientError::Start {
            program: program.program.clone(),
            source: io::Error::other("the name of the NIC's socket is not UTF-8"),
        })?;
        let path = std::path::absolute(path).map_err(|source| KeeperClientError::Start {
            program: program.program.clone(),
            source,
        })?;
        let record = format!("sockets {}", path.display());
        store.send(&record, &[listener.as_fd(), own.as_fd()])?;
        // The keeper removes the name, unless it is gone.
        own.keep_name();
        Ok(store)
    }

    /// Looks for a keeper of the NIC at `socket`; if it has no owner, this becomes it.
    pub(super) fn find(socket: &Path) -> Result<FoundKeeper, KeeperClientError> {
        let path = address(socket);
        let garbage = |what| KeeperClientError::Garbage {
            socket: path.clone(),
            what,
        };
        let step = "take over the NIC";
        let Ok(name) = SocketAddrUnix::new(&path) else {
            return Ok(FoundKeeper::Nothing);
        };
        let flags = SocketFlags::CLOEXEC;
        let connection = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .map_err(lost(step))?;
        for which in [Timeout::Recv, Timeout::Send] {
            set_socket_timeout(&connection, which, Some(IO_TIMEOUT)).map_err(lost(step))?;
        }
        if connect(&connection, &name).is_err() {
            return Ok(FoundKeeper::Nothing);
        }
        let mut buffer = [0; MAX_RECORD];
        let mut receive = || {
            let (size, fds) = socket::receive(&connection, &mut buffer).map_err(lost(step))?;
            let text = String::from_utf8_lossy(&buffer[..size]).into_owned();
            Ok::<_, KeeperClientError>((text, fds))
        };
        let (answer, _) = receive()?;
        let count = match answer.split_once(' ') {
            Some(("owned", _)) => return Ok(FoundKeeper::Owned),
            Some(("kept", count)) => count.parse::<u32>(),
            _ => return Err(garbage("it says something else")),
        };
        let count = count.map_err(|_| garbage("it does not say how much"))?;
        let mut kept = KeptFds::new();
        for _ in 0..count {
            let (name, fds) = receive()?;
            if name.is_empty() {
                return Err(garbage("it stops in the middle"));
            }
            kept.insert(name, fds);
        }
        let child = None;
        Ok(FoundKeeper::Kept(KeeperClient { connection, child }, kept))
    }

    fn send(&mut self, record: &str, fds: &[BorrowedFd<'_>]) -> Result<(), KeeperClientError> {
        socket::send(&self.connection, record.as_bytes(), fds, SendFlags::empty())
            .map_err(lost("give it a descriptor"))
    }

    /// Gives it descriptors to hold, in place of others of that name.
    pub(super) fn hold(
        &mut self,
        name: &str,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), KeeperClientError> {
        self.send(&format!("hold {name}"), fds)
    }

    /// Gives it the connection of a client that waits for an answer, and what else belongs to it, to
    /// hold like others; [`KeeperClient::hold`] says that the client has its answer.
    pub(super) fn offer(
        &mut self,
        name: &str,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), KeeperClientError> {
        self.send(&format!("offer {name}"), fds)
    }

    /// Has it close what it has by that name.
    pub(super) fn forget(&mut self, name: &str) -> Result<(), KeeperClientError> {
        self.send(&format!("drop {name}"), &[])
    }

    /// The descriptor that becomes readable when the keeper is gone.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }

    /// Leaves the keeper running, with all that it holds.
    pub(super) fn leave_running(&mut self) {
        // Not waited for: it goes on.
        self.child = None;
    }

    /// Ends the keeper, and waits for that.
    pub(super) fn end(mut self) {
        let _ = self.send("end", &[]);
        let _ = set_socket_timeout(&self.connection, Timeout::Recv, Some(IO_TIMEOUT));
        // It says nothing more but that it has closed its end.
        let _ = socket::receive(&self.connection, &mut [0; MAX_RECORD]);
        self.reap();
    }

    /// Waits for the end of a keeper that is gone or ending.
    pub(super) fn reap(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
