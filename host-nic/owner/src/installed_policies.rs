//! Giving ports their policies: the host's side.
//!
//! A policy counts for all frames of calls that begin after [`Policies::set`] has returned. A call
//! that is under way meanwhile may still go by the old one, and ends after a bounded number of
//! frames.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::{AcqRel, Relaxed, Release};

use postern_abi::window::PortId;
use serde::{Deserialize, Serialize};

use postern_nic_client::policy::port::{PortPolicy, Source};
use postern_nic_client::policy::rate::{RateError, RateLimit};
use postern_nic_client::policy::rule::RuleError;
use postern_nic_client::policy::vlan::{VlanError, VlanSpec};
use postern_switch::fdb::STATIC;
use postern_switch::policy::vlan::DEFAULT_PVID;
use postern_switch::state::{
    MODE_POLICY, MODE_RESERVED_SHIFT, PortState, SOURCE_FIXED, SOURCE_OWN,
};
use postern_switch::switch::Switch;
use postern_switch::tenant::mac_word;

/// A policy that is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// The NIC does not have the port that the policy is for, or names.
    #[error("the {what} is port {port}, but the NIC has ports 0 to {last}")]
    Port {
        /// The role of the port.
        what: &'static str,
        /// The port's number.
        port: u32,
        /// The highest number that there is.
        last: u32,
    },
    /// A port that is to mirror itself.
    #[error("port {0} cannot be its own mirror: name another one")]
    OwnMirror(u32),
    /// Wrong VLANs.
    #[error("the VLANs of port {port} are refused: {reason}")]
    Vlan {
        /// The port.
        port: u32,
        /// The fault.
        reason: VlanError,
    },
    /// A wrong rate limit.
    #[error("the {direction} limit of port {port} is refused: {reason}")]
    Rate {
        /// The port.
        port: u32,
        /// `ingress` or `egress`.
        direction: &'static str,
        /// The fault.
        reason: RateError,
    },
    /// A wrong access list.
    #[error("the access list of port {port} is refused: {reason}")]
    Acl {
        /// The port.
        port: u32,
        /// The fault.
        reason: RuleError,
    },
}

/// The policies of all ports of a NIC, as its owner keeps them. The NIC's memory has what follows
/// from them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Policies(BTreeMap<u32, PortPolicy>);

impl Policies {
    /// The policy of a port.
    pub fn get(&self, port: PortId) -> PortPolicy {
        self.0.get(&port.number()).cloned().unwrap_or_default()
    }

    /// The policies that are not the default, by number of the port.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &PortPolicy)> {
        self.0.iter().map(|(port, policy)| (*port, policy))
    }

    /// Gives a port another policy, and each port what follows from it. Access lists and VLANs that
    /// stay the same are left alone, with their counters. Only one thread may do this at a time;
    /// calls go on.
    ///
    /// # Errors
    ///
    /// A [`PolicyError`] that says what is wrong with it; nothing has changed then.
    pub fn set(
        &mut self,
        switch: &Switch<'_>,
        port: PortId,
        policy: PortPolicy,
    ) -> Result<(), PolicyError> {
        check(switch, port, &policy)?;
        let old = self.get(port);
        let Some(state) = switch.port(port) else {
            return Ok(());
        };
        apply(switch, port, state, &old, &policy)?;
        if policy == PortPolicy::default() {
            self.0.remove(&port.number());
        } else {
            self.0.insert(port.number(), policy);
        }
        self.connect(switch, port);
        Ok(())
    }

    /// Gives ports of a NIC that has none of these policies all of them, such as those of a file.
    ///
    /// # Errors
    ///
    /// The first [`PolicyError`]; the NIC has the policies of the ports before it then.
    pub fn apply_all(&self, switch: &Switch<'_>) -> Result<(), PolicyError> {
        let mut done = Policies::default();
        for (number, policy) in self.iter() {
            let port = existing(switch, "port of the policy", number)?;
            done.set(switch, port, policy.clone())?;
        }
        Ok(())
    }

    /// What depends on several ports, after one has changed: who reaches whom, whether there are
    /// VLANs, who has to mind anything.
    fn connect(&self, switch: &Switch<'_>, changed: PortId) {
        let geometry = switch.geometry();
        let default = PortPolicy::default();
        let of = |port: PortId| self.0.get(&port.number()).unwrap_or(&default);
        let vlans = self.0.values().any(|policy| policy.vlan.is_some());
        let had_vlans = switch.state().vlans.swap(vlans.into(), AcqRel) != 0;
        let minding: Vec<u32> = self
            .iter()
            .filter(|(_, policy)| policy.affects_egress())
            .map(|(port, _)| port)
            .collect();
        for port in geometry.all_ports() {
            let mut blocked = [0u64; 4];
            let others = || geometry.all_ports().filter(|other| *other != port);
            for other in others().filter(|other| !of(port).reaches(of(*other), other.number())) {
                blocked[other.index() >> 6] |= 1 << (other.number() & 63);
            }
            if let Some(state) = switch.port(port) {
                for (field, word) in state.blocked.iter().zip(blocked) {
                    field.store(word, Relaxed);
                }
            }
            let minds = vlans
                || blocked != [0; 4]
                || of(port).affects_ingress()
                || minding.iter().any(|other| *other != port.number());
            let mode = &switch.state().mode[port.index()];
            mode.fetch_and(!(0xffff << MODE_RESERVED_SHIFT), Release);
            for address in &of(port).reserved {
                mode.fetch_or(1 << MODE_RESERVED_SHIFT << address.number(), Release);
            }
            if minds {
                mode.fetch_or(MODE_POLICY, Release);
            } else {
                mode.fetch_and(!MODE_POLICY, Release);
            }
        }
        forget_stations(switch, changed, had_vlans, vlans);
        // Last: routes that were found without a policy are void from here on.
        switch.state().generation.fetch_add(1, AcqRel);
    }
}

/// Forgets stations that were learned where they are not looked for any more: with VLANs and
/// without, in the VLANs that a port was a member of, and in those where its own are there for good.
fn forget_stations(switch: &Switch<'_>, changed: PortId, had_vlans: bool, vlans: bool) {
    let fdb = &switch.state().fdb;
    if had_vlans != vlans {
        fdb.flush(None);
    } else if let (true, Some(state)) = (vlans, switch.port(changed)) {
        fdb.flush_if(switch.key(), |station, port| {
            port == changed.number() && !state.vlan.is_member(station.vlan() as u16)
        });
        switch.forget_shadowed();
    }
}

/// How many frames each rule of a port's access list decided on, in the order of the rules; nothing
/// if the NIC has no such port. A frame that waits for room counts when it is sent.
pub fn acl_hits(switch: &Switch<'_>, port: PortId) -> Option<Vec<u64>> {
    switch.port(port).map(|state| state.acl.hits().collect())
}

fn existing(switch: &Switch<'_>, what: &'static str, port: u32) -> Result<PortId, PolicyError> {
    let last = switch.geometry().ports() - 1;
    let wrong = PolicyError::Port { what, port, last };
    switch.geometry().port(port).ok_or(wrong)
}

/// All that can be wrong but the access list, which is checked where it is replaced.
fn check(switch: &Switch<'_>, port: PortId, policy: &PortPolicy) -> Result<(), PolicyError> {
    let number = port.number();
    existing(switch, "port of the policy", number)?;
    if let Some(mirror) = policy.mirror {
        existing(switch, "mirror", mirror)?;
        if mirror == number {
            return Err(PolicyError::OwnMirror(number));
        }
    }
    for blocked in &policy.blocked {
        existing(switch, "blocked port", *blocked)?;
    }
    if let Some(vlan) = &policy.vlan {
        let wrong = |reason| PolicyError::Vlan {
            port: number,
            reason,
        };
        vlan.check().map_err(wrong)?;
    }
    for (direction, limit) in [("ingress", policy.ingress), ("egress", policy.egress)] {
        if let Some(limit) = limit {
            let wrong = |reason| PolicyError::Rate {
                port: number,
                direction,
                reason,
            };
            limit.check().map_err(wrong)?;
        }
    }
    Ok(())
}

/// What a port keeps itself. Nothing but the access list is refused, since `check` was there
/// before.
fn apply(
    switch: &Switch<'_>,
    port: PortId,
    state: &PortState,
    old: &PortPolicy,
    new: &PortPolicy,
) -> Result<(), PolicyError> {
    let number = port.number();
    if new.acl != old.acl {
        let replaced = new.acl.install(&state.acl);
        replaced.map_err(|reason| PolicyError::Acl {
            port: number,
            reason,
        })?;
    }
    if new.vlan != old.vlan {
        let vlan = new.vlan.clone();
        let vlan = vlan.unwrap_or(VlanSpec::Access { pvid: DEFAULT_PVID });
        let set = vlan.install(&state.vlan);
        set.map_err(|reason| PolicyError::Vlan {
            port: number,
            reason,
        })?;
    }
    let limits = [
        ("ingress", &state.ingress, new.ingress),
        ("egress", &state.egress, new.egress),
    ];
    for (direction, bucket, limit) in limits {
        let set = RateLimit::install(limit, bucket);
        set.map_err(|reason| PolicyError::Rate {
            port: number,
            direction,
            reason,
        })?;
    }
    let source = match new.source {
        Source::Any => 0,
        Source::Own => SOURCE_FIXED | SOURCE_OWN | own_address(switch, port),
        Source::Address(mac) => SOURCE_FIXED | mac_word(mac.0),
    };
    state.source.store(source, Relaxed);
    let mirror = new.mirror.map_or(0, |mirror| mirror + 1);
    state.mirror.store(mirror, Relaxed);
    Ok(())
}

/// The address that a port's tenant was given, 0 without one. From the table, not from the window,
/// which the guest can write.
fn own_address(switch: &Switch<'_>, port: PortId) -> u64 {
    let mut entries = switch.state().fdb.entries(switch.key());
    let own = entries.find(|entry| {
        entry.port == port.number() && entry.stamp == STATIC && entry.station.vlan() == 0
    });
    own.map_or(0, |entry| entry.station.mac())
}
