//! The NIC that is served: its memory and its views, and what a tenant gets of them.
#![forbid(unsafe_code)]

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use postern_abi::platform::CallPath;
use postern_abi::window::{Geometry, PortId};
use postern_nic_client::memory::Memory;
use postern_nic_client::protocol::TenancyFds;
use postern_switch::credentials::Credentials;
use postern_switch::state::MODE_NO_LEARNING;
use postern_switch::switch::Switch;

use super::error::{TenancyError, explain};
use crate::view::{Mode, ViewMaker};

/// Views of the NIC, or the reason why there are none.
#[derive(Debug)]
pub(super) enum Views {
    Here(ViewMaker),
    Missing(String),
}

/// The NIC that is served.
#[derive(Debug)]
pub(super) struct ServedNic {
    pub(super) memory: Arc<Memory>,
    views: Views,
    /// The paths that are offered.
    paths: Vec<CallPath>,
}

impl ServedNic {
    pub(super) fn new(memory: Arc<Memory>, views: Views, paths: &[CallPath]) -> ServedNic {
        ServedNic {
            memory,
            views,
            paths: paths.to_vec(),
        }
    }

    pub(super) fn geometry(&self) -> Geometry {
        self.memory.geometry()
    }

    pub(super) fn switch(&self) -> Switch<'_> {
        self.memory.switch()
    }

    /// The reason why there are no views, if there are none.
    pub(super) fn without_views(&self) -> Option<&str> {
        match &self.views {
            Views::Here(_) => None,
            Views::Missing(reason) => Some(reason),
        }
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

    /// Has the switch learn nothing from frames of these ports.
    pub(super) fn do_not_learn(&self, ports: &[PortId]) {
        let state = self.memory.switch().state();
        for port in ports {
            state.mode[port.index()].fetch_or(MODE_NO_LEARNING, Relaxed);
        }
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
        match path {
            CallPath::Elisa => self.view(tenant, path, Mode::Fast),
            // Served from the data of a view that nobody enters.
            CallPath::ElisaStrict | CallPath::ExitKernel => self.view(tenant, path, Mode::Strict),
            CallPath::ExitUser | CallPath::Direct => {
                let windows = self.memory.window_fds().map(duplicate);
                Ok(TenancyFds::Memory {
                    state: duplicate(self.memory.state_fd())?,
                    windows: windows.collect::<Result<_, _>>()?,
                })
            }
        }
    }

    fn view(
        &self,
        tenant: &Credentials,
        path: CallPath,
        mode: Mode,
    ) -> Result<TenancyFds<OwnedFd>, TenancyError> {
        let maker = match &self.views {
            Views::Here(maker) => maker,
            Views::Missing(reason) => {
                let reason = reason.clone();
                return Err(TenancyError::NoViews { path, reason });
            }
        };
        let view = maker.make(&self.memory, tenant, mode);
        let view = view.map_err(|error| TenancyError::Failed(explain(&error)))?;
        let window = self.memory.window_fd(tenant.port());
        let window = window.expect("the tenant's port is one of the NIC's");
        let window = duplicate(window)?;
        Ok(TenancyFds::View { view, window })
    }
}

fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd, TenancyError> {
    let failed = |error| format!("the NIC cannot duplicate a descriptor: {error}");
    fd.try_clone_to_owned()
        .map_err(|error| TenancyError::Failed(failed(error)))
}

/// The MAC address that the NIC suggests for a port: locally administered, by number.
pub(super) fn suggested_mac(port: PortId) -> [u8; 6] {
    [0x02, b'P', b'S', b'T', 0, port.index() as u8]
}
