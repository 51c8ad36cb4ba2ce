//! Uplinks: ports that the owner has joined to interfaces of the host.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::Arc;

use postern_abi::window::PortId;
use postern_guest::direct::DirectError;
use postern_nic_client::control::UplinkInfo;
use postern_nic_client::memory::Memory;

use super::error::{RequestError, explain};
use super::event::ServerEvent;
use super::ports::Ports;
use crate::host_port::HostPort;
use crate::uplink::{PumpThread, PumpWait, Uplink, UplinkConfig, UplinkError, UplinkSnapshot};

/// An uplink that cannot be begun.
#[derive(Debug, thiserror::Error)]
enum UplinkPortError {
    #[error(transparent)]
    Uplink(#[from] UplinkError),
    #[error("the port cannot be used: {0}")]
    Port(#[from] DirectError),
}

impl From<UplinkPortError> for RequestError {
    fn from(error: UplinkPortError) -> RequestError {
        RequestError::failed(explain(&error))
    }
}

/// A port joined to an interface.
#[derive(Debug)]
struct UplinkPort {
    interface: String,
    /// The thread that moves frames; `None` when it has ended.
    pump: Option<PumpThread>,
    /// The failure that ended the pump.
    failure: Option<String>,
    /// The counters when it ended.
    counters: UplinkSnapshot,
}

impl UplinkPort {
    /// Joins the port of the present tenancy to an open interface.
    fn start(
        memory: &Arc<Memory>,
        port: PortId,
        interface: &str,
        device: Uplink,
        busy: bool,
    ) -> Result<UplinkPort, UplinkPortError> {
        let port = HostPort::open(Arc::clone(memory), port)?;
        let wait = if busy {
            PumpWait::Busy
        } else {
            PumpWait::default()
        };
        Ok(UplinkPort {
            interface: interface.to_owned(),
            pump: Some(PumpThread::start(device, port, wait)?),
            failure: None,
            counters: UplinkSnapshot::default(),
        })
    }

    /// Notices when the pump has ended; gives the reason if it just did.
    fn check(&mut self) -> Option<&str> {
        let pump = self.pump.take_if(|pump| pump.has_ended())?;
        self.counters = pump.counters().snapshot();
        let failure = match pump.stop() {
            Ok(()) => "it was stopped".to_owned(),
            Err(error) => explain(&error),
        };
        Some(self.failure.insert(failure))
    }

    fn info(&self, port: u32) -> UplinkInfo {
        let pump = self.pump.as_ref();
        let counters = pump.map_or(self.counters, |pump| pump.counters().snapshot());
        UplinkInfo {
            port,
            interface: self.interface.clone(),
            failure: self.failure.clone(),
            counters: serde_json::to_value(counters).unwrap_or_default(),
        }
    }
}

/// The uplinks of the NIC, by port.
#[derive(Debug, Default)]
pub(super) struct Uplinks {
    uplinks: BTreeMap<u32, UplinkPort>,
}

impl Uplinks {
    pub(super) fn is_empty(&self) -> bool {
        self.uplinks.is_empty()
    }

    /// The interface of the uplink of a port, if it is one.
    pub(super) fn interface(&self, port: u32) -> Option<&str> {
        let uplink = self.uplinks.get(&port)?;
        Some(&uplink.interface)
    }

    pub(super) fn list(&self) -> Vec<UplinkInfo> {
        let uplinks = self.uplinks.iter();
        uplinks.map(|(port, uplink)| uplink.info(*port)).collect()
    }

    /// Joins a port to an interface.
    pub(super) fn add(
        &mut self,
        ports: &mut Ports,
        number: u32,
        interface: &str,
        busy: bool,
    ) -> Result<(), RequestError> {
        let port = ports.vacant(number)?;
        let device = interface
            .parse()
            .and_then(|config: UplinkConfig| Uplink::open(&config));
        let device = device.map_err(UplinkPortError::from)?;
        let saved = &mut ports.saver.state.uplinks;
        saved.insert(number, (interface.to_owned(), busy));
        let taken = ports.take(port).map_err(RequestError::from);
        let started = taken.and_then(|()| {
            let memory = &ports.nic.memory;
            Ok(UplinkPort::start(memory, port, interface, device, busy)?)
        });
        match started {
            Ok(uplink) => {
                self.uplinks.insert(number, uplink);
                Ok(())
            }
            Err(error) => {
                ports.saver.state.uplinks.remove(&number);
                ports.vacate(port);
                ports.saver.save()?;
                Err(error)
            }
        }
    }

    /// Parts a port from its interface.
    pub(super) fn remove(&mut self, ports: &mut Ports, number: u32) -> Result<(), RequestError> {
        let port = ports.nic.port(number)?;
        let Some(uplink) = self.uplinks.remove(&number) else {
            return Err(RequestError::bad(format!("port {number} is no uplink")));
        };
        drop(uplink);
        ports.saver.state.uplinks.remove(&number);
        ports.vacate(port);
        Ok(ports.saver.save()?)
    }

    /// Says whether large segments may come into the NIC in one piece.
    pub(super) fn allow_segments(&self, allowed: bool) {
        for pump in self
            .uplinks
            .values()
            .filter_map(|uplink| uplink.pump.as_ref())
        {
            pump.allow_segments(allowed);
        }
    }

    /// Notices uplinks that have come to an end. Nothing goes to their ports any more; they stay in
    /// the list until somebody removes them.
    pub(super) fn check(&mut self, ports: &Ports) -> Vec<ServerEvent> {
        let mut events = Vec::new();
        for (number, uplink) in &mut self.uplinks {
            if let Some(reason) = uplink.check()
                && let Ok(port) = ports.nic.port(*number)
            {
                events.push(ServerEvent::UplinkEnded {
                    port: *number,
                    reason: reason.to_owned(),
                });
                ports.nic.switch().evict(port);
            }
        }
        events
    }

    /// Begins uplinks again that ended with another owner; gives those for which that failed.
    pub(super) fn resume(&mut self, ports: &mut Ports) -> Vec<ServerEvent> {
        let mut events = Vec::new();
        for (port, (interface, busy)) in std::mem::take(&mut ports.saver.state.uplinks) {
            if let Err(error) = self.add(ports, port, &interface, busy) {
                events.push(ServerEvent::UplinkNotResumed {
                    port,
                    reason: error.to_string(),
                });
            }
        }
        events
    }
}
