//! Who has which port.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;

use postern_abi::machine::Path;
use postern_abi::window::PortId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Pid;

use super::connection::Peer;
use super::{explain, suggested_mac};
use crate::caller::Caller;
use crate::memory::Memory;
use crate::protocol::{Grant, Status};
use crate::view::{Mode, ViewMaker};

/// Views, or why there are none.
#[derive(Debug)]
pub(super) enum Views {
    Here(ViewMaker),
    Missing(String),
}

#[derive(Debug)]
pub(super) struct Ports {
    pub(super) memory: Memory,
    pub(super) views: Views,
    paths: Vec<Path>,
    tenants: Vec<Tenant>,
    /// The last tenancy of any port; never 0.
    tenancy: u32,
}

#[derive(Debug)]
enum Tenant {
    Vacant,
    /// By the process of that number, if it has one here.
    Taken(Option<Pid>),
    /// It has given up the port, and still has the window mapped.
    Leaving {
        pid: Pid,
        process: OwnedFd,
    },
}

/// A port that was let, with what its tenant gets.
pub(super) struct Tenancy {
    pub(super) grant: Grant,
    pub(super) fds: Vec<OwnedFd>,
}

/// Why a port was not let.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("there is no port {port}; the NIC has ports 0 to {last}")]
    NoSuchPort { port: u32, last: u32 },
    #[error("port {port} is taken{}; choose another or stop that VM", process(*.by))]
    Taken { port: PortId, by: Option<Pid> },
    #[error(
        "port {port} was given up by process {by}, which still has its memory; end that process"
    )]
    Leaving { port: PortId, by: Pid },
    #[error("the NIC does not offer the path {}", .0.name())]
    PathRefused(Path),
    #[error("the path {} needs EPT views: {reason}", path.name())]
    NoViews { path: Path, reason: String },
    #[error("{0}")]
    Failed(String),
}

fn process(pid: Option<Pid>) -> String {
    pid.map_or(String::new(), |pid| format!(" by process {pid}"))
}

impl Refusal {
    pub(super) fn status(&self) -> Status {
        match self {
            Refusal::NoSuchPort { .. } => Status::NoSuchPort,
            Refusal::Taken { .. } | Refusal::Leaving { .. } => Status::PortTaken,
            Refusal::PathRefused(_) => Status::PathRefused,
            Refusal::NoViews { .. } => Status::NoViews,
            Refusal::Failed(_) => Status::Failed,
        }
    }
}

impl Ports {
    /// All ports vacant. `unlearned` has a bit for each port from which nothing is learned.
    pub(super) fn new(memory: Memory, views: Views, paths: &[Path], unlearned: u64) -> Ports {
        let state = memory.switch().state();
        state.unlearned.store(unlearned, Relaxed);
        Ports {
            tenants: memory
                .geometry()
                .all_ports()
                .map(|_| Tenant::Vacant)
                .collect(),
            memory,
            views,
            paths: paths.to_vec(),
            tenancy: 0,
        }
    }

    /// Lets a port.
    pub(super) fn grant(
        &mut self,
        number: u32,
        path: Path,
        peer: &Peer,
    ) -> Result<Tenancy, Refusal> {
        let geometry = self.memory.geometry();
        let Some(port) = geometry.port(number) else {
            return Err(Refusal::NoSuchPort {
                port: number,
                last: geometry.ports() - 1,
            });
        };
        match &self.tenants[port.index()] {
            Tenant::Vacant => {}
            Tenant::Taken(pid) => return Err(Refusal::Taken { port, by: *pid }),
            Tenant::Leaving { pid, .. } => return Err(Refusal::Leaving { port, by: *pid }),
        }
        if !self.paths.contains(&path) {
            return Err(Refusal::PathRefused(path));
        }
        self.tenancy = self.tenancy.checked_add(1).unwrap_or(1);
        let caller = Caller {
            geometry,
            port,
            tenancy: self.tenancy,
        };
        let fds = match path {
            Path::Elisa => self.view(caller, path, Mode::Fast)?,
            // Served from the data of a view that nobody enters.
            Path::ElisaStrict | Path::ExitKernel => self.view(caller, path, Mode::Strict)?,
            Path::ExitUser | Path::Direct => self.all_memory()?,
        };
        let mac = suggested_mac(port);
        self.memory.switch().admit(port, caller.tenancy, mac);
        self.tenants[port.index()] = Tenant::Taken(peer.pid);
        Ok(Tenancy {
            grant: Grant { caller, mac },
            fds,
        })
    }

    fn view(&self, caller: Caller, path: Path, mode: Mode) -> Result<Vec<OwnedFd>, Refusal> {
        let maker = match &self.views {
            Views::Here(maker) => maker,
            Views::Missing(reason) => {
                let reason = reason.clone();
                return Err(Refusal::NoViews { path, reason });
            }
        };
        let view = maker.make(&self.memory, caller, mode);
        let view = view.map_err(|error| Refusal::Failed(explain(&error)))?;
        let window = self.memory.window_fd(caller.port);
        let window = window.expect("the caller's port is one of the NIC's");
        Ok(vec![view, duplicate(window)?])
    }

    fn all_memory(&self) -> Result<Vec<OwnedFd>, Refusal> {
        let state = [self.memory.state_fd()];
        let all = state.into_iter().chain(self.memory.window_fds());
        all.map(duplicate).collect()
    }

    /// Ends a tenancy. The port is let again when the tenant's process has ended.
    pub(super) fn release(&mut self, port: PortId, peer: &mut Peer) {
        self.memory.switch().evict(port);
        self.tenants[port.index()] = match (peer.pid, peer.process.take()) {
            (Some(pid), Some(process)) if !has_ended(process.as_fd()) => {
                Tenant::Leaving { pid, process }
            }
            _ => Tenant::Vacant,
        };
    }

    /// Processes whose end somebody may wait for.
    pub(super) fn leaving(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.tenants.iter().filter_map(|tenant| match tenant {
            Tenant::Leaving { process, .. } => Some(process.as_fd()),
            _ => None,
        })
    }

    /// Makes the ports vacant whose processes have ended.
    pub(super) fn reap(&mut self) {
        for tenant in &mut self.tenants {
            if let Tenant::Leaving { process, .. } = tenant
                && has_ended(process.as_fd())
            {
                *tenant = Tenant::Vacant;
            }
        }
    }
}

fn has_ended(process: BorrowedFd<'_>) -> bool {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::from_borrowed_fd(process, PollFlags::IN)];
    poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
}

fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd, Refusal> {
    fd.try_clone_to_owned()
        .map_err(|error| Refusal::Failed(format!("the NIC cannot duplicate a descriptor: {error}")))
}
