//! Becoming the owner of a NIC: of a new one, or of one that is kept.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use postern_abi::window::{Geometry, PortId};
use postern_nic_client::bells::Bells;
use postern_nic_client::memory::Memory;
use rustix::event::{EventfdFlags, eventfd};

use super::Server;
use super::captures::Captures;
use super::clock::Clock;
use super::connection::{Connection, Stage};
use super::error::{KeeperClientError, ServerError, explain};
use super::event::ServerEvent;
use super::keeper::address;
use super::keeper_client::{FoundKeeper, KeeperClient};
use super::kept::{self, KeptFds, KeptPort, TenantFds, leaving_name, tenant_name};
use super::launcher::Launcher;
use super::listener::{self, Listener};
use super::loops::Loops;
use super::nic::ServedNic;
use super::options::ServerOptions;
use super::policies::PortPolicies;
use super::ports::{Ports, Tenant};
use super::saved_state::{SavedState, StateSaver};
use super::templates::Templates;
use super::uplinks::Uplinks;
use crate::image::Image;

impl Server {
    /// Creates the NIC and listens, or takes over the one that is kept for the socket. Clients are
    /// served by [`Server::run`].
    ///
    /// # Errors
    ///
    /// Anything is missing that the options ask for. That this machine has no views is no error
    /// here but an answer to whoever asks for one; see [`Server::missing_paths`].
    pub fn bind(options: &ServerOptions) -> Result<Server, ServerError> {
        let image = options.image.as_deref().map(Image::read).transpose()?;
        let found = match options.keeper {
            Some(_) => KeeperClient::find(&options.socket)?,
            None => FoundKeeper::Nothing,
        };
        match found {
            FoundKeeper::Owned => Err(ServerError::InUse(options.socket.clone())),
            FoundKeeper::Nothing => Server::create(options, image.as_ref()),
            FoundKeeper::Kept(keeper, kept) => {
                Server::take_over(options, image.as_ref(), keeper, kept)
            }
        }
    }

    fn create(options: &ServerOptions, image: Option<&Image>) -> Result<Server, ServerError> {
        let unlearned = unlearned(options, options.geometry)?;
        let listener = Listener::bind(&options.socket)?;
        let memory = Arc::new(Memory::create(options.geometry)?);
        let bells = make_bells(options.geometry)?;
        let none = SavedState::default();
        let templates = BTreeMap::new();
        let templates =
            Templates::make(options, image, &memory, &bells, templates, &none.templates);
        let mut saver = StateSaver::default();
        saver.state.templates = templates.saved();
        saver.state.unlearned = options.unlearned.iter().copied().collect();
        let nic = ServedNic::new(memory, bells, templates, &options.paths);
        for port in unlearned {
            nic.set_learning(port, false);
        }
        let ports = Ports::new(nic, saver);
        let mut server = Server::new(options, ports, listener)?;
        if let Some(program) = &options.keeper {
            let (listener, launcher) = (&server.listener, server.launcher.as_ref());
            let keeper = KeeperClient::start(program, launcher, listener, &server.socket)?;
            server.ports.saver.keeper = Some(keeper);
            server.hold_all()?;
        }
        Ok(server)
    }

    fn new(
        options: &ServerOptions,
        ports: Ports,
        listener: Listener,
    ) -> Result<Server, ServerError> {
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| ServerError::Wait(errno.into()))?;
        let clock = Clock::start(
            Arc::clone(&ports.nic.memory),
            Arc::clone(&ports.nic.sleepers),
            options.ageing,
        );
        let launcher = options.keeper.as_ref().and_then(|keeper| {
            let arguments = keeper.launcher.as_ref()?;
            let started = Launcher::start(keeper, arguments);
            Some(started.map_err(|source| KeeperClientError::Start {
                program: keeper.program.clone(),
                source,
            }))
        });
        Ok(Server {
            socket: options.socket.clone(),
            keeper: options.keeper.clone(),
            launcher: launcher.transpose()?,
            uplinks: Uplinks::default(),
            captures: Captures::default(),
            loops: Loops::default(),
            clock: clock.map_err(ServerError::Clock)?,
            ports,
            listener,
            connections: Vec::new(),
            stop: Arc::new(stop),
            ending: None,
            events: Vec::new(),
            resumed: false,
        })
    }

    fn take_over(
        options: &ServerOptions,
        image: Option<&Image>,
        keeper: KeeperClient,
        mut kept: KeptFds,
    ) -> Result<Server, ServerError> {
        let garbage = |what| KeeperClientError::Garbage {
            socket: address(&options.socket),
            what,
        };
        let one = |kept: &mut KeptFds, name, what| {
            let fds = kept.remove(name).unwrap_or_default();
            fds.into_iter().next().ok_or_else(|| garbage(what))
        };
        let socket = one(&mut kept, kept::SOCKET, "it has no socket")?;
        let state = one(&mut kept, kept::STATE, "it has no memory")?;
        let saved = one(&mut kept, kept::SAVED_STATE, "it has no saved state")?;
        let windows = kept::take_parts(&mut kept, kept::WINDOWS);
        let bells = kept::take_parts(&mut kept, kept::BELLS);
        let memory = Arc::new(Memory::open(state, windows)?);
        let geometry = memory.geometry();
        if geometry != options.geometry && !options.any_geometry {
            return Err(ServerError::Kept {
                socket: options.socket.clone(),
                kept: describe(geometry),
                wanted: describe(options.geometry),
            });
        }
        // An owner of an older Postern has made none, and its tenants have none: those that come now
        // get new ones.
        let new_bells = bells.is_empty();
        let bells = match new_bells {
            true => make_bells(geometry)?,
            false => Bells::from_fds(geometry, bells)
                .map(Arc::new)
                .ok_or_else(|| garbage("its bells are not as many as its queues"))?,
        };
        let unlearned = unlearned(options, geometry)?;
        let state = SavedState::read(&saved);
        let mut state = state.map_err(|_| garbage("its saved state cannot be read"))?;
        state.unlearned.extend(&options.unlearned);
        let templates = kept::take_templates(&mut kept);
        let templates =
            Templates::make(options, image, &memory, &bells, templates, &state.templates);
        let nic = ServedNic::new(memory, bells, templates, &options.paths);
        for port in unlearned {
            nic.set_learning(port, false);
        }
        let keeper = Some(keeper);
        let mut ports = Ports::new(nic, StateSaver { state, keeper });
        ports.keep_templates()?;
        if new_bells {
            ports.keep_bells()?;
        }
        let listener = Listener::adopt(socket, options.socket.clone());
        let mut server = Server::new(options, ports, listener)?;
        server.resumed = true;
        server.resume(kept);
        Ok(server)
    }

    /// Goes on with all that another owner had.
    fn resume(&mut self, kept: KeptFds) {
        for (name, fds) in kept {
            let known = self.resume_port(&name, fds);
            if known.is_none() {
                self.ports.saver.forget(&name);
            }
        }
        let (ports, clock) = (&mut self.ports, &self.clock);
        ports.resume_numbers();
        ports.evict_strays();
        self.events.extend(PortPolicies { ports, clock }.resume());
        self.events.extend(self.uplinks.resume(ports));
        self.events.extend(self.captures.resume(ports, clock));
        let applied = PortPolicies { ports, clock }.apply_all();
        let saved = applied.and_then(|()| Ok(self.ports.saver.save()?));
        if let Err(error) = saved {
            self.events.push(ServerEvent::PoliciesNotResumed {
                reason: error.to_string(),
            });
        }
        self.limit_uplinks();
        // Whoever was left asleep meanwhile need not wait for the clock.
        for port in self.ports.nic.geometry().all_ports() {
            if self.ports.nic.switch().state().tenancy(port) != 0 {
                self.ports.nic.sleepers.tell(port);
            }
        }
    }

    /// Goes on with a tenant, or the process of a former one.
    fn resume_port(&mut self, name: &str, fds: Vec<OwnedFd>) -> Option<()> {
        match KeptPort::parse(name, fds)? {
            KeptPort::Tenant { port, path, fds } => {
                let port = self.ports.nic.port(port).ok()?;
                let socket = fds.connection;
                let peer = listener::peer(&socket, fds.process)?;
                if !self.ports.resume(port, path, peer.pid) {
                    return None;
                }
                self.connections.push(Connection {
                    socket,
                    peer,
                    stage: Stage::Attached(port),
                });
            }
            // An owner that died between two words to the keeper may have left both; then the
            // tenancy has ended.
            KeptPort::Leaving { port, pid, process } => {
                let port = self.ports.nic.port(port).ok()?;
                self.ports.resume_leaving(port, pid, process);
            }
        }
        Some(())
    }

    /// Has a new keeper hold everything.
    fn hold_all(&mut self) -> Result<(), KeeperClientError> {
        let memory = Arc::clone(&self.ports.nic.memory);
        let saver = &mut self.ports.saver;
        saver.hold(kept::STATE, &[memory.state_fd()])?;
        let windows: Vec<BorrowedFd<'_>> = memory.window_fds().collect();
        saver.hold_parts(kept::WINDOWS, &windows)?;
        self.ports.keep_bells()?;
        let saver = &mut self.ports.saver;
        saver.save()?;
        self.ports.keep_templates()?;
        for port in memory.geometry().all_ports() {
            match self.ports.tenant(port) {
                Tenant::Taken { path, .. } => {
                    let name = tenant_name(port, *path);
                    let stage = Stage::Attached(port);
                    let client = self.connections.iter().find(|one| one.stage == stage);
                    if let Some(client) = client {
                        let process = client.peer.process.pidfd();
                        let fds = TenantFds::new(&client.socket, process).into_list();
                        self.ports.saver.hold(&name, &fds)?;
                    }
                }
                Tenant::Leaving { pid, process } => {
                    let name = leaving_name(port, *pid);
                    // Whoever has the memory without one is found by the memory.
                    if let Some(Ok(process)) = process.as_ref().map(OwnedFd::try_clone) {
                        self.ports.saver.hold(&name, &[process.as_fd()])?;
                    }
                }
                Tenant::Vacant | Tenant::Owner => {}
            }
        }
        Ok(())
    }

    /// Starts another keeper: somebody has killed the one that there was.
    pub(super) fn replace_keeper(&mut self) {
        let Some(mut old) = self.ports.saver.keeper.take() else {
            return;
        };
        old.reap();
        let Some(program) = &self.keeper else {
            return;
        };
        let (listener, launcher) = (&self.listener, self.launcher.as_ref());
        let started = KeeperClient::start(program, launcher, listener, &self.socket);
        let result = started.and_then(|keeper| {
            self.ports.saver.keeper = Some(keeper);
            Ok(self.hold_all()?)
        });
        self.events.push(match result {
            Ok(()) => ServerEvent::KeeperReplaced,
            Err(error) => {
                self.ports.saver.keeper = None;
                ServerEvent::KeeperLost {
                    reason: explain(&error),
                }
            }
        });
    }
}

fn make_bells(geometry: Geometry) -> Result<Arc<Bells>, ServerError> {
    let bells = Bells::create(geometry);
    Ok(Arc::new(
        bells.map_err(|errno| ServerError::Bells(errno.into()))?,
    ))
}

fn unlearned(options: &ServerOptions, geometry: Geometry) -> Result<Vec<PortId>, ServerError> {
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
        "{} ports with {} queues each, TX rings of {} bytes, {} lanes of {} bytes",
        geometry.ports(),
        geometry.queues(),
        geometry.ring(),
        geometry.lanes(),
        geometry.lane()
    )
}
