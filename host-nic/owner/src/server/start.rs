//! Becoming the owner of a NIC: of a new one, or of one that is kept.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use postern_abi::platform::CallPath;
use postern_abi::window::{Geometry, PortId};
use rustix::event::{EventfdFlags, eventfd};
use rustix::process::Pid;

use super::books::{Books, NOTES};
use super::clock::Clock;
use super::connection::{Connection, Stage};
use super::keeper::{TENANT, address};
use super::listener::{self, Listener};
use super::notes::Notes;
use super::ports::{LEAVING, Ports, Tenant, Views, leaving_name, tenant_name};
use super::store::{Found, Kept, Store, StoreError};
use super::{Options, Server, ServerError, explain};
use crate::image::Image;
use crate::view::ViewMaker;
use postern_nic_client::memory::Memory;
use postern_nic_client::socket::MAX_DESCRIPTORS;

/// What a keeper calls the memory.
const STATE: &str = "state";
const WINDOWS: &str = "windows.";
/// What it calls the listening socket when it hands it over.
const SOCKET: &str = "socket";

impl Server {
    /// Creates the NIC and listens, or takes over the one that is kept for the socket. Clients are served by
    /// [`Server::run`].
    ///
    /// # Errors
    /// When anything is missing that the options ask for. That this machine has no views is no error here
    /// but an answer to whoever asks for one; see [`Server::without_views`].
    pub fn bind(options: &Options) -> Result<Server, ServerError> {
        let views = match &options.image {
            None => Views::Missing("the NIC was started without an image (--image)".to_owned()),
            Some(path) => match ViewMaker::new(&Image::read(path)?) {
                Ok(maker) => Views::Here(maker),
                Err(error) if error.is_absence() => Views::Missing(explain(&error)),
                Err(error) => return Err(error.into()),
            },
        };
        let found = match options.keeper {
            Some(_) => Store::find(&options.socket)?,
            None => Found::Nobody,
        };
        match found {
            Found::Owned => Err(ServerError::InUse(options.socket.clone())),
            Found::Nobody => Server::create(options, views),
            Found::Kept(store, kept) => Server::take_over(options, views, store, kept),
        }
    }

    fn create(options: &Options, views: Views) -> Result<Server, ServerError> {
        let unlearned = unlearned(options, options.geometry)?;
        let listener = Listener::bind(&options.socket)?;
        let memory = Arc::new(Memory::create(options.geometry)?);
        let ports = Ports::new(memory, views, &options.paths, Books::default());
        ports.do_not_learn(&unlearned);
        let mut server = Server::new(options, ports, listener)?;
        if let Some(program) = &options.keeper {
            let store = Store::start(program, &server.listener, &server.socket)?;
            server.ports.books.store = Some(store);
            server.hold_all()?;
        }
        Ok(server)
    }

    fn new(options: &Options, ports: Ports, listener: Listener) -> Result<Server, ServerError> {
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| ServerError::Wait(errno.into()))?;
        let clock = Clock::start(Arc::clone(&ports.memory), options.ageing);
        Ok(Server {
            socket: options.socket.clone(),
            keeper: options.keeper.clone(),
            uplinks: BTreeMap::new(),
            captures: BTreeMap::new(),
            clock: clock.map_err(ServerError::Clock)?,
            ports,
            listener,
            connections: Vec::new(),
            stop: Arc::new(stop),
            ending: None,
            warnings: Vec::new(),
            resumed: false,
        })
    }

    fn take_over(
        options: &Options,
        views: Views,
        store: Store,
        mut kept: Kept,
    ) -> Result<Server, ServerError> {
        let garbage = |what| StoreError::Garbage {
            socket: address(&options.socket),
            what,
        };
        let one = |kept: &mut Kept, name, what| {
            let fds = kept.remove(name).unwrap_or_default();
            fds.into_iter().next().ok_or_else(|| garbage(what))
        };
        let socket = one(&mut kept, SOCKET, "it has no socket")?;
        let state = one(&mut kept, STATE, "it has no memory")?;
        let notes = one(&mut kept, NOTES, "it has no notes")?;
        let windows: Vec<OwnedFd> = (0..)
            .map_while(|number| kept.remove(&format!("{WINDOWS}{number}")))
            .flatten()
            .collect();
        let memory = Arc::new(Memory::open(state, windows)?);
        let geometry = memory.geometry();
        if geometry != options.geometry && !options.any_geometry {
            return Err(ServerError::Kept {
                socket: options.socket.clone(),
                kept: describe(geometry),
                wanted: describe(options.geometry),
            });
        }
        let unlearned = unlearned(options, geometry)?;
        let notes = Notes::read(&notes).map_err(|_| garbage("its notes cannot be read"))?;
        let books = Books {
            notes,
            store: Some(store),
        };
        let ports = Ports::new(memory, views, &options.paths, books);
        ports.do_not_learn(&unlearned);
        let listener = Listener::adopt(socket, options.socket.clone());
        let mut server = Server::new(options, ports, listener)?;
        server.resumed = true;
        server.resume_tenants(kept);
        server.ports.evict_strays();
        server.resume_policies();
        server.resume_natives();
        Ok(server)
    }

    /// Goes on with the connections of tenants and the processes of former ones.
    fn resume_tenants(&mut self, kept: Kept) {
        for (name, fds) in kept {
            let known = self.resume_tenant(&name, fds);
            if known.is_none() {
                self.ports.books.forget(&name);
            }
        }
        // Numbers that were given and not noted: there are none, but it costs nothing to be sure.
        let switch = self.ports.memory.switch();
        let given = switch.geometry().all_ports();
        let given = given.map(|port| switch.state().tenancy(port)).max();
        let last = &mut self.ports.books.notes.tenancy;
        *last = (*last).max(given.unwrap_or(0));
    }

    fn resume_tenant(&mut self, name: &str, fds: Vec<OwnedFd>) -> Option<()> {
        let mut fds = fds.into_iter();
        if let Some(rest) = name.strip_prefix(TENANT) {
            let (number, path) = rest.split_once('.')?;
            let port = self.ports.port(number.parse().ok()?).ok()?;
            let path = CallPath::from_name(path)?;
            let socket = fds.next()?;
            let peer = listener::peer(&socket, fds.next())?;
            if !self.ports.resume(port, path, peer.pid) {
                return None;
            }
            let stage = Stage::Attached(port);
            self.connections.push(Connection {
                socket,
                peer,
                stage,
            });
            return Some(());
        }
        let (number, pid) = name.strip_prefix(LEAVING)?.split_once('.')?;
        let port = self.ports.port(number.parse().ok()?).ok()?;
        let pid = Pid::from_raw(pid.parse().ok()?)?;
        // An owner that died between two words to the keeper may have left both; then the tenancy has ended.
        self.ports.resume_leaving(port, pid, fds.next()?);
        Some(())
    }

    /// Has a new keeper hold everything.
    pub(super) fn hold_all(&mut self) -> Result<(), StoreError> {
        let memory = Arc::clone(&self.ports.memory);
        let books = &mut self.ports.books;
        books.hold(STATE, &[memory.state_fd()])?;
        let windows: Vec<BorrowedFd<'_>> = memory.window_fds().collect();
        for (number, part) in windows.chunks(MAX_DESCRIPTORS).enumerate() {
            books.hold(&format!("{WINDOWS}{number}"), part)?;
        }
        books.save()?;
        for port in memory.geometry().all_ports() {
            match self.ports.tenant(port) {
                Tenant::Taken { path, .. } => {
                    let name = tenant_name(port, *path);
                    let stage = Stage::Attached(port);
                    let client = self.connections.iter().find(|one| one.stage == stage);
                    if let Some(client) = client {
                        let fds: Vec<_> = [Some(&client.socket), client.peer.process.as_ref()]
                            .into_iter()
                            .flatten()
                            .map(AsFd::as_fd)
                            .collect();
                        self.ports.books.hold(&name, &fds)?;
                    }
                }
                Tenant::Leaving { pid, process } => {
                    let name = leaving_name(port, *pid);
                    if let Ok(process) = process.try_clone() {
                        self.ports.books.hold(&name, &[process.as_fd()])?;
                    }
                }
                Tenant::Vacant | Tenant::Native => {}
            }
        }
        Ok(())
    }

    /// The keeper is gone: somebody killed it.
    pub(super) fn replace_keeper(&mut self) {
        let Some(mut old) = self.ports.books.store.take() else {
            return;
        };
        old.bury();
        let Some(program) = &self.keeper else {
            return;
        };
        let started = Store::start(program, &self.listener, &self.socket);
        let result = started.and_then(|store| {
            self.ports.books.store = Some(store);
            Ok(self.hold_all()?)
        });
        let said = match result {
            Ok(()) => "the NIC's keeper has ended, and another one was started".to_owned(),
            Err(error) => {
                self.ports.books.store = None;
                let why = explain(&error);
                format!("the NIC's keeper has ended, and the NIC will end with its owner: {why}")
            }
        };
        self.warnings.push(said);
    }

    /// Whether any port's rate is limited now.
    pub(super) fn is_limited(&self) -> bool {
        let switch = self.ports.memory.switch();
        let mut ports = switch.geometry().all_ports();
        ports.any(|port| {
            switch
                .port(port)
                .is_some_and(|port| !port.ingress.is_off() || !port.egress.is_off())
        })
    }
}

fn unlearned(options: &Options, geometry: Geometry) -> Result<Vec<PortId>, ServerError> {
    let port = |number: &u32| {
        geometry.port(*number).ok_or(ServerError::NoSuchPort {
            port: *number,
            ports: geometry.ports(),
        })
    };
    options.unlearned.iter().map(port).collect()
}

fn describe(geometry: Geometry) -> String {
    format!(
        "{} ports with {} queues each, TX rings of {} bytes, lanes of {} bytes",
        geometry.ports(),
        geometry.queues(),
        geometry.ring(),
        geometry.lane()
    )
}
