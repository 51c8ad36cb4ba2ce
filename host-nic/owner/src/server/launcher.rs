//! The launcher: a process that starts keepers for an owner that executes nothing any more.
//!
//! The owner starts it with everything else, before it is confined. It takes one kind of record, with
//! the descriptor that is to be a keeper's standard input, and starts the one program that its own
//! command line names. It ends with its owner.
//!
//! | from | record | meaning |
//! | --- | --- | --- |
//! | owner | `start`, a descriptor | start a keeper with it as standard input |
//! | launcher | `started` | there is one |
//! | launcher | anything else | why there is none |

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};

use postern_nic_client::socket;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, SendFlags, Shutdown, SocketFlags, SocketType, shutdown, socketpair,
};

use super::keeper::{IO_TIMEOUT, KeeperError, MAX_RECORD};
use super::options::KeeperProgram;

/// The record that asks for a keeper.
const START: &str = "start";
/// The record that says that there is one.
const STARTED: &[u8] = b"started";

/// An owner's connection to its launcher, which ends with it.
#[derive(Debug)]
pub(super) struct Launcher {
    connection: OwnedFd,
    process: Child,
}

impl Launcher {
    /// Starts the launcher of a keeper's program.
    pub(super) fn start(keeper: &KeeperProgram, arguments: &[OsString]) -> io::Result<Launcher> {
        let (connection, end) = pair()?;
        let process = Command::new(&keeper.program)
            .args(arguments)
            .stdin(Stdio::from(end))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Launcher {
            connection,
            process,
        })
    }

    /// Has it start a keeper with that standard input.
    pub(super) fn launch(&self, input: BorrowedFd<'_>) -> io::Result<()> {
        let connection = &self.connection;
        socket::send(connection, START.as_bytes(), &[input], SendFlags::empty())?;
        let mut buffer = [0; MAX_RECORD];
        let (size, _) = socket::receive(connection, &mut buffer)?;
        match &buffer[..size] {
            STARTED => Ok(()),
            [] => Err(io::Error::other("the process that starts keepers is gone")),
            why => Err(io::Error::other(String::from_utf8_lossy(why).into_owned())),
        }
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        // It ends when it hears of it. It is not killed: a confined owner kills nobody.
        let _ = shutdown(&self.connection, Shutdown::Both);
        let _ = self.process.wait();
    }
}

fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    let flags = SocketFlags::CLOEXEC;
    let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    for which in [Timeout::Recv, Timeout::Send] {
        set_socket_timeout(&one, which, Some(IO_TIMEOUT))?;
    }
    Ok((one, other))
}

/// Acts as the launcher of the owner at the other end of standard input, until that has ended:
/// starts `keeper` whenever it is asked to.
///
/// # Errors
///
/// The owner cannot be heard.
pub fn launch_keepers(keeper: &KeeperProgram) -> Result<(), KeeperError> {
    let owner = io::stdin();
    let mut buffer = [0; MAX_RECORD];
    let mut keepers: Vec<Child> = Vec::new();
    loop {
        let (size, fds) = match socket::receive(&owner, &mut buffer) {
            Ok(received) => received,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(KeeperError::Wait(errno.into())),
        };
        let input = fds.into_iter().next();
        let (START, Some(input)) = (&*String::from_utf8_lossy(&buffer[..size]), input) else {
            // Its end, or nonsense.
            return Ok(());
        };
        // Those that have ended are no children any more.
        keepers.retain_mut(|keeper| matches!(keeper.try_wait(), Ok(None)));
        let started = Command::new(&keeper.program)
            .args(&keeper.arguments)
            .stdin(Stdio::from(input))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let answer = match started {
            Ok(child) => {
                keepers.push(child);
                STARTED.to_vec()
            }
            Err(error) => error.to_string().into_bytes(),
        };
        // An owner that is gone is found out above.
        let _ = socket::send(owner.as_fd(), &answer, &[], SendFlags::empty());
    }
}
