//! The ports of the NIC and their tenants.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use postern_abi::platform::CallPath;
use postern_abi::service::Secret;
use postern_abi::window::PortId;
use postern_nic_client::mac::Mac;
use postern_nic_client::memory::draw_secret;
use postern_nic_client::protocol::{Grant, TenancyFds};
use postern_switch::credentials::Credentials;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, pidfd_send_signal};

use super::connection::{Connection, Peer, PeerProcess};
use super::error::{KeeperClientError, RequestError, RevocationError, TenancyError, process_name};
use super::kept::{BELLS, TenantFds, leaving_name, template_name, tenant_name};
use super::nic::ServedNic;
use super::saved_state::StateSaver;
use super::stations;

/// The tenant of a port.
#[derive(Debug)]
pub(super) enum Tenant {
    /// Nobody.
    Vacant,
    /// The process at the other end of a connection.
    Taken {
        /// The process, if it has a number here.
        pid: Option<Pid>,
        path: CallPath,
    },
    /// A process that does not have the port any more, and still has the memory of it, itself or
    /// by what it has handed on.
    Leaving {
        /// The process, if it has a number here.
        pid: Option<Pid>,
        /// The pidfd, until it has ended.
        process: Option<OwnedFd>,
    },
    /// The owner itself: for an uplink or a capture.
    Owner,
}

/// A tenancy that was granted, with what the tenant gets.
pub(super) struct GrantedTenancy {
    pub(super) grant: Grant,
    pub(super) fds: TenancyFds<OwnedFd>,
}

/// The ports of the NIC, their tenants, and the state that is saved of them.
#[derive(Debug)]
pub(super) struct Ports {
    pub(super) nic: ServedNic,
    pub(super) saver: StateSaver,
    tenants: Vec<Tenant>,
}

impl Ports {
    /// All ports vacant.
    pub(super) fn new(nic: ServedNic, saver: StateSaver) -> Ports {
        let tenants = nic.geometry().all_ports().map(|_| Tenant::Vacant);
        Ports {
            tenants: tenants.collect(),
            nic,
            saver,
        }
    }

    pub(super) fn tenant(&self, port: PortId) -> &Tenant {
        &self.tenants[port.index()]
    }

    fn is_disabled(&self, number: u32) -> bool {
        self.saver.state.disabled.contains(&number)
    }

    /// A port that nobody has and somebody may get.
    pub(super) fn vacant(&self, number: u32) -> Result<PortId, TenancyError> {
        let port = self.nic.port(number)?;
        match self.tenant(port) {
            Tenant::Vacant | Tenant::Leaving { .. } if self.is_disabled(number) => {
                Err(TenancyError::Disabled { port })
            }
            Tenant::Vacant => Ok(port),
            Tenant::Taken { pid, .. } => Err(TenancyError::Taken { port, by: *pid }),
            Tenant::Leaving { pid, process } => Err(match process {
                Some(_) => TenancyError::Leaving { port, by: *pid },
                None => TenancyError::Left { port, by: *pid },
            }),
            Tenant::Owner => Err(TenancyError::Owner { port }),
        }
    }

    /// The number of the next tenancy, saved.
    fn next_tenancy(&mut self) -> Result<u32, TenancyError> {
        let tenancy = &mut self.saver.state.tenancy;
        *tenancy = tenancy.checked_add(1).unwrap_or(1);
        let tenancy = *tenancy;
        self.saver.save()?;
        Ok(tenancy)
    }

    /// Lets a port to the process at the other end of a connection, which does not know it yet
    /// ([`Ports::note_answer`]).
    pub(super) fn grant(
        &mut self,
        number: u32,
        path: CallPath,
        client: &Connection,
    ) -> Result<GrantedTenancy, TenancyError> {
        let port = self.vacant(number)?;
        if !self.nic.offers(path) {
            return Err(TenancyError::PathRefused(path));
        }
        client.peer.check()?;
        let tenancy = self.next_tenancy()?;
        let secret = draw_secret()?;
        let credentials = Credentials::new(self.nic.geometry(), port, tenancy, secret);
        let fds = self.nic.tenancy_fds(&credentials, path)?;
        let Mac(mac) = self.saver.state.mac(port);
        let peer = &client.peer;
        let kept = TenantFds::new(&client.socket, peer.process.pidfd()).into_list();
        self.saver.offer(&tenant_name(port, path), &kept)?;
        self.admit(port, tenancy, secret);
        let pid = peer.pid;
        self.tenants[port.index()] = Tenant::Taken { pid, path };
        Ok(GrantedTenancy {
            grant: Grant { credentials, mac },
            fds,
        })
    }

    /// Has the keeper know that the process at the other end of a connection has been told of its
    /// port.
    pub(super) fn note_answer(&mut self, port: PortId, path: CallPath, client: &Connection) {
        let process = client.peer.process.pidfd();
        let kept = TenantFds::new(&client.socket, process).into_list();
        self.saver.try_hold(&tenant_name(port, path), &kept);
    }

    /// Lets a vacant port to the owner itself.
    pub(super) fn take(&mut self, port: PortId) -> Result<(), TenancyError> {
        let tenancy = self.next_tenancy()?;
        self.admit(port, tenancy, draw_secret()?);
        self.tenants[port.index()] = Tenant::Owner;
        Ok(())
    }

    /// Takes note of a tenant that another owner let a port to; whether the port still is that
    /// tenant's.
    pub(super) fn resume(&mut self, port: PortId, path: CallPath, pid: Option<Pid>) -> bool {
        let tenancy = self.nic.switch().state().tenancy(port);
        if tenancy != 0 {
            self.tenants[port.index()] = Tenant::Taken { pid, path };
        }
        tenancy != 0
    }

    /// Takes note of a process that another owner knew to be leaving.
    pub(super) fn resume_leaving(&mut self, port: PortId, pid: Option<Pid>, process: OwnedFd) {
        let process = Some(process);
        self.tenants[port.index()] = Tenant::Leaving { pid, process };
    }

    /// Makes sure that no number of a tenancy is given twice, also of one that was given and not
    /// saved. There are none, but it costs nothing to be sure.
    pub(super) fn resume_numbers(&mut self) {
        let switch = self.nic.switch();
        let given = switch.geometry().all_ports();
        let given = given.map(|port| switch.state().tenancy(port)).max();
        let last = &mut self.saver.state.tenancy;
        *last = (*last).max(given.unwrap_or(0));
    }

    /// Ends tenancies whose tenants are gone: what was granted is taken back, and who has memory of
    /// a port is known again.
    pub(super) fn evict_strays(&mut self) {
        let ports: Vec<PortId> = self.nic.geometry().all_ports().collect();
        for port in ports {
            if matches!(self.tenant(port), Tenant::Taken { .. }) {
                continue;
            }
            if self.nic.switch().state().tenancy(port) != 0 {
                self.evict(port);
            }
            let revoked = self.nic.templates.revoke(port).is_ok();
            let vacant = matches!(self.tenant(port), Tenant::Vacant);
            if vacant && (!revoked || self.nic.is_possessed(port)) {
                let (pid, process) = (None, None);
                self.tenants[port.index()] = Tenant::Leaving { pid, process };
            }
        }
        self.drop_unused_templates();
    }

    /// Has the keeper hold all templates, before there is a grant of them.
    pub(super) fn keep_templates(&mut self) -> Result<(), KeeperClientError> {
        for (number, template) in self.nic.templates.each() {
            self.saver.hold(&template_name(number), &[template])?;
        }
        self.saver.state.templates = self.nic.templates.saved();
        self.saver.save()
    }

    /// Has the keeper hold the bells.
    pub(super) fn keep_bells(&mut self) -> Result<(), KeeperClientError> {
        let bells: Vec<BorrowedFd<'_>> = self.nic.bells.fds().collect();
        self.saver.hold_parts(BELLS, &bells)
    }

    /// Lets templates of former owners go that nobody needs.
    fn drop_unused_templates(&mut self) {
        for number in self.nic.templates.drop_unused() {
            self.saver.forget(&template_name(number));
        }
    }

    fn admit(&self, port: PortId, tenancy: u32, secret: Secret) {
        let switch = self.nic.switch();
        self.nic.sleepers.reset(port);
        switch.admit(port, tenancy, secret, self.saver.state.mac(port).0);
        stations::pin_again(&self.nic, &self.saver.state, port);
    }

    /// Has the switch refuse requests of a port's tenancy, and ends what was set for its time.
    pub(super) fn evict(&self, port: PortId) {
        self.nic.switch().evict(port);
        // A guest that sleeps is to find out.
        self.nic.sleepers.tell(port);
        stations::pin_again(&self.nic, &self.saver.state, port);
        let learns = !self.saver.state.unlearned.contains(&port.number());
        self.nic.set_learning(port, learns);
    }

    /// Has stations be learned from the frames of a port's tenant or not, until its tenancy ends.
    pub(super) fn set_learning(&self, number: u32, on: bool) -> Result<(), RequestError> {
        let port = self.nic.port(number)?;
        if !matches!(self.tenant(port), Tenant::Taken { .. }) {
            return Err(RequestError::bad(format!(
                "port {port} has no tenant; for those that it will have, start the NIC with \
                 --no-learning {port}"
            )));
        }
        self.nic.set_learning(port, on);
        Ok(())
    }

    /// Ends a tenancy, and gives how many grants were taken back for that. When it returns, nothing
    /// of the tenancy reaches the NIC. The port is let again when the tenant's process has ended and
    /// nobody has the port's memory.
    pub(super) fn release(
        &mut self,
        port: PortId,
        peer: &mut Peer,
    ) -> Result<u32, RevocationError> {
        self.evict(port);
        let revoked = self.nic.templates.revoke(port);
        let pid = peer.pid;
        let process = match std::mem::replace(&mut peer.process, PeerProcess::Unknown) {
            PeerProcess::Other(process) if !has_ended(process.as_fd()) => Some(process),
            _ => None,
        };
        // Held before it is dropped: an owner that comes meanwhile knows of the process.
        if let Some(process) = &process {
            let name = leaving_name(port, pid);
            self.saver.try_hold(&name, &[process.as_fd()]);
        }
        let left = Tenant::Leaving { pid, process };
        let old = std::mem::replace(&mut self.tenants[port.index()], left);
        if let Tenant::Taken { path, .. } = old {
            self.saver.forget(&tenant_name(port, path));
        }
        self.reap();
        self.drop_unused_templates();
        revoked.map_err(|source| RevocationError { port, source })
    }

    /// Gives up a port that the owner had itself.
    pub(super) fn vacate(&mut self, port: PortId) {
        self.evict(port);
        self.tenants[port.index()] = Tenant::Vacant;
    }

    /// The processes whose end somebody may wait for.
    pub(super) fn leaving(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.tenants.iter().filter_map(|tenant| match tenant {
            Tenant::Leaving { process, .. } => Some(process.as_ref()?.as_fd()),
            _ => None,
        })
    }

    /// Whether a port's memory is somebody's whose end nobody tells.
    pub(super) fn has_heirs(&self) -> bool {
        let mut tenants = self.tenants.iter();
        tenants.any(|tenant| matches!(tenant, Tenant::Leaving { process: None, .. }))
    }

    /// Makes the ports vacant whose memory nobody has any more.
    pub(super) fn reap(&mut self) {
        for port in self.nic.geometry().all_ports() {
            let Tenant::Leaving { pid, process } = &mut self.tenants[port.index()] else {
                continue;
            };
            if let Some(pidfd) = process {
                if !has_ended(pidfd.as_fd()) {
                    continue;
                }
                let name = leaving_name(port, *pid);
                *process = None;
                self.saver.forget(&name);
            }
            // Asked again if it failed at the end of the tenancy; 0 grants otherwise.
            if self.nic.templates.revoke(port).is_ok() && !self.nic.is_possessed(port) {
                self.tenants[port.index()] = Tenant::Vacant;
            }
        }
    }

    /// Has the process end that still has a port's memory.
    pub(super) fn kill(&self, port: PortId) -> Result<(), RequestError> {
        let (pid, process) = match self.tenant(port) {
            Tenant::Leaving { pid, process } => (*pid, process.as_ref()),
            _ => return Ok(()),
        };
        let Some(process) = process else {
            return Err(RequestError::bad(format!(
                "what is left of port {port} is another process's than its tenant's, which the \
                 NIC does not know; end what that one started"
            )));
        };
        pidfd_send_signal(process, Signal::KILL).map_err(|errno| {
            let process = process_name(pid);
            RequestError::failed(format!("the NIC cannot end {process}: {errno}"))
        })
    }

    /// Gives the tenants of a port that come from now on an address; that of its number without one.
    pub(super) fn set_mac(&mut self, number: u32, mac: Option<Mac>) -> Result<(), RequestError> {
        let port = self.nic.port(number)?;
        if !matches!(self.tenant(port), Tenant::Vacant) {
            return Err(RequestError::bad(format!(
                "somebody has port {port} with its address: choose one while nobody has the port"
            )));
        }
        let Some(mac) = mac else {
            self.saver.state.macs.remove(&number);
            return Ok(self.saver.save()?);
        };
        if mac.is_zero() {
            return Err(RequestError::bad(format!(
                "{mac} is nobody's address: choose one such as 02:00:00:00:00:01"
            )));
        }
        let state = &mut self.saver.state;
        let mut others = self
            .nic
            .geometry()
            .all_ports()
            .filter(|&other| other != port);
        let taken =
            others.find(|&other| mac == state.mac(other) || mac == Mac::of_port(other.number()));
        if let Some(other) = taken {
            return Err(RequestError::bad(format!(
                "{mac} is the address of port {other}: choose another"
            )));
        }
        // The address is the port's in every VLAN.
        let told = |(_, station, _): &&(u16, Mac, u32)| *station == mac;
        if let Some((_, _, behind)) = state.stations.iter().find(told) {
            return Err(RequestError::bad(format!(
                "{mac} is the address of a station behind port {behind}: choose another"
            )));
        }
        state.macs.insert(number, mac);
        Ok(self.saver.save()?)
    }

    /// Lets a disabled port be let again.
    pub(super) fn enable(&mut self, number: u32) -> Result<(), RequestError> {
        self.nic.port(number)?;
        self.saver.state.disabled.remove(&number);
        Ok(self.saver.save()?)
    }

    /// Has a port be let to nobody any more. Its present tenant keeps it.
    pub(super) fn disable(&mut self, number: u32) -> Result<PortId, RequestError> {
        let port = self.nic.port(number)?;
        if let Tenant::Owner = self.tenant(port) {
            return Err(TenancyError::Owner { port }.into());
        }
        self.saver.state.disabled.insert(number);
        self.saver.save()?;
        Ok(port)
    }
}

impl Peer {
    /// Whether the end of the process can be known, which every tenant's must be.
    fn check(&self) -> Result<(), TenancyError> {
        match &self.process {
            PeerProcess::Own => Ok(()),
            PeerProcess::Other(process) if !has_ended(process.as_fd()) => Ok(()),
            PeerProcess::Other(_) | PeerProcess::Unknown => Err(TenancyError::PeerUnknown),
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
