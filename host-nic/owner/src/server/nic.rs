//! The NIC that is served: its memory and its templates, and what a tenant gets of them.
#![forbid(unsafe_code)]

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use postern_abi::platform::CallPath;
use postern_abi::window::{Geometry, PortId};
use postern_nic_client::bells::Bells;
use postern_nic_client::memory::Memory;
use postern_nic_client::protocol::{AccessFds, TenancyFds};
use postern_switch::credentials::Credentials;
use postern_switch::state::MODE_NO_LEARNING;
use postern_switch::switch::Switch;

use super::error::TenancyError;
use super::possession;
use super::sleepers::Sleepers;
use super::templates::{Templates, right_of};

/// The NIC that is served.
#[derive(Debug)]
pub(super) struct ServedNic {
    pub(super) memory: Arc<Memory>,
    pub(super) bells: Arc<Bells>,
    pub(super) sleepers: Arc<Sleepers>,
    pub(super) templates: Templates,
    /// The paths that are offered.
    paths: Vec<CallPath>,
}

impl ServedNic {
    pub(super) fn new(
        memory: Arc<Memory>,
        bells: Arc<Bells>,
        templates: Templates,
        paths: &[CallPath],
    ) -> ServedNic {
        ServedNic {
            memory,
            sleepers: Arc::new(Sleepers::new(Arc::clone(&bells))),
            bells,
            templates,
            paths: paths.to_vec(),
        }
    }

    pub(super) fn geometry(&self) -> Geometry {
        self.memory.geometry()
    }

    pub(super) fn switch(&self) -> Switch<'_> {
        self.memory.switch()
    }

    /// The offered paths that tenants do not get, and why.
    pub(super) fn missing_paths(&self) -> impl Iterator<Item = (CallPath, &str)> {
        self.paths.iter().filter_map(|path| {
            let right = right_of(*path)?;
            let reason = self.templates.why_not(right)?;
            Some((*path, reason))
        })
    }

    /// The port of that number.
    pub(super) fn port(&self, number: u32) -> Result<PortId, TenancyError> {
        let geometry = self.geometry();
        geometry.port(number).ok_or(TenancyError::NoSuchPort {
            port: number,
            last: geometry.ports() - 1,
        })
    }

    pub(super) fn offers(&self, path: CallPath) -> bool {
        self.paths.contains(&path)
    }

    /// Has the switch learn stations from frames of a port, or not.
    pub(super) fn set_learning(&self, port: PortId, on: bool) {
        let mode = &self.memory.switch().state().mode[port.index()];
        match on {
            true => mode.fetch_and(!MODE_NO_LEARNING, Relaxed),
            false => mode.fetch_or(MODE_NO_LEARNING, Relaxed),
        };
    }

    /// Whether any port's rate is limited now.
    pub(super) fn is_limited(&self) -> bool {
        let switch = self.memory.switch();
        let mut ports = switch.geometry().all_ports();
        ports.any(|port| {
            switch
                .port(port)
                .is_some_and(|port| !port.ingress.is_off() || !port.egress.is_off())
        })
    }

    /// The descriptors that a tenant on a path gets.
    pub(super) fn tenancy_fds(
        &self,
        tenant: &Credentials,
        path: CallPath,
    ) -> Result<TenancyFds<OwnedFd>, TenancyError> {
        let bells = self.bells.fds().map(duplicate);
        Ok(TenancyFds {
            access: self.access_fds(tenant, path)?,
            bells: bells.collect::<Result<_, _>>()?,
        })
    }

    fn access_fds(
        &self,
        tenant: &Credentials,
        path: CallPath,
    ) -> Result<AccessFds<OwnedFd>, TenancyError> {
        let port = tenant.port();
        let Some(right) = right_of(path) else {
            let windows = self.memory.window_fds().map(duplicate);
            return Ok(AccessFds::Memory {
                state: hand_out(self.memory.state_fd(), port)?,
                windows: windows.collect::<Result<_, _>>()?,
            });
        };
        let Some(grant) = self.templates.grant(tenant, right) else {
            let reason = self.templates.why_not(right);
            let reason = reason.unwrap_or("the NIC's template was made without it");
            let reason = reason.to_owned();
            return Err(TenancyError::NoViews { path, reason });
        };
        let grant = grant.map_err(|error| {
            TenancyError::Failed(format!("KVM made no grant for port {port}: {error}"))
        })?;
        let window = hand_out(self.window(port), port)?;
        let grant = grant.into();
        Ok(AccessFds::View { grant, window })
    }

    fn window(&self, port: PortId) -> BorrowedFd<'_> {
        let window = self.memory.window_fd(port);
        window.expect("a port of the NIC has a window")
    }

    /// Whether somebody may still have the memory that a tenant of a port was given.
    pub(super) fn is_possessed(&self, port: PortId) -> bool {
        let memory = [self.memory.state_fd(), self.window(port)];
        // What is not known is not over.
        let possessed = |memory| possession::is_possessed(memory, port).unwrap_or(true);
        memory.into_iter().any(possessed)
    }
}

fn hand_out(memory: BorrowedFd<'_>, port: PortId) -> Result<OwnedFd, TenancyError> {
    let failed = |error| format!("the NIC cannot open the memory of port {port} for it: {error}");
    possession::hand_out(memory, port).map_err(|error| TenancyError::Failed(failed(error)))
}

fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd, TenancyError> {
    let failed = |error| format!("the NIC cannot duplicate a descriptor: {error}");
    fd.try_clone_to_owned()
        .map_err(|error| TenancyError::Failed(failed(error)))
}
