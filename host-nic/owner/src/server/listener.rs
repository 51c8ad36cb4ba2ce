//! The socket that clients connect to.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, fchmod};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen,
    socket_with,
};
use rustix::process::{Pid, PidfdFlags, geteuid, getpid, pidfd_open};

use super::connection::{Connection, Peer, PeerProcess, Stage};
use super::error::ServerError;

/// A listening socket with a name, which it removes in the end.
#[derive(Debug)]
pub(super) struct Listener {
    socket: OwnedFd,
    path: PathBuf,
    /// Device and inode, so that only its own name is removed.
    identity: (u64, u64),
}

impl Listener {
    /// Listens at a path that is free, or was left behind by a NIC that is gone. Only the same user
    /// and root can connect.
    pub(super) fn bind(path: &Path) -> Result<Listener, ServerError> {
        let failed = |source: io::Error| ServerError::Listen {
            socket: path.to_owned(),
            source,
        };
        let refused = |errno: Errno| failed(errno.into());
        let address = SocketAddrUnix::new(path).map_err(refused)?;
        remove_leftover(path, &address)?;
        let socket = seqpacket().map_err(refused)?;
        // The name gets the mode of the socket: unix_bind() in net/unix/af_unix.c.
        fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(refused)?;
        bind(&socket, &address).map_err(refused)?;
        let file = fs::symlink_metadata(path).map_err(failed)?;
        let listener = Listener {
            socket,
            path: path.to_owned(),
            identity: (file.dev(), file.ino()),
        };
        listen(&listener.socket, 16).map_err(refused)?;
        Ok(listener)
    }

    /// A socket that listens at a path already, and whose name is to be removed.
    pub(super) fn adopt(socket: OwnedFd, path: PathBuf) -> Listener {
        let file = fs::symlink_metadata(&path);
        Listener {
            socket,
            path,
            // No file has the inode 0.
            identity: file.map_or((0, 0), |file| (file.dev(), file.ino())),
        }
    }

    /// Leaves the name of the socket in the end: others listen there.
    pub(super) fn keep_name(&mut self) {
        self.identity = (0, 0);
    }

    /// The next client, if it may connect.
    pub(super) fn accept(&self, until: Instant) -> Option<Connection> {
        let socket = match accept_with(&self.socket, SocketFlags::CLOEXEC) {
            Ok(socket) => socket,
            Err(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS) => {
                // The client stays in the queue, so the next wait would end at once.
                std::thread::sleep(Duration::from_millis(10));
                return None;
            }
            Err(_) => return None,
        };
        let peer = peer(&socket, None)?;
        let stage = Stage::Fresh { until };
        Some(Connection {
            socket,
            peer,
            stage,
        })
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|file| (file.dev(), file.ino()) == self.identity);
        if ours {
            // Nothing can be done about a name that stays; the next NIC there removes it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn seqpacket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

/// Makes room for the name: a socket at which nobody answers is removed, anything else stays.
fn remove_leftover(path: &Path, address: &SocketAddrUnix) -> Result<(), ServerError> {
    let Ok(file) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !file.file_type().is_socket() {
        return Err(ServerError::NotASocket(path.to_owned()));
    }
    let failed = |source| ServerError::Listen {
        socket: path.to_owned(),
        source,
    };
    let probe = seqpacket().map_err(|errno| failed(errno.into()))?;
    match connect(&probe, address) {
        Err(Errno::CONNREFUSED) => fs::remove_file(path).map_err(failed),
        Ok(()) | Err(Errno::AGAIN) => Err(ServerError::InUse(path.to_owned())),
        Err(errno) => Err(failed(errno.into())),
    }
}

/// The process at the other end of a connection, if it may be the owner's client. `kept` is the
/// pidfd of it that was kept, if there is one.
pub(super) fn peer(socket: &OwnedFd, kept: Option<OwnedFd>) -> Option<Peer> {
    let credentials = credentials(socket)?;
    let own = geteuid().as_raw();
    let allowed = credentials.uid == own || credentials.uid == 0;
    let pid = Pid::from_raw(credentials.pid);
    let process = match (kept, pid) {
        (Some(pidfd), _) => PeerProcess::Other(pidfd),
        (None, Some(pid)) if pid == getpid() => PeerProcess::Own,
        (None, pid) => pidfd(socket, pid).map_or(PeerProcess::Unknown, PeerProcess::Other),
    };
    allowed.then_some(Peer { pid, process })
}

/// A pidfd of the process that connected.
///
/// Linux has noted the process itself, and gives a pidfd of it since version 6.5. Before, there is
/// only its number, which another process has if the first one has ended since. Then the pidfd is
/// of that one, which lives: it only keeps the port from being let for longer than needed. The
/// first one's memory is gone with it, and what it may have handed on is found by
/// [`super::possession`], as after any other end. So a wrong process never frees a port.
fn pidfd(socket: &OwnedFd, pid: Option<Pid>) -> Option<OwnedFd> {
    let noted = peer_pidfd(socket);
    noted.or_else(|| pidfd_open(pid?, PidfdFlags::empty()).ok())
}

/// The pidfd of the process that connected, of the kernel's own note (SO_PEERPIDFD, Linux 6.5).
fn peer_pidfd(socket: &OwnedFd) -> Option<OwnedFd> {
    let mut pidfd: libc::c_int = -1;
    let mut size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the number and its size live through the call, and the size is right.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERPIDFD,
            (&raw mut pidfd).cast(),
            &raw mut size,
        )
    };
    if result != 0 || pidfd < 0 {
        return None;
    }
    // SAFETY: the kernel has just made this descriptor for us; nobody else has it.
    Some(unsafe { OwnedFd::from_raw_fd(pidfd) })
}

/// The credentials of the process that connected, as the kernel noted them (SO_PEERCRED, unix(7)).
fn credentials(socket: &OwnedFd) -> Option<libc::ucred> {
    let mut credentials = libc::ucred {
        pid: 0,
        uid: u32::MAX,
        gid: u32::MAX,
    };
    let mut size = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the structure and its size live through the call, and the size is right.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut size,
        )
    };
    (result == 0 && size as usize == size_of::<libc::ucred>()).then_some(credentials)
}
