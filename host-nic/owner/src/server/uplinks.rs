//! Uplinks: ports that the owner has joined to interfaces of the host.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use postern_abi::window::PortId;
use postern_guest::direct::DirectError;
use postern_nic_client::control::UplinkInfo;
use postern_tap::Interface;

use super::error::{RequestError, TenancyError, explain};
use super::event::ServerEvent;
use super::policies;
use super::ports::Ports;
use crate::host_port::HostPort;
use crate::uplink::{
    LinkState, PumpThread, PumpWait, Uplink, UplinkConfig, UplinkCounters, UplinkError,
};

/// An uplink that cannot be begun.
#[derive(Debug, thiserror::Error)]
enum UplinkPortError {
    #[error(transparent)]
    Uplink(#[from] UplinkError),
    #[error("the port cannot be used: {0}")]
    Port(#[from] DirectError),
    #[error(transparent)]
    Tenancy(#[from] TenancyError),
}

impl From<UplinkPortError> for RequestError {
    fn from(error: UplinkPortError) -> RequestError {
        match error {
            UplinkPortError::Tenancy(error) => error.into(),
            error => RequestError::failed(explain(&error)),
        }
    }
}

/// Time after which an interface is tried again that is there and cannot be opened, at first; twice
/// as long each time.
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// The longest such time.
const LAST_RETRY: Duration = Duration::from_secs(30);

/// A port joined to an interface.
#[derive(Debug)]
struct UplinkPort {
    /// The interface as people gave it.
    text: String,
    config: UplinkConfig,
    busy: bool,
    state: UplinkState,
    /// What people should know of the interface.
    notice: Option<String>,
    counters: Arc<UplinkCounters>,
}

#[derive(Debug)]
enum UplinkState {
    /// Frames pass, if the link lets them.
    Joined {
        /// The thread that moves frames.
        pump: PumpThread,
        /// The state of the link that was told last.
        told: LinkState,
    },
    /// The interface cannot be used now.
    Waiting(Wait),
}

/// The wait for an interface.
#[derive(Debug)]
struct Wait {
    /// Why it cannot be used.
    reason: String,
    /// Whether a TAP that is not there may be made: not one that somebody has removed.
    may_make: bool,
    /// When it is tried again, at the earliest, and how long after that.
    next: Instant,
    pause: Duration,
}

impl Wait {
    fn new(reason: String, may_make: bool) -> Wait {
        Wait {
            reason,
            may_make,
            next: Instant::now(),
            pause: FIRST_RETRY,
        }
    }

    /// Takes note of a failure.
    fn go_on(&mut self, error: UplinkPortError) {
        let error = match error {
            // It was there once.
            UplinkPortError::Uplink(UplinkError::Absent { interface }) => {
                UplinkError::Gone { interface }.into()
            }
            error => error,
        };
        self.reason = explain(&error);
        // Whether an interface is there and up is seen at once.
        if let UplinkPortError::Uplink(error) = &error
            && error.is_absence()
        {
            self.pause = FIRST_RETRY;
        } else {
            self.next = Instant::now() + self.pause;
            self.pause = (2 * self.pause).min(LAST_RETRY);
        }
    }
}

impl UplinkPort {
    /// A port whose interface is not open yet.
    fn new(text: &str, busy: bool) -> Result<UplinkPort, UplinkError> {
        Ok(UplinkPort {
            config: text.parse()?,
            text: text.to_owned(),
            busy,
            state: UplinkState::Waiting(Wait::new(String::new(), true)),
            notice: None,
            counters: Arc::default(),
        })
    }

    /// Joins the port of the present tenancy to its open interface.
    fn start(
        &mut self,
        ports: &Ports,
        port: PortId,
        device: Uplink,
    ) -> Result<(), UplinkPortError> {
        let (memory, bells) = (&ports.nic.memory, &ports.nic.bells);
        let port = HostPort::with_bells(Arc::clone(memory), port, Arc::clone(bells))?;
        let wait = if self.busy {
            PumpWait::Busy
        } else {
            PumpWait::default()
        };
        let pump = PumpThread::resume(device, port, wait, Arc::clone(&self.counters))?;
        pump.allow_segments(policies::let_segments_pass(&ports.saver.state));
        let told = LinkState::Up;
        self.state = UplinkState::Joined { pump, told };
        self.notice = match &self.config {
            // Its program is the uplink's own.
            UplinkConfig::Xdp { .. } => None,
            config => Interface::new(config.interface())
                .ok()
                .and_then(|interface| interface.xdp_notice()),
        };
        Ok(())
    }

    /// Notices what has become of the interface, and tries one again that could not be used.
    fn check(&mut self, ports: &mut Ports, number: u32) -> Option<ServerEvent> {
        let port = ports.nic.port(number).ok()?;
        match &mut self.state {
            UplinkState::Joined { pump, told } if !pump.has_ended() => {
                let now = pump.link_state();
                let before = std::mem::replace(told, now);
                (before != now).then(|| match now.obstacle(self.config.interface()) {
                    Some(obstacle) => ServerEvent::UplinkWaits {
                        port: number,
                        reason: explain(&obstacle),
                    },
                    None => ServerEvent::UplinkWorks { port: number },
                })
            }
            UplinkState::Joined { pump, .. } => {
                let mut wait = Wait::new("it was stopped".to_owned(), true);
                // Nothing goes to the port until then.
                ports.evict(port);
                if let Err(error) = pump.end() {
                    wait.may_make = !matches!(error, UplinkError::Gone { .. });
                    wait.go_on(error.into());
                }
                let reason = wait.reason.clone();
                self.state = UplinkState::Waiting(wait);
                Some(ServerEvent::UplinkWaits {
                    port: number,
                    reason,
                })
            }
            UplinkState::Waiting(wait) if Instant::now() < wait.next => None,
            UplinkState::Waiting(wait) => {
                let device = match wait.may_make {
                    true => Uplink::open(&self.config),
                    false => Uplink::open_existing(&self.config),
                };
                let joined = device
                    .map_err(UplinkPortError::from)
                    .and_then(|device| self.rejoin(ports, port, device));
                match joined {
                    Ok(()) => Some(ServerEvent::UplinkWorks { port: number }),
                    Err(error) => {
                        if let UplinkState::Waiting(wait) = &mut self.state {
                            wait.go_on(error);
                        }
                        None
                    }
                }
            }
        }
    }

    /// Joins the port, in a new tenancy, to an interface that was opened again.
    fn rejoin(
        &mut self,
        ports: &mut Ports,
        port: PortId,
        device: Uplink,
    ) -> Result<(), UplinkPortError> {
        ports.take(port)?;
        self.start(ports, port, device)
            .inspect_err(|_| ports.evict(port))
    }

    /// Why no frames pass, if none do.
    fn failure(&self) -> Option<String> {
        match &self.state {
            UplinkState::Waiting(wait) => Some(wait.reason.clone()),
            UplinkState::Joined { pump, .. } => {
                let obstacle = pump.link_state().obstacle(self.config.interface());
                obstacle.map(|obstacle| explain(&obstacle))
            }
        }
    }

    fn info(&self, port: u32) -> UplinkInfo {
        UplinkInfo {
            port,
            interface: self.text.clone(),
            failure: self.failure(),
            notice: self.notice.clone(),
            counters: serde_json::to_value(self.counters.snapshot()).unwrap_or_default(),
        }
    }
}

/// The uplinks of the NIC, by port.
#[derive(Debug, Default)]
pub(super) struct Uplinks {
    uplinks: BTreeMap<u32, UplinkPort>,
    /// Notices that nobody has heard of.
    notices: Vec<ServerEvent>,
}

impl Uplinks {
    pub(super) fn is_empty(&self) -> bool {
        self.uplinks.is_empty()
    }

    /// The interface of the uplink of a port, if it is one.
    pub(super) fn interface(&self, port: u32) -> Option<&str> {
        let uplink = self.uplinks.get(&port)?;
        Some(&uplink.text)
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
        let mut uplink = UplinkPort::new(interface, busy).map_err(UplinkPortError::from)?;
        let device = Uplink::open(&uplink.config).map_err(UplinkPortError::from)?;
        let saved = &mut ports.saver.state.uplinks;
        saved.insert(number, (interface.to_owned(), busy));
        let taken = ports.take(port).map_err(UplinkPortError::from);
        match taken.and_then(|()| uplink.start(ports, port, device)) {
            Ok(()) => {
                let notice = uplink.notice.clone();
                self.notices
                    .extend(notice.map(|text| ServerEvent::UplinkNotice { port: number, text }));
                self.uplinks.insert(number, uplink);
                Ok(())
            }
            Err(error) => {
                ports.saver.state.uplinks.remove(&number);
                ports.vacate(port);
                ports.saver.save()?;
                Err(error.into())
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
        for uplink in self.uplinks.values() {
            if let UplinkState::Joined { pump, .. } = &uplink.state {
                pump.allow_segments(allowed);
            }
        }
    }

    /// Notices uplinks whose interfaces come or go.
    pub(super) fn check(&mut self, ports: &mut Ports) -> Vec<ServerEvent> {
        let mut events = std::mem::take(&mut self.notices);
        for (number, uplink) in &mut self.uplinks {
            events.extend(uplink.check(ports, *number));
        }
        events
    }

    /// Begins uplinks again that ended with another owner; those whose interfaces cannot be used now
    /// wait for them. Gives what has not succeeded.
    pub(super) fn resume(&mut self, ports: &mut Ports) -> Vec<ServerEvent> {
        let mut events = Vec::new();
        for (number, (interface, busy)) in std::mem::take(&mut ports.saver.state.uplinks) {
            let Err(error) = self.add(ports, number, &interface, busy) else {
                continue;
            };
            let reason = error.to_string();
            events.push(
                match self.wait_for(ports, number, &interface, busy, &reason) {
                    Ok(()) => ServerEvent::UplinkWaits {
                        port: number,
                        reason,
                    },
                    Err(_) => ServerEvent::UplinkNotResumed {
                        port: number,
                        reason,
                    },
                },
            );
        }
        events
    }

    /// Takes the port for an interface that cannot be used now.
    fn wait_for(
        &mut self,
        ports: &mut Ports,
        number: u32,
        interface: &str,
        busy: bool,
        reason: &str,
    ) -> Result<(), RequestError> {
        let port = ports.vacant(number)?;
        let mut uplink = UplinkPort::new(interface, busy).map_err(UplinkPortError::from)?;
        uplink.state = UplinkState::Waiting(Wait::new(reason.to_owned(), true));
        let saved = &mut ports.saver.state.uplinks;
        saved.insert(number, (interface.to_owned(), busy));
        ports.take(port)?;
        ports.evict(port);
        self.uplinks.insert(number, uplink);
        Ok(())
    }
}
