//! The server of an owner: keeps a NIC's memory, makes views of it, and lets its ports over a Unix
//! socket.
//!
//! The server is one thread with one `poll` loop. Nothing it does for one client waits for another.
//! A client that talks nonsense, says nothing, or does not read, is disconnected. None of it
//! touches the data plane: packets go on while the server sleeps, or is dead.
//!
//! # Parts
//!
//! | module | what it owns |
//! | --- | --- |
//! | `nic`, `templates` | the NIC's memory, its geometry, its templates |
//! | `ports`, `possession` | the tenants of the ports, what each gets, and who still has it |
//! | `policies`, `stations` | policies, and stations in the forwarding database |
//! | `uplinks`, `captures` | ports of the owner's own |
//! | `loops` | networks that are connected elsewhere, too |
//! | `clock` | the thread that writes the NIC's clock |
//! | `sleepers` | bells of guests that sleep, and that nobody has woken |
//! | `saved_state`, `kept` | what the next owner gets: state, and descriptors by name |
//! | `keeper`, `keeper_client` | the keeper's process, and the owner's connection to it |
//! | `launcher` | the process that starts keepers |
//! | `listener`, `connection` | the socket, and one client |
//! | `start`, `admin` | becoming the owner; requests for a change or a report |
//! | `event`, `error`, `options` | what the caller of the server gets and gives |
//!
//! # Tenancies
//!
//! A port is let to the process at the other end of a connection, and given up when that closes, or
//! when somebody takes it from the tenant ([`Control::Revoke`]). From that moment calls of the
//! tenancy are refused; and where the tenant has views, its grant is revoked, so that no vCPU calls
//! the NIC by it before anything else happens with the port. The tenant's VM goes on: its guest
//! gets the exception of an aborted call for each.
//!
//! The port is let again once the process has ended and nobody has what it was given, since until
//! then somebody has the window mapped. The module `possession` tells that also of processes to
//! which a tenant has handed on memory or connection. A process whose end the server cannot see
//! gets no port.
//!
//! [`Control::Revoke`]: postern_nic_client::control::Control::Revoke
//!
//! # Restart
//!
//! With a keeper ([`ServerOptions::keeper`]) the NIC outlives its owner, however that ends: see
//! [`KeeperProgram`] and the module `keeper`. The next owner finds it at the same socket, and goes
//! on with
//!
//! * the memory, of which it checks magic, version, geometry and seals; so counters, learned
//!   stations, rate limits and the clock continue;
//! * the connections of tenants, which never break. A tenant that closed its connection meanwhile
//!   is found out as ever, and the process of one that had given up its port is still watched by
//!   the same pidfd;
//! * tenancy numbers, policies, disabled ports, stations that people told: from the saved state,
//!   which is always saved before the owner does what it speaks of. A policy whose change was
//!   interrupted is applied anew;
//! * the template, so that it can revoke what a former owner has granted. If its image is another
//!   one, it makes a template of that, and keeps the old one until no grant of it is left;
//! * uplinks and captures, which did end with the owner: they are begun again, captures in another
//!   file.
//!
//! A client that was asking for something at that moment is disconnected, and asks again. A tenancy
//! that was begun and not yet answered ends with the connection of who asked.
//!
//! Nothing is done for a client that has gone: what it asked for before is not read any more
//! (module `connection`). While there is no owner, the keeper answers whoever connects that there is
//! none, so no request waits for the next one.
//!
//! On the paths `exit-user` and `direct` a tenant gets the memory of the whole NIC. Where tenants
//! must be isolated from each other, offer only the others ([`ServerOptions::paths`]).

mod admin;
mod captures;
mod clock;
mod connection;
mod error;
mod event;
mod json_file;
mod keeper;
mod keeper_client;
mod kept;
mod launcher;
mod listener;
mod loops;
mod nic;
mod options;
mod policies;
mod ports;
mod possession;
mod saved_state;
mod sleepers;
mod start;
mod stations;
mod templates;
mod uplinks;

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use postern_abi::platform::CallPath;
use postern_abi::window::{Geometry, MAX_PORTS};
use postern_nic_client::counters::NicCounters;
use postern_nic_client::protocol::{Reply, Request, Status};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::Serialize;

use captures::Captures;
use clock::Clock;
use connection::{Connection, Incoming, REQUEST_TIMEOUT, Stage};
use error::{RequestError, TenancyError, explain};
use json_file::json_file;
use keeper_client::KeeperClient;
use launcher::Launcher;
use listener::Listener;
use loops::Loops;
use ports::{GrantedTenancy, Ports, Tenant};
use uplinks::Uplinks;

pub use error::{KeeperClientError, ServerError};
pub use event::ServerEvent;
pub use keeper::{KeeperError, keep};
pub use launcher::launch_keepers;
pub use options::{DEFAULT_AGEING, KeeperProgram, ServerOptions};

/// Most connections at a time, one for each port and some for the curious; more are closed at once.
const MAX_CONNECTIONS: usize = MAX_PORTS as usize + 64;
/// Time for which a request waits for the end of the process that had the port before.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(5);

/// Time between two looks at uplinks' interfaces and captures' files.
const HOST_CHECK: Duration = Duration::from_millis(500);

/// Time between two looks at memory that processes have left to others.
const HEIR_CHECK: Duration = Duration::from_millis(50);

/// Ends a server from another thread, or from a signal's thread.
#[derive(Clone, Debug)]
pub struct Stopper(Arc<OwnedFd>);

impl Stopper {
    /// Lets [`Server::run`] return soon.
    pub fn stop(&self) {
        // The only errors are an interrupted call, which an eventfd does not make, and a full
        // counter.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }
}

/// A NIC and its socket. Dropping it removes the socket and ends the keeper; the NIC's memory stays
/// as long as a tenant has it.
#[derive(Debug)]
pub struct Server {
    socket: PathBuf,
    /// The program that is started when a keeper is needed.
    keeper: Option<KeeperProgram>,
    /// The process that starts it.
    launcher: Option<Launcher>,
    uplinks: Uplinks,
    captures: Captures,
    loops: Loops,
    clock: Clock,
    ports: Ports,
    listener: Listener,
    connections: Vec<Connection>,
    stop: Arc<OwnedFd>,
    /// Whether the NIC is to stay, once somebody has asked for the owner's end.
    ending: Option<bool>,
    /// Events that the caller has not heard of.
    events: Vec<ServerEvent>,
    resumed: bool,
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(mut keeper) = self.ports.saver.keeper.take() else {
            return;
        };
        if self.ending == Some(true) {
            self.listener.keep_name();
            keeper.leave_running();
        } else {
            keeper.end();
        }
    }
}

impl Server {
    /// The paths of [`ServerOptions::paths`] that the NIC cannot offer, and why.
    pub fn missing_paths(&self) -> impl Iterator<Item = (CallPath, &str)> {
        self.ports.nic.missing_paths()
    }

    /// Whether another owner had the NIC before.
    pub fn is_resumed(&self) -> bool {
        self.resumed
    }

    /// The NIC's numbers of ports and queues, and sizes of rings.
    pub fn geometry(&self) -> Geometry {
        self.ports.nic.geometry()
    }

    /// The events since the last call, so far as [`Server::run`] has not told of them.
    pub fn take_events(&mut self) -> Vec<ServerEvent> {
        std::mem::take(&mut self.events)
    }

    /// A value that ends [`Server::run`].
    pub fn stopper(&self) -> Stopper {
        Stopper(Arc::clone(&self.stop))
    }

    /// The counters of all ports.
    pub fn counters(&self) -> NicCounters {
        let mut counters = NicCounters::read(&self.ports.nic.switch());
        let ports = self.geometry().all_ports();
        for (port, counters) in ports.zip(&mut counters.ports) {
            counters.leaving = matches!(self.ports.tenant(port), Tenant::Leaving { .. });
            counters.rung_by_owner = self.ports.nic.sleepers.rung(port);
        }
        counters
    }

    /// Serves clients until a [`Stopper`] stops it or a client does, and gives each event to
    /// `observer`.
    ///
    /// # Errors
    ///
    /// The system does not let it wait for clients any more.
    pub fn run(&mut self, mut observer: impl FnMut(ServerEvent)) -> Result<(), ServerError> {
        loop {
            let ready = self
                .wait()
                .map_err(|errno| ServerError::Wait(errno.into()))?;
            if ready.stop {
                return Ok(());
            }
            if ready.keeper {
                self.replace_keeper();
            }
            if ready.leaving || self.ports.has_heirs() {
                self.ports.reap();
            }
            self.events.extend(self.uplinks.check(&mut self.ports));
            self.events.extend(self.captures.check());
            self.events
                .extend(self.loops.check(&self.ports.nic.switch()));
            for index in ready.clients {
                self.serve(index);
            }
            self.check_deadlines();
            self.connections
                .retain(|client| client.stage != Stage::Closed);
            if self.ending.is_some() {
                return Ok(());
            }
            if ready.arrivals {
                self.accept();
            }
            self.take_events().into_iter().for_each(&mut observer);
        }
    }

    fn wait(&self) -> Result<Ready, Errno> {
        let interest = PollFlags::IN;
        let leaving = self.ports.leaving();
        let fds = [self.stop.as_fd(), self.listener.as_fd()]
            .into_iter()
            .chain(self.connections.iter().map(|client| client.socket.as_fd()))
            .chain(leaving)
            .chain(self.ports.saver.keeper.as_ref().map(KeeperClient::as_fd));
        let mut fds: Vec<_> = fds
            .map(|fd| PollFd::from_borrowed_fd(fd, interest))
            .collect();
        let timeout = self.timeout();
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Ready::default()),
            Err(errno) => return Err(errno),
        }
        let ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
        let (head, rest) = fds.split_at(2);
        let (clients, rest) = rest.split_at(self.connections.len());
        let keepers = usize::from(self.ports.saver.keeper.is_some());
        let (leaving, keeper) = rest.split_at(rest.len() - keepers);
        Ok(Ready {
            stop: ready(&head[0]),
            arrivals: ready(&head[1]),
            clients: (0..clients.len()).filter(|i| ready(&clients[*i])).collect(),
            leaving: leaving.iter().any(ready),
            keeper: keeper.iter().any(ready),
        })
    }

    fn timeout(&self) -> Option<Timespec> {
        let deadlines = self
            .connections
            .iter()
            .filter_map(|client| client.stage.deadline());
        let now = Instant::now();
        // A millisecond more, so that the deadline has passed when the wait ends.
        let left = deadlines
            .min()
            .map(|deadline| deadline.saturating_duration_since(now) + Duration::from_millis(1));
        let idle = self.uplinks.is_empty() && self.captures.is_empty();
        let check = (!idle).then_some(HOST_CHECK);
        let heirs = self.ports.has_heirs().then_some(HEIR_CHECK);
        let left = left.into_iter().chain(check).chain(heirs).min()?;
        Some(Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: left.subsec_nanos().into(),
        })
    }

    fn accept(&mut self) {
        let Some(client) = self.listener.accept(Instant::now() + REQUEST_TIMEOUT) else {
            return;
        };
        if self.connections.len() < MAX_CONNECTIONS {
            self.connections.push(client);
        }
    }

    /// Reads what a client says, and answers.
    fn serve(&mut self, index: usize) {
        match self.connections[index].receive() {
            Incoming::Nothing => {}
            Incoming::End => self.end_connection(index),
            Incoming::Garbage(problem) => {
                self.connections[index].refuse(Status::BadRequest, problem.to_string());
                self.end_connection(index);
            }
            Incoming::Request(Request::Counters) => {
                let counters = self.counters();
                self.answer(index, &counters);
            }
            Incoming::Request(Request::Control(text)) => match self.control(&text) {
                Ok(answer) => self.answer(index, &answer),
                Err(error) => {
                    self.connections[index].refuse(error.status, error.text);
                    self.close_unless_attached(index);
                }
            },
            Incoming::Request(Request::Attach { port, path }) => {
                if let Stage::Attached(has) = self.connections[index].stage {
                    let text = format!("this connection has port {has}; open another for a second");
                    self.connections[index].refuse(Status::BadRequest, text);
                } else {
                    let until = Instant::now() + HANDOVER_TIMEOUT;
                    self.connections[index].stage = Stage::Waiting { port, path, until };
                    self.attach(index);
                }
            }
        }
    }

    /// Answers with a file.
    fn answer(&mut self, index: usize, value: &impl Serialize) {
        let client = &mut self.connections[index];
        let sent = json_file("postern-nic-answer", value).and_then(|file| {
            let reply = Reply {
                status: Status::Granted,
                grant: None,
                descriptors: 1,
                text: String::new(),
            };
            Ok(client.send(&reply, &[file.as_fd()])?)
        });
        if sent.is_err() {
            self.end_connection(index);
        }
    }

    /// Ends a connection, unless it stands for a port.
    fn close_unless_attached(&mut self, index: usize) {
        if !matches!(self.connections[index].stage, Stage::Attached(_)) {
            self.end_connection(index);
        }
    }

    /// Tries to give a waiting client its port.
    fn attach(&mut self, index: usize) {
        let client = &mut self.connections[index];
        let Stage::Waiting { port, path, until } = client.stage else {
            return;
        };
        match self.ports.grant(port, path, client) {
            Ok(GrantedTenancy { grant, fds }) => {
                let port = grant.credentials.port();
                client.stage = Stage::Attached(port);
                let fds = fds.into_wire();
                let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
                let reply = Reply {
                    status: Status::Granted,
                    grant: Some(grant),
                    descriptors: fds.len() as u32,
                    text: String::new(),
                };
                match client.send(&reply, &fds) {
                    Ok(()) => self.ports.note_answer(port, path, client),
                    Err(_) => self.end_connection(index),
                }
            }
            Err(TenancyError::Leaving { .. } | TenancyError::Left { .. })
                if Instant::now() < until => {}
            Err(error) => {
                client.refuse(error.status(), error.to_string());
                self.end_connection(index);
            }
        }
    }

    fn check_deadlines(&mut self) {
        for index in 0..self.connections.len() {
            match self.connections[index].stage {
                Stage::Waiting { .. } => self.attach(index),
                Stage::Fresh { until } if until <= Instant::now() => self.end_connection(index),
                _ => {}
            }
        }
    }

    /// Ends a connection; its element goes before the next wait.
    fn end_connection(&mut self, index: usize) {
        // Who is to hear of a failure hears of the event.
        let _ = self.close(index);
    }

    /// Ends a connection, as [`Server::end_connection`] does.
    /// Gives how many grants were taken back; KVM's refusal of that is an event, too.
    fn close(&mut self, index: usize) -> Result<u32, RequestError> {
        let client = &mut self.connections[index];
        let stage = std::mem::replace(&mut client.stage, Stage::Closed);
        let Stage::Attached(port) = stage else {
            return Ok(0);
        };
        let released = self.ports.release(port, &mut client.peer);
        released.map_err(|error| {
            self.events.push(ServerEvent::NotRevoked {
                port: port.number(),
                reason: explain(&error),
            });
            error.into()
        })
    }
}

/// The descriptors that are ready when a wait ends.
#[derive(Default)]
struct Ready {
    /// A [`Stopper`] was used.
    stop: bool,
    /// A client wants to connect.
    arrivals: bool,
    /// A process has ended that was leaving.
    leaving: bool,
    /// The keeper has ended.
    keeper: bool,
    /// Indices of connections that can be read.
    clients: Vec<usize>,
}
