//! Policies as people give them, and as ports have them: with what captures need.

use std::sync::atomic::Ordering::Relaxed;

use postern_abi::window::PortId;

use super::admin::Denial;
use super::ports::Tenant;
use super::{Server, suggested_mac};
use postern_nic_client::policy::acl::AclSpec;
use postern_nic_client::policy::port::{PortPolicy, Source};
use postern_nic_client::policy::vlan::VlanSpec;
use postern_switch::policy::acl::Verdict;
use postern_switch::state::{SOURCE_FIXED, SOURCE_OWN};
use postern_switch::tenant::mac_word;

impl Server {
    /// The policy that people gave a port.
    pub(super) fn policy(&self, port: PortId) -> PortPolicy {
        let policies = &self.ports.books.notes.policies;
        policies.get(&port.number()).cloned().unwrap_or_default()
    }

    /// Gives a port another policy.
    pub(super) fn set_policy(&mut self, number: u32, policy: PortPolicy) -> Result<(), Denial> {
        let port = self.ports.port(number)?;
        if self.captures.contains_key(&number) {
            return Err(Denial::bad(format!(
                "port {number} belongs to a capture and has no policy of its own; end the capture first"
            )));
        }
        if let (Some(_), Some(via)) = (policy.mirror, self.capture_of(number)) {
            return Err(Denial::bad(format!(
                "port {number} is captured through port {via}, and a port has one mirror; end the capture first"
            )));
        }
        let former = self.policy(port);
        self.note_policy(number, &policy);
        if let Err(denial) = self.apply(port) {
            self.note_policy(number, &former);
            self.save()?;
            return Err(denial);
        }
        Ok(())
    }

    fn note_policy(&mut self, number: u32, policy: &PortPolicy) {
        let policies = &mut self.ports.books.notes.policies;
        if *policy == PortPolicy::default() {
            policies.remove(&number);
        } else {
            policies.insert(number, policy.clone());
        }
    }

    pub(super) fn save(&mut self) -> Result<(), Denial> {
        Ok(self.ports.books.save()?)
    }

    /// The port through which a port is captured.
    pub(super) fn capture_of(&self, number: u32) -> Option<u32> {
        let captures = &self.ports.books.notes.captures;
        let mut captures = captures.iter();
        let found = captures.find(|(via, note)| {
            **via != number && note.port.is_none_or(|captured| captured == number)
        });
        found.map(|(via, _)| *via)
    }

    /// What a port is to have.
    fn effective(&self, port: PortId) -> PortPolicy {
        if self.ports.books.notes.captures.contains_key(&port.number()) {
            // Nothing but copies.
            return PortPolicy {
                bridging: false,
                ..PortPolicy::default()
            };
        }
        let mut policy = self.policy(port);
        policy.mirror = self.capture_of(port.number()).or(policy.mirror);
        policy
    }

    /// Gives a port what it is to have.
    fn apply(&mut self, port: PortId) -> Result<(), Denial> {
        let wanted = self.effective(port);
        let notes = &mut self.ports.books.notes;
        if notes.applied.get(port) == wanted {
            return self.save();
        }
        notes.changing = Some(port.number());
        self.save()?;
        if wanted.ingress.is_some() || wanted.egress.is_some() {
            // The clock goes before the limit does.
            self.clock.set_fine(true);
        }
        let switch = self.ports.memory.switch();
        let notes = &mut self.ports.books.notes;
        let done = notes.applied.set(&switch, port, wanted.clone());
        notes.changing = None;
        let attached = !matches!(self.ports.tenant(port), Tenant::Vacant);
        if let (Source::Own, true, Some(state)) = (wanted.source, attached, switch.port(port)) {
            // Other stations that are there for good are not the tenant's own.
            let own = mac_word(suggested_mac(port));
            state.source.store(SOURCE_FIXED | SOURCE_OWN | own, Relaxed);
        }
        self.clock.set_fine(self.is_limited());
        self.save()?;
        done.map_err(|error| Denial::bad(error.to_string()))
    }

    /// Gives all ports what they are to have.
    pub(super) fn apply_all(&mut self) -> Result<(), Denial> {
        for port in self.ports.memory.geometry().all_ports() {
            if self.ports.books.notes.applied.get(port) != self.effective(port) {
                self.apply(port)?;
            }
        }
        Ok(())
    }

    /// Goes on with the policies of another owner.
    pub(super) fn resume_policies(&mut self) {
        self.clock.set_fine(self.is_limited());
        let changing = self.ports.books.notes.changing;
        let Some(port) = changing.and_then(|number| self.ports.port(number).ok()) else {
            return;
        };
        // Nobody knows what it has: give it something else, and then what it is to have.
        let closed = PortPolicy {
            acl: AclSpec {
                rules: Vec::new(),
                default: Verdict::Deny,
            },
            vlan: Some(VlanSpec::Access { pvid: 4094 }),
            ..PortPolicy::default()
        };
        let switch = self.ports.memory.switch();
        let closing = self.ports.books.notes.applied.set(&switch, port, closed);
        let closing = closing.map_err(|error| Denial::bad(error.to_string()));
        if let Err(denial) = closing.and_then(|()| self.apply(port)) {
            let text = format!("the policy of port {port} cannot be resumed: {denial}");
            self.warnings.push(text);
        }
    }
}
