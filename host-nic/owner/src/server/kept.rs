//! The descriptors that a keeper holds: their names, and their order under each name.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use postern_abi::platform::CallPath;
use postern_abi::window::PortId;
use rustix::process::Pid;

/// Name of the listening socket, when the keeper hands it over.
pub(super) const SOCKET: &str = "socket";
/// Name of the memfd of the switch state.
pub(super) const STATE: &str = "state";
/// Beginning of the names of the memfds of windows; a number follows for each part of them that
/// fits a record.
pub(super) const WINDOWS: &str = "windows.";
/// Beginning of the names of bells, in parts as windows are.
pub(super) const BELLS: &str = "bells.";
/// Name of the file with the saved state.
pub(super) const SAVED_STATE: &str = "saved-state";
/// Beginning of the names of tenants; port and path follow.
pub(super) const TENANT: &str = "tenant.";
/// Beginning of the names of processes that still have a port's memory; port and process follow,
/// which is 0 if it has no number here.
pub(super) const LEAVING: &str = "leaving.";
/// Beginning of the names of templates; their numbers follow.
pub(super) const TEMPLATE: &str = "template.";

/// All that a keeper holds, by name.
pub(super) type KeptFds = BTreeMap<String, Vec<OwnedFd>>;

/// The descriptors of a tenant.
#[derive(Debug)]
pub(super) struct TenantFds<F> {
    /// The connection that stands for the tenancy.
    pub(super) connection: F,
    /// The pidfd of the tenant's process, if there is one.
    pub(super) process: Option<F>,
}

impl<'a> TenantFds<BorrowedFd<'a>> {
    pub(super) fn new(connection: &'a OwnedFd, process: Option<&'a OwnedFd>) -> Self {
        TenantFds {
            connection: connection.as_fd(),
            process: process.map(AsFd::as_fd),
        }
    }
}

impl<F> TenantFds<F> {
    /// The descriptors in the order in which a keeper holds them.
    pub(super) fn into_list(self) -> Vec<F> {
        [Some(self.connection), self.process]
            .into_iter()
            .flatten()
            .collect()
    }
}

/// An entry of a keeper that belongs to a port.
#[derive(Debug)]
pub(super) enum KeptPort {
    /// A tenant.
    Tenant {
        port: u32,
        path: CallPath,
        fds: TenantFds<OwnedFd>,
    },
    /// A process that still has the memory of a port which it has given up.
    Leaving {
        port: u32,
        pid: Option<Pid>,
        process: OwnedFd,
    },
}

impl KeptPort {
    /// The meaning of an entry, if it has one.
    pub(super) fn parse(name: &str, fds: Vec<OwnedFd>) -> Option<KeptPort> {
        let mut fds = fds.into_iter();
        if let Some(rest) = name.strip_prefix(TENANT) {
            let (port, path) = rest.split_once('.')?;
            return Some(KeptPort::Tenant {
                port: port.parse().ok()?,
                path: CallPath::from_name(path)?,
                fds: TenantFds {
                    connection: fds.next()?,
                    process: fds.next(),
                },
            });
        }
        let (port, pid) = name.strip_prefix(LEAVING)?.split_once('.')?;
        Some(KeptPort::Leaving {
            port: port.parse().ok()?,
            pid: Pid::from_raw(pid.parse().ok()?),
            process: fds.next()?,
        })
    }
}

/// Name of a tenant.
pub(super) fn tenant_name(port: PortId, path: CallPath) -> String {
    format!("{TENANT}{port}.{}", path.name())
}

/// Name of a process that still has the memory of a port.
pub(super) fn leaving_name(port: PortId, pid: Option<Pid>) -> String {
    format!("{LEAVING}{port}.{}", Pid::as_raw(pid))
}

/// Name of a template.
pub(super) fn template_name(number: u32) -> String {
    format!("{TEMPLATE}{number}")
}

/// The descriptors that are kept in parts under names with that beginning, in their order; they are
/// taken out of what is kept.
pub(super) fn take_parts(kept: &mut KeptFds, beginning: &str) -> Vec<OwnedFd> {
    (0..)
        .map_while(|number| kept.remove(&part_name(beginning, number)))
        .flatten()
        .collect()
}

/// Name of a part of descriptors that are more than fit a record.
pub(super) fn part_name(beginning: &str, number: usize) -> String {
    format!("{beginning}{number}")
}

/// The templates among all that is kept, by number; they are taken out of it.
pub(super) fn take_templates(kept: &mut KeptFds) -> BTreeMap<u32, OwnedFd> {
    let names: Vec<String> = kept.keys().cloned().collect();
    let mut templates = BTreeMap::new();
    for name in names {
        let number = name
            .strip_prefix(TEMPLATE)
            .and_then(|rest| rest.parse().ok());
        if let Some(number) = number {
            let fds = kept.remove(&name).unwrap_or_default();
            templates.extend(fds.into_iter().next().map(|fd| (number, fd)));
        }
    }
    templates
}
