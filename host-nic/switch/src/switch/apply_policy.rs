//! The policies of ports, applied to a frame of the slow path.
#![forbid(unsafe_code)]
use crate::sync::Ordering::Relaxed;

use postern_abi::window::PortId;

use super::call::Call;
use super::egress::Tagging;
use crate::fdb::MAC_MASK;
use crate::policy::acl::{Direction, Verdict};
use crate::policy::headers::Headers;
use crate::state::{Cause, PortState, SOURCE_FIXED};

impl Call<'_> {
    /// Applies the policy of the sender's port: source address, VLAN, access list, rate (unless an
    /// earlier call has counted the frame). Sorts the frame, of `length` bytes, into its VLAN.
    ///
    /// # Errors
    ///
    /// [`Cause`]: the port may not send the frame.
    pub fn ingress_policy(
        &self,
        sender: &PortState,
        headers: &mut Headers,
        length: u32,
        counted: bool,
    ) -> Result<(), Cause> {
        let source = sender.source.load(Relaxed);
        if source & SOURCE_FIXED != 0 && headers.source != source & MAC_MASK {
            return Err(Cause::Spoofed);
        }
        if self.state().vlans.load(Relaxed) != 0 {
            match sender.vlan.ingress(headers.vlan_tag()) {
                Some(vid) => headers.vlan = vid,
                None => return Err(Cause::Spoofed),
            }
        }
        if sender.acl.verdict(headers, Direction::Ingress) == Verdict::Deny {
            return Err(Cause::Policy);
        }
        let now = self.state().clock.now.load(Relaxed);
        if !counted && !sender.ingress.take(now, length) {
            return Err(Cause::Rate);
        }
        Ok(())
    }

    /// What happens to the frame's tag where it leaves through a port, or nothing if port isolation
    /// or VLANs keep the frame from that port.
    pub fn tagging(
        &self,
        sender: &PortState,
        receiver: &PortState,
        to: PortId,
        headers: &Headers,
    ) -> Option<Tagging> {
        let blocked = &sender.blocked[to.index() >> 6];
        if blocked.load(Relaxed) >> (to.number() & 63) & 1 != 0 {
            return None;
        }
        match self.state().vlans.load(Relaxed) {
            0 => Some(Tagging::Keep),
            _ => {
                let egress = receiver.vlan.egress(headers.vlan);
                Tagging::of(headers.vlan_tag(), headers.vlan, egress)
            }
        }
    }

    /// Applies the policy of the receiver's port to a frame that may reach it: access list, rate.
    ///
    /// # Errors
    ///
    /// [`Cause`]: the port may not receive the frame.
    pub fn egress_policy(
        &self,
        receiver: &PortState,
        headers: &Headers,
        length: u32,
    ) -> Result<(), Cause> {
        if receiver.acl.verdict(headers, Direction::Egress) == Verdict::Deny {
            return Err(Cause::Policy);
        }
        let now = self.state().clock.now.load(Relaxed);
        if !receiver.egress.take(now, length) {
            return Err(Cause::Rate);
        }
        Ok(())
    }
}
