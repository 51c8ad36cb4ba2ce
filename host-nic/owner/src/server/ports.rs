//! The ports of the NIC and their tenants.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use postern_abi::platform::CallPath;
use postern_abi::window::PortId;
use postern_nic_client::protocol::{Grant, TenancyFds};
use postern_switch::credentials::Credentials;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Pid;

use super::connection::{Connection, Peer};
use super::error::{RequestError, TenancyError};
use super::kept::{TenantFds, leaving_name, tenant_name};
use super::nic::{ServedNic, suggested_mac};
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
    /// A process that has given up the port, and still has the window mapped.
    Leaving { pid: Pid, process: OwnedFd },
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
            Tenant::Vacant if self.is_disabled(number) => Err(TenancyError::Disabled { port }),
            Tenant::Vacant => Ok(port),
            Tenant::Taken { pid, .. } => Err(TenancyError::Taken { port, by: *pid }),
            Tenant::Leaving { pid, .. } => Err(TenancyError::Leaving { port, by: *pid }),
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

    /// Lets a port to the process at the other end of a connection.
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
        let tenancy = self.next_tenancy()?;
        let credentials = Credentials::new(self.nic.geometry(), port, tenancy);
        let fds = self.nic.tenancy_fds(&credentials, path)?;
        let mac = suggested_mac(port);
        let peer = &client.peer;
        let kept = TenantFds::new(&client.socket, peer.process.as_ref()).into_list();
        self.saver.hold(&tenant_name(port, path), &kept)?;
        self.admit(port, tenancy);
        let pid = peer.pid;
        self.tenants[port.index()] = Tenant::Taken { pid, path };
        Ok(GrantedTenancy {
            grant: Grant { credentials, mac },
            fds,
        })
    }

    /// Lets a vacant port to the owner itself.
    pub(super) fn take(&mut self, port: PortId) -> Result<(), TenancyError> {
        let tenancy = self.next_tenancy()?;
        self.admit(port, tenancy);
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
    pub(super) fn resume_leaving(&mut self, port: PortId, pid: Pid, process: OwnedFd) {
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

    /// Ends tenancies whose tenants are gone.
    pub(super) fn evict_strays(&mut self) {
        let switch = self.nic.switch();
        for (port, tenant) in switch.geometry().all_ports().zip(&self.tenants) {
            if !matches!(tenant, Tenant::Taken { .. }) && switch.state().tenancy(port) != 0 {
                self.evict(port);
            }
        }
    }

    fn admit(&self, port: PortId, tenancy: u32) {
        let switch = self.nic.switch();
        switch.admit(port, tenancy, suggested_mac(port));
        stations::pin_again(&self.nic, &self.saver.state, port);
    }

    /// Has the switch refuse requests of a port's tenancy.
    fn evict(&self, port: PortId) {
        self.nic.switch().evict(port);
        stations::pin_again(&self.nic, &self.saver.state, port);
    }

    /// Ends a tenancy. The port is let again when the tenant's process has ended.
    pub(super) fn release(&mut self, port: PortId, peer: &mut Peer) {
        self.evict(port);
        let old = std::mem::replace(&mut self.tenants[port.index()], Tenant::Vacant);
        if let (Some(pid), Some(process)) = (peer.pid, peer.process.take())
            && !has_ended(process.as_fd())
        {
            // Held before it is dropped: an owner that comes meanwhile knows of the process.
            let name = leaving_name(port, pid);
            self.saver.try_hold(&name, &[process.as_fd()]);
            self.tenants[port.index()] = Tenant::Leaving { pid, process };
        }
        if let Tenant::Taken { path, .. } = old {
            self.saver.forget(&tenant_name(port, path));
        }
    }

    /// Gives up a port that the owner had itself.
    pub(super) fn vacate(&mut self, port: PortId) {
        self.evict(port);
        self.tenants[port.index()] = Tenant::Vacant;
    }

    /// The processes whose end somebody may wait for.
    pub(super) fn leaving(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.tenants.iter().filter_map(|tenant| match tenant {
            Tenant::Leaving { process, .. } => Some(process.as_fd()),
            _ => None,
        })
    }

    /// Makes the ports vacant whose processes have ended.
    pub(super) fn reap(&mut self) {
        let ports = self.nic.geometry().all_ports();
        for (port, tenant) in ports.zip(&mut self.tenants) {
            if let Tenant::Leaving { pid, process } = tenant
                && has_ended(process.as_fd())
            {
                let name = leaving_name(port, *pid);
                *tenant = Tenant::Vacant;
                self.saver.forget(&name);
            }
        }
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

fn has_ended(process: BorrowedFd<'_>) -> bool {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::from_borrowed_fd(process, PollFlags::IN)];
    poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
}
