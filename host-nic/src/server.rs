//! The owner of a NIC: keeps its memory, makes views of it, and lets its ports over a Unix socket.
//!
//! One thread and one `poll` loop; nothing it does for one client waits for another. A client that
//! talks nonsense, says nothing, or does not read, is disconnected. None of it touches the data plane:
//! packets go on while the server sleeps, or is dead.
//!
//! A port is let to the process at the other end of a connection, and given up when that closes: from
//! that moment calls of the tenancy are refused. It is let again once the process has
//! ended, since until then it has the window mapped. (A tenant that hands its descriptors to a process that
//! outlives it hands on the window with them; do not let ports to users who would.)
//!
//! On the paths `exit-user` and `direct` a tenant gets the memory of the whole NIC. Where tenants must
//! be isolated from each other, offer only the others ([`Options::paths`]).

mod connection;
mod listener;
mod ports;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use postern_abi::machine::Path;
use postern_abi::window::{Geometry, PortId};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use crate::counters::Counters;
use crate::image::{Image, ImageError};
use crate::memory::{Memory, MemoryError};
use crate::protocol::{Reply, Request, Status};
use crate::view::{ViewError, ViewMaker};
use connection::{Connection, Incoming, Stage};
use listener::Listener;
use ports::{Ports, Refusal, Views};

/// Most connections at a time; more are closed at once.
const MAX_CONNECTIONS: usize = 64;
/// How long a client may take to say what it wants.
const SILENCE: Duration = Duration::from_secs(5);
/// How long a request waits for the end of the process that had the port before.
const HANDOVER: Duration = Duration::from_secs(5);

/// What a NIC is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where VMMs connect.
    pub socket: PathBuf,
    /// Ports and slots.
    pub geometry: Geometry,
    /// The image that views are made of (`host-nic/image/build.sh`); without it there are none.
    pub image: Option<PathBuf>,
    /// Paths that are offered.
    pub paths: Vec<Path>,
    /// Numbers of ports from whose frames no stations are learned: their guests replay captures, or
    /// speak for many stations in another way.
    pub unlearned: Vec<u32>,
}

impl Options {
    /// All paths, all ports learned from, no image.
    pub fn new(socket: impl Into<PathBuf>, geometry: Geometry) -> Options {
        Options {
            socket: socket.into(),
            geometry,
            image: None,
            paths: Path::ALL.to_vec(),
            unlearned: Vec::new(),
        }
    }
}

/// Why there is no NIC.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// No memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The image is none.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Views are there, yet cannot be made.
    #[error(transparent)]
    View(#[from] ViewError),
    /// Another NIC listens there.
    #[error("another NIC is already listening on {}; choose another socket or stop that one", .0.display())]
    InUse(PathBuf),
    /// Something else is there.
    #[error("{} exists and is not a socket; choose another name or remove it", .0.display())]
    NotASocket(PathBuf),
    /// The socket cannot be made.
    #[error("cannot listen on {}", socket.display())]
    Listen {
        /// The socket.
        socket: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A port of the options is not one of the NIC.
    #[error("there is no port {port} on a NIC of {ports} ports")]
    NoSuchPort {
        /// As given.
        port: u32,
        /// Ports of the NIC.
        ports: u32,
    },
    /// The system refused something without which the server cannot go on.
    #[error("the NIC cannot wait for its clients")]
    Wait(#[source] io::Error),
}

/// Ends a server from another thread, or from a signal's thread.
#[derive(Clone, Debug)]
pub struct Stopper(Arc<OwnedFd>);

impl Stopper {
    /// Lets [`Server::run`] return soon.
    pub fn stop(&self) {
        // The only errors are an interrupted call, which an eventfd does not make, and a full counter.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }
}

/// A NIC and its socket. Dropping it removes the socket; its memory stays as long as a tenant has it.
#[derive(Debug)]
pub struct Server {
    ports: Ports,
    listener: Listener,
    connections: Vec<Connection>,
    stop: Arc<OwnedFd>,
}

impl Server {
    /// Creates the NIC and listens. Clients are served by [`Server::run`].
    ///
    /// # Errors
    /// When anything is missing that the options ask for. That this machine has no views is no error here
    /// but an answer to whoever asks for one; see [`Server::without_views`].
    pub fn bind(options: &Options) -> Result<Server, ServerError> {
        let mut unlearned = 0u64;
        for number in &options.unlearned {
            let port = options.geometry.port(*number);
            let port = port.ok_or(ServerError::NoSuchPort {
                port: *number,
                ports: options.geometry.ports(),
            })?;
            unlearned |= 1 << port.number();
        }
        let views = match &options.image {
            None => Views::Missing("the NIC was started without an image (--image)".to_owned()),
            Some(path) => match ViewMaker::new(&Image::read(path)?) {
                Ok(maker) => Views::Here(maker),
                Err(error) if error.is_absence() => Views::Missing(explain(&error)),
                Err(error) => return Err(error.into()),
            },
        };
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| ServerError::Wait(errno.into()))?;
        let listener = Listener::bind(&options.socket)?;
        let memory = Memory::create(options.geometry)?;
        Ok(Server {
            ports: Ports::new(memory, views, &options.paths, unlearned),
            listener,
            connections: Vec::new(),
            stop: Arc::new(stop),
        })
    }

    /// Why the NIC offers no views, if it does not.
    pub fn without_views(&self) -> Option<&str> {
        match &self.ports.views {
            Views::Here(_) => None,
            Views::Missing(reason) => Some(reason),
        }
    }

    /// What ends [`Server::run`].
    pub fn stopper(&self) -> Stopper {
        Stopper(Arc::clone(&self.stop))
    }

    /// The counters of all ports.
    pub fn counters(&self) -> Counters {
        Counters::read(&self.ports.memory.switch())
    }

    /// Serves clients until a [`Stopper`] stops it.
    ///
    /// # Errors
    /// When the system does not let it wait for events any more.
    pub fn run(&mut self) -> Result<(), ServerError> {
        loop {
            let events = self
                .wait()
                .map_err(|errno| ServerError::Wait(errno.into()))?;
            if events.stop {
                return Ok(());
            }
            if events.leaving {
                self.ports.reap();
            }
            for index in events.readable {
                self.serve(index);
            }
            self.check_deadlines();
            self.connections
                .retain(|client| client.stage != Stage::Closed);
            if events.arrivals {
                self.accept();
            }
        }
    }

    fn wait(&self) -> Result<Events, Errno> {
        let interest = PollFlags::IN;
        let leaving = self.ports.leaving();
        let fds = [self.stop.as_fd(), self.listener.as_fd()]
            .into_iter()
            .chain(self.connections.iter().map(|client| client.socket.as_fd()))
            .chain(leaving);
        let mut fds: Vec<_> = fds
            .map(|fd| PollFd::from_borrowed_fd(fd, interest))
            .collect();
        let timeout = self.timeout();
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Events::default()),
            Err(errno) => return Err(errno),
        }
        let ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
        let (head, rest) = fds.split_at(2);
        let (clients, leaving) = rest.split_at(self.connections.len());
        Ok(Events {
            stop: ready(&head[0]),
            arrivals: ready(&head[1]),
            readable: (0..clients.len()).filter(|i| ready(&clients[*i])).collect(),
            leaving: leaving.iter().any(ready),
        })
    }

    fn timeout(&self) -> Option<Timespec> {
        let deadlines = self
            .connections
            .iter()
            .filter_map(|client| client.stage.deadline());
        let left = deadlines.min()?.saturating_duration_since(Instant::now());
        // A millisecond more, so that the deadline has passed when the wait ends.
        let left = left + Duration::from_millis(1);
        Some(Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: left.subsec_nanos().into(),
        })
    }

    fn accept(&mut self) {
        let Some(client) = self.listener.accept(Instant::now() + SILENCE) else {
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
            Incoming::End => self.close(index),
            Incoming::Garbage(problem) => {
                self.connections[index].refuse(Status::BadRequest, problem.to_string());
                self.close(index);
            }
            Incoming::Request(Request::Counters) => {
                let text = serde_json::to_string(&self.counters());
                let text = text.expect("maps with string keys and numbers are JSON");
                let sent = self.connections[index].send(
                    &Reply {
                        status: Status::Granted,
                        grant: None,
                        descriptors: 0,
                        text,
                    },
                    &[],
                );
                if sent.is_err() {
                    self.close(index);
                }
            }
            Incoming::Request(Request::Attach { port, path }) => {
                if let Stage::Attached(has) = self.connections[index].stage {
                    let text = format!("this connection has port {has}; open another for a second");
                    self.connections[index].refuse(Status::BadRequest, text);
                } else {
                    let until = Instant::now() + HANDOVER;
                    self.connections[index].stage = Stage::Waiting { port, path, until };
                    self.attach(index);
                }
            }
        }
    }

    /// Tries to give a waiting client its port.
    fn attach(&mut self, index: usize) {
        let client = &mut self.connections[index];
        let Stage::Waiting { port, path, until } = client.stage else {
            return;
        };
        match self.ports.grant(port, path, &client.peer) {
            Ok(tenancy) => {
                client.stage = Stage::Attached(tenancy.grant.caller.port);
                let fds: Vec<BorrowedFd<'_>> = tenancy.fds.iter().map(AsFd::as_fd).collect();
                let reply = Reply {
                    status: Status::Granted,
                    grant: Some(tenancy.grant),
                    descriptors: fds.len() as u32,
                    text: String::new(),
                };
                if client.send(&reply, &fds).is_err() {
                    self.close(index);
                }
            }
            Err(Refusal::Leaving { .. }) if Instant::now() < until => {}
            Err(refusal) => {
                client.refuse(refusal.status(), refusal.to_string());
                self.close(index);
            }
        }
    }

    fn check_deadlines(&mut self) {
        for index in 0..self.connections.len() {
            match self.connections[index].stage {
                Stage::Waiting { .. } => self.attach(index),
                Stage::Fresh { until } if until <= Instant::now() => self.close(index),
                _ => {}
            }
        }
    }

    /// Ends a connection; its element goes before the next wait.
    fn close(&mut self, index: usize) {
        let client = &mut self.connections[index];
        if let Stage::Attached(port) = client.stage {
            self.ports.release(port, &mut client.peer);
        }
        client.stage = Stage::Closed;
    }
}

/// What a wait ended with.
#[derive(Default)]
struct Events {
    stop: bool,
    arrivals: bool,
    leaving: bool,
    /// Indices of connections.
    readable: Vec<usize>,
}

/// An error with all its causes, in one line.
fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// The MAC address that a NIC suggests: locally administered, by port.
fn suggested_mac(port: PortId) -> [u8; 6] {
    [0x02, b'P', b'S', b'T', 0, port.number() as u8]
}
