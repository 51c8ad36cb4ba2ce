//! Who has which port.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use postern_abi::platform::CallPath;
use postern_abi::window::PortId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Pid;

use super::books::Books;
use super::connection::{Connection, Peer};
use super::keeper::TENANT;
use super::store::StoreError;
use super::{explain, suggested_mac};
use crate::view::{Mode, ViewMaker};
use postern_nic_client::memory::Memory;
use postern_nic_client::protocol::{Grant, Status};
use postern_switch::credentials::Credentials;
use postern_switch::fdb::Station;
use postern_switch::state::MODE_NO_LEARNING;
use postern_switch::tenant::mac_word;

/// Names of processes that still have a port's memory begin with this.
pub(super) const LEAVING: &str = "leaving.";

/// Views, or why there are none.
#[derive(Debug)]
pub(super) enum Views {
    Here(ViewMaker),
    Missing(String),
}

#[derive(Debug)]
pub(super) struct Ports {
    pub(super) memory: Arc<Memory>,
    pub(super) views: Views,
    paths: Vec<CallPath>,
    tenants: Vec<Tenant>,
    pub(super) books: Books,
}

#[derive(Debug)]
pub(super) enum Tenant {
    Vacant,
    Taken {
        /// The process, if it has a number here.
        pid: Option<Pid>,
        path: CallPath,
    },
    /// It has given up the port, and still has the window mapped.
    Leaving {
        pid: Pid,
        process: OwnedFd,
    },
    /// The owner itself.
    Native,
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
    #[error("port {port} is an uplink or a capture; choose another or remove that")]
    Native { port: PortId },
    #[error("port {port} is disabled; choose another or enable it (postern nic port)")]
    Disabled { port: PortId },
    #[error(
        "port {port} was given up by process {by}, which still has its memory; end that process"
    )]
    Leaving { port: PortId, by: Pid },
    #[error("the NIC does not offer the path {}", .0.name())]
    PathRefused(CallPath),
    #[error("the path {} needs EPT views: {reason}", path.name())]
    NoViews { path: CallPath, reason: String },
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
            Refusal::Taken { .. } | Refusal::Leaving { .. } | Refusal::Native { .. } => {
                Status::PortTaken
            }
            Refusal::Disabled { .. } => Status::Disabled,
            Refusal::PathRefused(_) => Status::PathRefused,
            Refusal::NoViews { .. } => Status::NoViews,
            Refusal::Failed(_) => Status::Failed,
        }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Refusal {
        Refusal::Failed(explain(&error))
    }
}

impl Ports {
    /// All ports vacant.
    pub(super) fn new(
        memory: Arc<Memory>,
        views: Views,
        paths: &[CallPath],
        books: Books,
    ) -> Ports {
        let geometry = memory.geometry();
        Ports {
            tenants: geometry.all_ports().map(|_| Tenant::Vacant).collect(),
            memory,
            views,
            paths: paths.to_vec(),
            books,
        }
    }

    /// From frames of these ports nothing is learned.
    pub(super) fn do_not_learn(&self, ports: &[PortId]) {
        let state = self.memory.switch().state();
        for port in ports {
            state.mode[port.index()].fetch_or(MODE_NO_LEARNING, Relaxed);
        }
    }

    /// The port of that number.
    pub(super) fn port(&self, number: u32) -> Result<PortId, Refusal> {
        let geometry = self.memory.geometry();
        geometry.port(number).ok_or(Refusal::NoSuchPort {
            port: number,
            last: geometry.ports() - 1,
        })
    }

    pub(super) fn tenant(&self, port: PortId) -> &Tenant {
        &self.tenants[port.index()]
    }

    /// A port that nobody has.
    pub(super) fn vacant(&self, number: u32) -> Result<PortId, Refusal> {
        let port = self.port(number)?;
        match self.tenant(port) {
            Tenant::Vacant if self.books.notes.disabled.contains(&number) => {
                Err(Refusal::Disabled { port })
            }
            Tenant::Vacant => Ok(port),
            Tenant::Taken { pid, .. } => Err(Refusal::Taken { port, by: *pid }),
            Tenant::Leaving { pid, .. } => Err(Refusal::Leaving { port, by: *pid }),
            Tenant::Native => Err(Refusal::Native { port }),
        }
    }

    /// The next tenancy, noted.
    fn next_tenancy(&mut self) -> Result<u32, Refusal> {
        let tenancy = &mut self.books.notes.tenancy;
        *tenancy = tenancy.checked_add(1).unwrap_or(1);
        let tenancy = *tenancy;
        self.books.save()?;
        Ok(tenancy)
    }

    /// Lets a port to the process at the other end of a connection.
    pub(super) fn grant(
        &mut self,
        number: u32,
        path: CallPath,
        client: &Connection,
    ) -> Result<Tenancy, Refusal> {
        let port = self.vacant(number)?;
        if !self.paths.contains(&path) {
            return Err(Refusal::PathRefused(path));
        }
        let caller = Credentials::new(self.memory.geometry(), port, self.next_tenancy()?);
        let fds = match path {
            CallPath::Elisa => self.view(&caller, path, Mode::Fast)?,
            // Served from the data of a view that nobody enters.
            CallPath::ElisaStrict | CallPath::ExitKernel => {
                self.view(&caller, path, Mode::Strict)?
            }
            CallPath::ExitUser | CallPath::Direct => self.all_memory()?,
        };
        let mac = suggested_mac(port);
        let peer = &client.peer;
        let kept: Vec<_> = [Some(&client.socket), peer.process.as_ref()]
            .into_iter()
            .flatten()
            .map(AsFd::as_fd)
            .collect();
        self.books.hold(&tenant_name(port, path), &kept)?;
        self.admit(port, caller.tenancy());
        let pid = peer.pid;
        self.tenants[port.index()] = Tenant::Taken { pid, path };
        Ok(Tenancy {
            grant: Grant { caller, mac },
            fds,
        })
    }

    /// Lets a vacant port to the owner itself.
    pub(super) fn take(&mut self, port: PortId) -> Result<(), Refusal> {
        let tenancy = self.next_tenancy()?;
        self.admit(port, tenancy);
        self.tenants[port.index()] = Tenant::Native;
        Ok(())
    }

    /// A connection that another owner let a port to; whether the port still is that tenant's.
    pub(super) fn resume(&mut self, port: PortId, path: CallPath, pid: Option<Pid>) -> bool {
        let tenancy = self.memory.switch().state().tenancy(port);
        if tenancy != 0 {
            self.tenants[port.index()] = Tenant::Taken { pid, path };
        }
        tenancy != 0
    }

    /// A process that another owner knew to be leaving.
    pub(super) fn resume_leaving(&mut self, port: PortId, pid: Pid, process: OwnedFd) {
        self.tenants[port.index()] = Tenant::Leaving { pid, process };
    }

    /// Ends tenancies that nobody has.
    pub(super) fn evict_strays(&mut self) {
        let switch = self.memory.switch();
        for (port, tenant) in switch.geometry().all_ports().zip(&self.tenants) {
            if !matches!(tenant, Tenant::Taken { .. }) && switch.state().tenancy(port) != 0 {
                switch.evict(port);
                self.pin_stations(port);
            }
        }
    }

    fn admit(&self, port: PortId, tenancy: u32) {
        let switch = self.memory.switch();
        switch.admit(port, tenancy, suggested_mac(port));
        self.pin_stations(port);
    }

    /// Puts stations of a port that people have told into the table again.
    fn pin_stations(&self, port: PortId) {
        let switch = self.memory.switch();
        for (vlan, mac, number) in &self.books.notes.stations {
            if *number == port.number() {
                let station = Station::new((*vlan).into(), mac_word(mac.0));
                switch.state().fdb.pin(switch.key(), station, port);
            }
        }
    }

    fn view(
        &self,
        caller: &Credentials,
        path: CallPath,
        mode: Mode,
    ) -> Result<Vec<OwnedFd>, Refusal> {
        let maker = match &self.views {
            Views::Here(maker) => maker,
            Views::Missing(reason) => {
                let reason = reason.clone();
                return Err(Refusal::NoViews { path, reason });
            }
        };
        let view = maker.make(&self.memory, caller, mode);
        let view = view.map_err(|error| Refusal::Failed(explain(&error)))?;
        let window = self.memory.window_fd(caller.port());
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
        self.pin_stations(port);
        let old = std::mem::replace(&mut self.tenants[port.index()], Tenant::Vacant);
        if let (Some(pid), Some(process)) = (peer.pid, peer.process.take())
            && !has_ended(process.as_fd())
        {
            // Held before it is dropped: an owner that comes meanwhile knows of the process.
            let name = leaving_name(port, pid);
            self.books.try_hold(&name, &[process.as_fd()]);
            self.tenants[port.index()] = Tenant::Leaving { pid, process };
        }
        if let Tenant::Taken { path, .. } = old {
            self.books.forget(&tenant_name(port, path));
        }
    }

    /// Gives up a port that the owner had itself.
    pub(super) fn vacate(&mut self, port: PortId) {
        self.memory.switch().evict(port);
        self.pin_stations(port);
        self.tenants[port.index()] = Tenant::Vacant;
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
        for (port, tenant) in self
            .memory
            .geometry()
            .all_ports()
            .zip(self.tenants.iter_mut())
        {
            if let Tenant::Leaving { pid, process } = tenant
                && has_ended(process.as_fd())
            {
                let name = leaving_name(port, *pid);
                *tenant = Tenant::Vacant;
                self.books.forget(&name);
            }
        }
    }
}

/// What a keeper calls the connection of a tenant, and with it the process.
pub(super) fn tenant_name(port: PortId, path: CallPath) -> String {
    format!("{TENANT}{port}.{}", path.name())
}

/// What a keeper calls a process that still has the memory of a port.
pub(super) fn leaving_name(port: PortId, pid: Pid) -> String {
    format!("{LEAVING}{port}.{}", pid.as_raw_pid())
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
