//! The policies of the ports: as people give them, and as ports have them, with what captures need.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering::Relaxed;

use postern_abi::window::{MAX_SEGMENT, PortId};
use postern_nic_client::control::PolicyInfo;
use postern_nic_client::policy::acl::AclSpec;
use postern_nic_client::policy::port::{PortPolicy, Source};
use postern_nic_client::policy::vlan::VlanSpec;
use postern_switch::policy::acl::Verdict;
use postern_switch::state::{SOURCE_FIXED, SOURCE_OWN};
use postern_switch::tenant::mac_word;

use super::clock::Clock;
use super::error::RequestError;
use super::event::ServerEvent;
use super::ports::{Ports, Tenant};
use super::saved_state::SavedState;
use crate::installed_policies::acl_hits;

/// The policy that people gave a port.
pub(super) fn given(state: &SavedState, port: PortId) -> PortPolicy {
    let policy = state.policies.get(&port.number());
    policy.cloned().unwrap_or_default()
}

/// The port through which a port is captured.
pub(super) fn capture_of(state: &SavedState, number: u32) -> Option<u32> {
    let mut captures = state.captures.iter();
    let found = captures.find(|(via, capture)| {
        **via != number && capture.port.is_none_or(|captured| captured == number)
    });
    found.map(|(via, _)| *via)
}

/// The policy that a port is to have.
fn wanted(state: &SavedState, port: PortId) -> PortPolicy {
    if state.captures.contains_key(&port.number()) {
        // Nothing but copies.
        return PortPolicy {
            bridging: false,
            ..PortPolicy::default()
        };
    }
    let mut policy = given(state, port);
    policy.mirror = capture_of(state, port.number()).or(policy.mirror);
    policy
}

/// Whether the burst of every rate limit that ports have has room for a large segment. Where one has
/// not, limits refuse single frames of what comes from an uplink rather than whole segments.
pub(super) fn let_segments_pass(state: &SavedState) -> bool {
    let mut policies = state.applied.iter();
    policies.all(|(_, policy)| {
        let mut limits = [policy.ingress, policy.egress].into_iter().flatten();
        limits.all(|limit| limit.burst_bytes >= MAX_SEGMENT)
    })
}

/// The policies of all ports, with their access lists' counters.
pub(super) fn list(ports: &Ports) -> Vec<PolicyInfo> {
    let switch = ports.nic.switch();
    let info = |port: PortId| PolicyInfo {
        port: port.number(),
        policy: given(&ports.saver.state, port),
        acl_hits: acl_hits(&switch, port).unwrap_or_default(),
    };
    switch.geometry().all_ports().map(info).collect()
}

/// The policies of the ports, to be changed.
pub(super) struct PortPolicies<'a> {
    pub(super) ports: &'a mut Ports,
    pub(super) clock: &'a Clock,
}

impl PortPolicies<'_> {
    /// Gives a port another policy.
    pub(super) fn set(&mut self, number: u32, policy: PortPolicy) -> Result<(), RequestError> {
        let port = self.ports.nic.port(number)?;
        let state = &self.ports.saver.state;
        if state.captures.contains_key(&number) {
            return Err(RequestError::bad(format!(
                "port {number} belongs to a capture and has no policy of its own; \
                 end the capture first"
            )));
        }
        if let (Some(_), Some(via)) = (policy.mirror, capture_of(state, number)) {
            return Err(RequestError::bad(format!(
                "port {number} is captured through port {via}, and a port has one mirror; \
                 end the capture first"
            )));
        }
        let former = given(state, port);
        self.record(number, &policy);
        if let Err(error) = self.apply(port) {
            self.record(number, &former);
            self.ports.saver.save()?;
            return Err(error);
        }
        Ok(())
    }

    fn record(&mut self, number: u32, policy: &PortPolicy) {
        let policies = &mut self.ports.saver.state.policies;
        if *policy == PortPolicy::default() {
            policies.remove(&number);
        } else {
            policies.insert(number, policy.clone());
        }
    }

    /// Gives a port the policy that it is to have.
    fn apply(&mut self, port: PortId) -> Result<(), RequestError> {
        let (nic, saver) = (&self.ports.nic, &mut self.ports.saver);
        let wanted = wanted(&saver.state, port);
        if saver.state.applied.get(port) == wanted {
            return Ok(saver.save()?);
        }
        saver.state.changing = Some(port.number());
        saver.save()?;
        if wanted.ingress.is_some() || wanted.egress.is_some() {
            // The clock goes before the limit does.
            self.clock.set_fine(true);
        }
        let switch = nic.switch();
        let done = saver.state.applied.set(&switch, port, wanted.clone());
        saver.state.changing = None;
        let attached = !matches!(self.ports.tenant(port), Tenant::Vacant);
        if let (Source::Own, true, Some(state)) = (wanted.source, attached, switch.port(port)) {
            // Other stations that are there for good are not the tenant's own.
            let own = mac_word(self.ports.saver.state.mac(port).0);
            state.source.store(SOURCE_FIXED | SOURCE_OWN | own, Relaxed);
        }
        self.clock.set_fine(self.ports.nic.is_limited());
        self.ports.saver.save()?;
        done.map_err(|error| RequestError::bad(error.to_string()))
    }

    /// Gives all ports the policies that they are to have.
    pub(super) fn apply_all(&mut self) -> Result<(), RequestError> {
        for port in self.ports.nic.geometry().all_ports() {
            let state = &self.ports.saver.state;
            if state.applied.get(port) != wanted(state, port) {
                self.apply(port)?;
            }
        }
        Ok(())
    }

    /// Goes on with the policies of another owner; gives what went wrong, if anything did.
    pub(super) fn resume(&mut self) -> Option<ServerEvent> {
        self.clock.set_fine(self.ports.nic.is_limited());
        let changing = self.ports.saver.state.changing?;
        let port = self.ports.nic.port(changing).ok()?;
        // Nobody knows what it has: give it something else, and then what it is to have.
        let closed = PortPolicy {
            acl: AclSpec {
                rules: Vec::new(),
                default: Verdict::Deny,
            },
            vlan: Some(VlanSpec::Access { pvid: 4094 }),
            ..PortPolicy::default()
        };
        let switch = self.ports.nic.switch();
        let closing = self.ports.saver.state.applied.set(&switch, port, closed);
        let closing = closing.map_err(|error| RequestError::bad(error.to_string()));
        let resumed = closing.and_then(|()| self.apply(port));
        resumed.err().map(|error| ServerEvent::PolicyNotResumed {
            port: changing,
            reason: error.to_string(),
        })
    }
}
