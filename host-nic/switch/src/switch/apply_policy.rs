//! The policies of ports, applied to a frame of the slow path.
#![forbid(unsafe_code)]
use crate::sync::Ordering::Relaxed;

use postern_abi::window::PortId;

use super::call::Call;
use super::deliver::{Packet, PendingOffload};
use super::egress::Tagging;
use crate::fdb::MAC_MASK;
use crate::policy::acl::{Direction, Hit, Verdict};
use crate::policy::headers::Headers;
use crate::policy::rate::Bucket;
use crate::policy::reserved::{is_mac_control, is_station};
use crate::state::{Cause, PortState, SOURCE_FIXED};

/// What a frame has passed at a port: the access list, whose hit is not counted yet, and the rate
/// limit.
pub struct Passed<'a> {
    /// The hit of the rule of the access list that let it pass.
    pub hit: Hit<'a>,
    /// Number of bytes that the frame has taken out of the bucket.
    pub metered: u32,
}

impl<'a> Call<'a> {
    /// Sees that the frame is one that a bridge may look at, and applies the policy of the sender's
    /// port: source address, VLAN, access list, rate (unless an earlier call has counted the frame).
    /// Sorts the frame, of `length` bytes, into its VLAN.
    ///
    /// # Errors
    ///
    /// [`Cause`]: the port may not send the frame.
    pub fn ingress_policy(
        &self,
        sender: &'a PortState,
        headers: &mut Headers,
        (length, offload): (u32, PendingOffload),
        counted: bool,
    ) -> Result<Passed<'a>, Cause> {
        if is_mac_control(headers.destination) {
            return Err(Cause::Reserved);
        }
        if !is_station(headers.source) {
            return Err(Cause::BadSource);
        }
        let source = sender.source.load(Relaxed);
        if source & SOURCE_FIXED != 0 && headers.source != source & MAC_MASK {
            return Err(Cause::Spoofed);
        }
        if self.state().vlans.load(Relaxed) != 0 {
            match sender.vlan.ingress(headers) {
                Some(vid) => headers.vlan = vid,
                None => return Err(Cause::Spoofed),
            }
        }
        let hit = decide(sender, headers, Direction::Ingress)?;
        let metered = match counted {
            true => Some(0),
            false => self.meter(&sender.ingress, length, offload, 0),
        };
        match metered {
            Some(metered) => Ok(Passed { hit, metered }),
            None => {
                hit.count();
                Err(Cause::Rate)
            }
        }
    }

    /// Takes the bytes of a frame out of a bucket, if it lets the frame pass. Returns how many, 0 where the
    /// bucket is off.
    fn meter(
        &self,
        bucket: &Bucket,
        length: u32,
        offload: PendingOffload,
        shift: i32,
    ) -> Option<u32> {
        if bucket.is_off() {
            return Some(0);
        }
        let (first, bytes) = offload.metered(length, shift);
        let now = self.state().clock.now.load(Relaxed);
        bucket.take_all(now, first, bytes).then_some(bytes)
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
                Tagging::of(headers, egress)
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
        receiver: &'a PortState,
        packet: &Packet<'_>,
        tagging: Tagging,
    ) -> Result<Passed<'a>, Cause> {
        let hit = decide(receiver, packet.headers, Direction::Egress)?;
        let (length, shift) = (packet.header.length, tagging.shift());
        match self.meter(&receiver.egress, length, packet.offload, shift) {
            Some(metered) => Ok(Passed { hit, metered }),
            None => {
                hit.count();
                Err(Cause::Rate)
            }
        }
    }
}

/// Has the access list of a port decide on a frame. A hit of a rule that permits is not counted
/// yet.
///
/// # Errors
///
/// [`Cause`]: the list denies the frame.
fn decide<'a>(
    port: &'a PortState,
    headers: &Headers,
    direction: Direction,
) -> Result<Hit<'a>, Cause> {
    let decision = port.acl.decide(headers, direction);
    match decision.verdict {
        Verdict::Permit => Ok(decision.hit),
        Verdict::Deny => {
            decision.hit.count();
            Err(Cause::Policy)
        }
    }
}
