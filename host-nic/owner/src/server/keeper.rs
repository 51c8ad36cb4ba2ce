//! The keeper: a process that holds the descriptors of a NIC, so that the NIC outlives its owner.
//!
//! ```text
//!   owner  --- hold, drop, end --->  keeper  <--- connects at SOCKET.keeper ---  next owner
//!   (memfds, listening sockets, connections of tenants, state)  --- all of it --->
//!
//!   client  --- connects at SOCKET, with no owner there --->  keeper: "no owner"
//! ```
//!
//! Everything that a NIC is made of lies in memory and in descriptors. The owner gives the keeper a
//! duplicate of each as it comes to be. When the owner dies, however it does, memory, sockets and
//! connections stay: VMs go on sending and receiving, and none of them notices. The next owner gets
//! it all and goes on. As long as there is an owner, nobody else becomes one.
//!
//! As long as there is none, the keeper answers the NIC's clients in its place: it refuses each with
//! [`Status::NoOwner`], so that none waits and no request outlives its client. That holds for a client,
//! too, that the dead owner had given a port to without an answer. If the owner died right behind the
//! answer, the client has a port, which it keeps, and takes no notice of the refusal. One request the
//! keeper fulfils: the end of the NIC ([`Control::Stop`] with `discard`).
//!
//! Processes of the same user and of root may be the owner, as they may be tenants. Such a
//! process can also read the owner's memory, so nothing is gained by asking for more.
//!
//! The keeper ends when its owner says so, when a client says so that there is no owner for, or when
//! it has had no owner for a while and all tenants have gone. It has no thread, and maps nothing of
//! the NIC.
//!
//! Records are texts, with descriptors; names have no spaces.
//!
//! | from | record | meaning |
//! | --- | --- | --- |
//! | owner | `hold NAME` | hold the descriptors, in place of others of that name |
//! | owner | `offer NAME` | the same; the client behind the first one waits for its answer yet |
//! | owner | `drop NAME` | close them |
//! | owner | `sockets PATH` | as `hold sockets`: the NIC's own at PATH, and the keeper's |
//! | owner | `end` | close everything, remove the sockets' names, end |
//! | keeper | `owned PID` | there is an owner |
//! | keeper | `kept N` | you are the owner now; N records follow, each a name with descriptors |

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use postern_nic_client::control::Control;
use postern_nic_client::protocol::{Reply, Request, Status};
use postern_nic_client::socket;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::SendFlags;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use super::connection::{Connection, Incoming, REQUEST_TIMEOUT, Stage};
use super::kept;
use super::listener::Listener;

/// Size of the largest record in bytes: of a name, or the path of a socket.
pub(super) const MAX_RECORD: usize = 512;
/// Time that the other side may take to read.
pub(super) const IO_TIMEOUT: Duration = Duration::from_secs(5);
/// Most clients of the NIC that it listens to at a time; more are disconnected at once.
const MAX_CLIENTS: usize = 64;

/// Why it refuses clients that its owner does not answer.
const NO_OWNER: &str = "the NIC is kept and has no owner";

/// A failure that ended a keeper early.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The system does not let it wait.
    #[error("the keeper of a NIC cannot wait for its owner")]
    Wait(#[source] std::io::Error),
}

/// The socket at which the keeper of the NIC at a socket listens.
pub(super) fn address(socket: &Path) -> PathBuf {
    let mut name = socket.as_os_str().to_owned();
    name.push(".keeper");
    name.into()
}

/// Acts as the keeper of the owner at the other end of standard input, until nobody needs it any
/// more: what the program does that [`super::KeeperProgram`] names. Without an owner and tenants it
/// stays for `grace`. `confine` is called before it hears its owner: it may take from the process
/// all that is not in the list of [`Kind::NicKeeper`].
///
/// [`Kind::NicKeeper`]: postern_confine::Kind::NicKeeper
///
/// # Errors
///
/// The system does not let it wait for events.
pub fn keep(grace: Duration, confine: impl FnOnce()) -> Result<(), KeeperError> {
    let failed = |source: std::io::Error| KeeperError::Wait(source);
    let owner = std::io::stdin().as_fd().try_clone_to_owned();
    let owner = owner.map_err(failed)?;
    // There is one end of it here, so that closing it closes it.
    let null = std::fs::File::open("/dev/null").map_err(failed)?;
    rustix::stdio::dup2_stdin(&null).map_err(|errno| failed(errno.into()))?;
    rustix::thread::set_name(c"nic-keeper").map_err(|errno| failed(errno.into()))?;
    unblock_signals();
    // Out of reach of signals for the owner's terminal. It fails only for a group's leader, which
    // has no such reach.
    let _ = rustix::process::setsid();
    // No directory is kept busy. `/` is always there.
    let _ = rustix::process::chdir("/");
    let mut keeper = Keeper {
        sockets: None,
        held: BTreeMap::new(),
        grace,
        alone: None,
        pid: None,
        owner: Some(owner),
        clients: Vec::new(),
    };
    confine();
    while keeper.step()? {}
    Ok(())
}

/// An owner that waits for signals on a thread has them blocked, and this process has inherited
/// that.
fn unblock_signals() {
    // SAFETY: the set is initialised before it is used, and the old one is not asked for. There are
    // no errors for this operation.
    unsafe {
        let mut none = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut none);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// The descriptors that are held by one name.
struct Held {
    fds: Vec<OwnedFd>,
    /// The connection has been closed by the other side.
    ended: bool,
    /// The client may wait for its answer.
    offered: bool,
}

/// The state of the keeper.
struct Keeper {
    /// The NIC's listening socket, and the keeper's own. First, so that their names are gone when
    /// the owner hears the end.
    sockets: Option<(Listener, Listener)>,
    held: BTreeMap<String, Held>,
    grace: Duration,
    /// The time since which there is neither owner nor tenant.
    alone: Option<Instant>,
    /// The owner's process, if it is not the first owner.
    pid: Option<i32>,
    owner: Option<OwnedFd>,
    /// Clients of the NIC that came while there was no owner, and have not said what they want.
    /// Last: who has asked for the end of the NIC hears it when all else is closed.
    clients: Vec<Connection>,
}

/// The descriptors that are ready when a wait ends.
#[derive(Default)]
struct Events {
    owner: bool,
    /// Somebody wants to be the owner.
    arrival: bool,
    /// A client of the NIC wants to connect.
    client: bool,
    ended: Vec<String>,
}

impl Keeper {
    /// Waits for something and does it; whether to go on.
    fn step(&mut self) -> Result<bool, KeeperError> {
        let mut tenants = self.held.iter();
        let tenants = tenants.any(|(name, held)| name.starts_with(kept::TENANT) && !held.ended);
        if self.owner.is_some() || tenants {
            self.alone = None;
        } else {
            let since = *self.alone.get_or_insert_with(Instant::now);
            if since.elapsed() >= self.grace {
                return Ok(false);
            }
        }
        let events = match self.wait() {
            Ok(events) => events,
            Err(Errno::INTR) => return Ok(true),
            Err(errno) => return Err(KeeperError::Wait(errno.into())),
        };
        for name in events.ended {
            if let Some(held) = self.held.get_mut(&name) {
                held.ended = true;
            }
        }
        if events.owner && !self.read_record() {
            return Ok(false);
        }
        if events.arrival {
            self.accept_owner();
        }
        if events.client {
            self.accept_client();
        }
        Ok(!self.answer_clients())
    }

    fn wait(&self) -> Result<Events, Errno> {
        let mut fds = Vec::new();
        let mut names = Vec::new();
        if let Some(owner) = &self.owner {
            fds.push(PollFd::new(owner, PollFlags::IN));
        }
        let first = fds.len();
        if let Some((_, own)) = &self.sockets {
            fds.push(PollFd::new(own, PollFlags::IN));
        }
        let nic = fds.len();
        if let (Some((nic, _)), None) = (&self.sockets, &self.owner) {
            fds.push(PollFd::new(nic, PollFlags::IN));
        }
        let clients = fds.len();
        for client in &self.clients {
            fds.push(PollFd::new(&client.socket, PollFlags::IN));
        }
        let tenants = fds.len();
        if self.owner.is_none() {
            for (name, held) in &self.held {
                if let (true, false, Some(fd)) =
                    (name.starts_with(kept::TENANT), held.ended, held.fds.first())
                {
                    fds.push(PollFd::new(fd, PollFlags::RDHUP));
                    names.push(name.clone());
                }
            }
        }
        let left = self.alone.map(|since| {
            let left = self.grace.saturating_sub(since.elapsed());
            // Until it is over, not a moment before.
            left + Duration::from_millis(1)
        });
        let left = left.into_iter().chain(self.next_deadline()).min();
        let timeout = left.map(|left| Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: left.subsec_nanos().into(),
        });
        poll(&mut fds, timeout.as_ref())?;
        let ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
        Ok(Events {
            owner: fds[..first].iter().any(ready),
            arrival: fds[first..nic].iter().any(ready),
            client: fds[nic..clients].iter().any(ready),
            ended: fds[tenants..]
                .iter()
                .zip(names)
                .filter(|(fd, _)| ready(fd))
                .map(|(_, name)| name)
                .collect(),
        })
    }

    /// Reads a record of the owner's and does what it says; false when that was the last one.
    fn read_record(&mut self) -> bool {
        let Some(owner) = &self.owner else {
            return true;
        };
        let mut buffer = [0; MAX_RECORD];
        let (record, fds) = match socket::receive(owner, &mut buffer) {
            Ok((size, fds)) if size > 0 => (String::from_utf8_lossy(&buffer[..size]), fds),
            Err(Errno::INTR) => return true,
            // It is gone, or talks nonsense.
            _ => {
                self.owner = None;
                self.refuse_offered();
                return true;
            }
        };
        match record.split_once(' ') {
            Some((verb @ ("hold" | "offer"), name)) => {
                let held = Held {
                    fds,
                    ended: false,
                    offered: verb == "offer",
                };
                self.held.insert(name.to_owned(), held);
            }
            Some(("drop", name)) => {
                self.held.remove(name);
            }
            Some(("sockets", path)) => {
                let mut fds = fds.into_iter();
                if let (Some(nic), Some(own)) = (fds.next(), fds.next()) {
                    let path = PathBuf::from(path);
                    let own = Listener::adopt(own, address(&path));
                    self.sockets = Some((Listener::adopt(nic, path), own));
                }
            }
            _ => return record != "end",
        }
        true
    }

    /// Answers those that the owner may not have answered.
    fn refuse_offered(&mut self) {
        let offered = self.held.values_mut().filter(|held| held.offered);
        for held in offered {
            held.offered = false;
            if let Some(client) = held.fds.first() {
                let record = no_owner().encode();
                // Who does not read does not wait.
                let _ = socket::send(client, &record, &[], SendFlags::DONTWAIT);
            }
        }
    }

    /// How long until a client has had its time to say what it wants.
    fn next_deadline(&self) -> Option<Duration> {
        let deadlines = self.clients.iter();
        let next = deadlines
            .filter_map(|client| client.stage.deadline())
            .min()?;
        let left = next.saturating_duration_since(Instant::now());
        Some(left + Duration::from_millis(1))
    }

    /// Takes in a client of the NIC that has no owner.
    fn accept_client(&mut self) {
        // An owner that has come in this moment takes it.
        let (Some((nic, _)), None) = (&self.sockets, &self.owner) else {
            return;
        };
        let client = nic.accept(Instant::now() + REQUEST_TIMEOUT);
        self.clients.extend(client);
        self.clients.truncate(MAX_CLIENTS);
    }

    /// Answers the clients that have said what they want; whether one has ended the NIC.
    fn answer_clients(&mut self) -> bool {
        let has_owner = self.owner.is_some();
        let now = Instant::now();
        for client in &mut self.clients {
            let refusal = match client.receive() {
                Incoming::Nothing => {
                    let waits = client.stage.deadline().is_some_and(|until| now < until);
                    if !waits {
                        client.stage = Stage::Closed;
                    }
                    continue;
                }
                Incoming::End => None,
                Incoming::Request(Request::Control(text)) if !has_owner && is_discard(&text) => {
                    let done = Reply {
                        status: Status::Granted,
                        grant: None,
                        descriptors: 0,
                        text: String::new(),
                    };
                    // It is there, and has asked for it.
                    let _ = client.send(&done, &[]);
                    return true;
                }
                Incoming::Request(_) if has_owner => Some((
                    Status::Failed,
                    "the NIC has just got another owner; ask again",
                )),
                Incoming::Request(_) | Incoming::Garbage(_) => Some((Status::NoOwner, NO_OWNER)),
            };
            if let Some((status, text)) = refusal {
                client.refuse(status, text.to_owned());
            }
            client.stage = Stage::Closed;
        }
        self.clients.retain(|client| client.stage != Stage::Closed);
        false
    }

    /// Answers a process that wants to be the owner.
    fn accept_owner(&mut self) {
        let Some((_, own)) = &self.sockets else {
            return;
        };
        let Some(client) = own.accept(Instant::now()) else {
            return;
        };
        let _ = set_socket_timeout(&client.socket, Timeout::Send, Some(IO_TIMEOUT));
        // The owner may have died a moment ago.
        while self.owner.as_ref().is_some_and(readable) {
            self.read_record();
        }
        if self.owner.is_some() {
            let pid = self.pid.unwrap_or_default();
            let record = format!("owned {pid}");
            let _ = socket::send(&client.socket, record.as_bytes(), &[], SendFlags::empty());
        } else if self.hand_over(&client).is_ok() {
            self.pid = client.peer.pid.map(|pid| pid.as_raw_pid());
            self.owner = Some(client.socket);
        }
    }

    fn hand_over(&self, client: &Connection) -> Result<(), Errno> {
        let Some((nic, _)) = &self.sockets else {
            return Ok(());
        };
        let send = |record: &str, fds: &[BorrowedFd<'_>]| {
            socket::send(&client.socket, record.as_bytes(), fds, SendFlags::empty())
        };
        send(&format!("kept {}", self.held.len() + 1), &[])?;
        send(kept::SOCKET, &[nic.as_fd()])?;
        for (name, held) in &self.held {
            let fds: Vec<_> = held.fds.iter().map(AsFd::as_fd).collect();
            send(name, &fds)?;
        }
        Ok(())
    }
}

/// The refusal of a client that comes, or came, to nobody.
fn no_owner() -> Reply {
    Reply {
        status: Status::NoOwner,
        grant: None,
        descriptors: 0,
        text: NO_OWNER.to_owned(),
    }
}

/// Whether a request is for the end of the NIC, kept or not.
fn is_discard(text: &[u8]) -> bool {
    let control = serde_json::from_slice::<Control>(text);
    matches!(control, Ok(Control::Stop { discard: true, .. }))
}

/// Whether something can be read without waiting, be it the end.
fn readable(fd: &OwnedFd) -> bool {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&now)).is_ok_and(|ready| ready > 0)
}
