//! The slow path: frames for which more than their addresses decides, because of a policy, VLANs,
//! several RX queues, checksums or large segments.
//!
//! The first 128 bytes of such a frame are read once, as a snapshot. All that is decided is decided
//! on these bytes, and these bytes are delivered.

use crate::sync::Ordering::Relaxed;

use postern_abi::window::{
    FEATURE_CSUM, FEATURE_TSO4, FEATURE_TSO6, FEATURE_USO, FLAG_NEEDS_CSUM, GSO_ECN, GSO_NONE,
    GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, KIND_FRAME, MAX_PORTS, MIN_FRAME, PortId, RecordHeader,
};

use super::call::Call;
use super::deliver::{Packet, PendingOffload};
use super::egress::Tagging;
use super::lanes::Lanes;
use super::progress::{Note, Paused, Progress};
use super::records::{Records, Taken, load};
use super::sets::PortSet;
use crate::offload::checksum::Partial;
use crate::offload::segment::{Offload, Shape};
use crate::policy::headers::{Headers, Snapshot};
use crate::state::{Cause, PortState, SenderState};

/// The reason why a frame stays in its ring.
enum Stays {
    /// Its only destination has no room, and the sender waits for it.
    Held,
    /// The call has done as much as a call may.
    Paused,
}

/// [`Call::paused`], where the queue has a paused frame.
#[cold]
#[inline(never)]
fn parse_paused(
    queue: &SenderState,
    word: u64,
    progress: &mut Progress,
    position: u32,
    length: u32,
) -> Option<u32> {
    let port = Paused::port(word, position, length);
    match port {
        Some(_) => progress.note = Note::Taken,
        // It is a pause of a frame that is no longer there.
        None => queue.paused.store(0, Relaxed),
    }
    port
}

impl<'a> Call<'a> {
    /// Takes one record and forwards its frame. Returns false if there is none, or the frame stays
    /// in its ring.
    #[inline(never)]
    pub fn forward_slow(
        &self,
        records: &mut Records,
        progress: &mut Progress,
        lanes: &mut Lanes<'a>,
    ) -> bool {
        if records.is_empty() {
            return false;
        }
        let before = *records;
        let geometry = self.caller.geometry();
        let refused = match records.take(geometry.max_frame(), geometry.max_segment()) {
            Taken::Padding => return true,
            Taken::Frame(header, record) => {
                return match self.forward_record(before.position(), header, record, progress, lanes)
                {
                    Ok(()) => true,
                    Err(Stays::Held | Stays::Paused) => {
                        *records = before;
                        false
                    }
                };
            }
            Taken::Length(length) if length < MIN_FRAME => Cause::TooShort,
            Taken::Length(_) => Cause::TooLong,
            Taken::Outside => Cause::BadDescriptor,
        };
        self.sender().count(refused, 1);
        progress.count_taken(0);
        true
    }

    /// Reads the beginning of a frame, applies the policy of the sender's port, and forwards the
    /// frame.
    ///
    /// # Errors
    ///
    /// [`Stays`]: the frame stays in its ring.
    #[inline(never)]
    fn forward_record(
        &self,
        position: u32,
        header: RecordHeader,
        record: *const u8,
        progress: &mut Progress,
        lanes: &mut Lanes<'a>,
    ) -> Result<(), Stays> {
        // SAFETY: the record begins with a header of 16 bytes, and lies in its ring.
        let bytes = unsafe { record.add(16) };
        // SAFETY: the snapshot asks for words that hold bytes of the frame, which lie in its record
        // with all of their 8 bytes.
        let snapshot = Snapshot::read(header.length, |index| unsafe { load(bytes.add(index * 8)) });
        let mut headers = Headers::default();
        headers.read(&snapshot);
        let sender = self.port_state(self.caller.port());
        let paused = self.paused(progress, position, header.length);
        let is_new = paused.is_none();
        let Some(offload) = self.check_offload(sender, header, &snapshot, &headers) else {
            return self.refuse_at_ingress(Cause::BadDescriptor, header.length, progress);
        };
        let sent = (header.length, offload);
        let passed = match self.ingress_policy(sender, &mut headers, sent, !is_new) {
            Ok(passed) => passed,
            Err(cause) => return self.refuse_at_ingress(cause, header.length, progress),
        };
        let hash = match self.caller.geometry().queues() {
            1 => 0,
            _ => headers.flow_hash(self.hash_key()),
        };
        let packet = Packet {
            header,
            bytes,
            snapshot: &snapshot,
            headers: &headers,
            offload,
            hash,
        };
        let forwarded = self.forward_packet(sender, &packet, paused, progress, lanes);
        match forwarded {
            // The rate limit and the access list count the frame when it is sent.
            Err(Stays::Held) => sender.ingress.give_back(passed.metered),
            _ if is_new => passed.hit.count(),
            _ => {}
        }
        forwarded?;
        progress.count_taken(header.length);
        Ok(())
    }

    /// Takes a frame of this length that the sender's port may not send, and counts it by its cause.
    #[cold]
    #[inline(never)]
    fn refuse_at_ingress(
        &self,
        cause: Cause,
        length: u32,
        progress: &mut Progress,
    ) -> Result<(), Stays> {
        self.sender().count(cause, 1);
        progress.count_taken(length);
        Ok(())
    }

    /// Key of the flow hash.
    fn hash_key(&self) -> [u64; 2] {
        let [first, second] = &self.state().key;
        // It is not the key of the forwarding database, of which the hash, whose effect receivers
        // see, must tell nothing.
        [!first.load(Relaxed), second.load(Relaxed).rotate_left(17)]
    }

    /// The work that a record's header leaves to others, or nothing if it does not fit the frame or
    /// was not agreed on.
    fn check_offload(
        &self,
        sender: &PortState,
        header: RecordHeader,
        snapshot: &Snapshot,
        headers: &Headers,
    ) -> Option<PendingOffload> {
        if header.kind != KIND_FRAME {
            return None;
        }
        if header == RecordHeader::plain(header.length) {
            return Some(PendingOffload::Nothing);
        }
        let features = sender.features.load(Relaxed);
        let partial = Partial::new(header.csum_start, header.csum_offset, header.length)?;
        if header.flags != FLAG_NEEDS_CSUM || features & FEATURE_CSUM == 0 {
            return None;
        }
        let needed = match header.gso_type & !GSO_ECN {
            GSO_NONE if header.gso_type == GSO_NONE => {
                let is_payload = partial.is_payload(headers);
                return is_payload.then_some(PendingOffload::Checksum(partial));
            }
            GSO_TCPV4 => FEATURE_TSO4,
            GSO_TCPV6 => FEATURE_TSO6,
            GSO_UDP_L4 => FEATURE_USO,
            _ => return None,
        };
        if features & needed == 0 {
            return None;
        }
        let shape = Shape::check(snapshot, headers, Offload::of(header)).ok()?;
        (shape.longest() <= self.caller.geometry().max_frame())
            .then_some(PendingOffload::Segmentation(shape))
    }

    /// The first port that an earlier call has not considered as a destination of the frame of this
    /// length at this position ([`Paused::port`]), if one began with it and paused it.
    #[inline(always)]
    fn paused(&self, progress: &mut Progress, position: u32, length: u32) -> Option<u32> {
        // SAFETY: `serve` compared the number of the queue with that of queues, or it is 0.
        let queue = unsafe { self.sender_of(progress.queue) };
        match queue.paused.load(Relaxed) {
            0 => None,
            word => parse_paused(queue, word, progress, position, length),
        }
    }

    /// Pauses the frame if the call has done as much as a call may, and some port or mirror is left,
    /// of which those that were reached need nothing any more.
    ///
    /// # Errors
    ///
    /// [`Stays`]: the frame is paused.
    #[inline(always)]
    fn pause(
        progress: &mut Progress,
        packet: &Packet<'_>,
        next: Option<u32>,
        mirrors: &PortSet,
        reached: &PortSet,
    ) -> Result<(), Stays> {
        match next {
            Some(port) if progress.is_spent() => {
                let mut mirrors = *mirrors;
                mirrors.remove_all(reached);
                progress.note = Note::Paused(packet.header.length, Paused { port, mirrors });
                Err(Stays::Paused)
            }
            _ => Ok(()),
        }
    }

    /// Learns which port a frame's source is behind, looks up its destinations, and delivers it to
    /// them and to mirrors: to all, or to those that an earlier call left.
    ///
    /// # Errors
    ///
    /// [`Stays`]: the frame stays in its ring.
    #[inline(never)]
    fn forward_packet(
        &self,
        sender: &PortState,
        packet: &Packet<'_>,
        paused: Option<u32>,
        progress: &mut Progress,
        lanes: &mut Lanes<'a>,
    ) -> Result<(), Stays> {
        let headers = packet.headers;
        let vlan = match self.state().vlans.load(Relaxed) {
            0 => 0,
            _ => u32::from(headers.vlan),
        };
        let key = self.key();
        let mode = self.state().mode(self.caller.port());
        self.learn(key, mode, vlan, headers.source);
        let (mut destinations, none) = self.destinations(key, mode, vlan, headers);
        let mut mirrors = PortSet::default();
        // The ports that have got the frame and need no copy of it as a mirror.
        let mut reached = PortSet::default();
        let mut first = paused.is_none();
        match paused {
            Some(port) => {
                destinations.pass(port, &mut reached);
                self.resume(sender, headers, progress, &mut mirrors, &mut reached);
            }
            None => self.add_mirror(&mut mirrors, sender),
        }
        let mut next = self.next_destination(&mut destinations, sender, headers, progress);
        if next.is_none() && first {
            self.sender().count(none, 1);
        }
        while let Some((to, tagging)) = next {
            next = self.next_destination(&mut destinations, sender, headers, progress);
            let only = first && next.is_none();
            first = false;
            let receiver = self.port_state(to);
            let delivered = tagging.and_then(|tagging| {
                self.send(packet, receiver, to, tagging, only, progress, lanes)
            });
            match delivered {
                Ok(()) => {
                    reached.add(to);
                    self.add_mirror(&mut mirrors, receiver);
                }
                Err(cause) if self.is_held(cause, only) => return Err(Stays::Held),
                Err(cause) => self.refuse(packet, to, cause, lanes),
            }
            let next = next.as_ref().map(|(to, _)| to.number());
            Self::pause(progress, packet, next, &mirrors, &reached)?;
        }
        reached.add(self.caller.port());
        mirrors.remove_all(&reached);
        let mut left = (!mirrors.is_empty()).then_some(MAX_PORTS);
        Self::pause(progress, packet, left, &mirrors, &reached)?;
        while let Some(to) = mirrors.pop() {
            progress.count_copies(1);
            if let Err(cause) = self.deliver(packet, to, Tagging::Keep, progress, lanes) {
                self.refuse(packet, to, cause, lanes);
            }
            left = (!mirrors.is_empty()).then_some(MAX_PORTS);
            Self::pause(progress, packet, left, &mirrors, &reached)?;
        }
        Ok(())
    }

    /// Whether a frame that was not delivered for this cause stays in its ring until there is room.
    /// Those with several destinations do not: a receiver that never reads would keep a sender from
    /// all others.
    #[inline]
    fn is_held(&self, cause: Cause, only: bool) -> bool {
        let waits = matches!(cause, Cause::Full | Cause::BadReceiver | Cause::NoLane);
        self.hold && only && waits
    }

    /// Sends a frame to a port that it may reach, if the port's policy lets it. `only` says that the
    /// frame has no other destination.
    ///
    /// # Errors
    ///
    /// [`Cause`]: nothing was delivered. Then the port's rate limit is as it was before.
    #[expect(
        clippy::too_many_arguments,
        reason = "`forward_packet` has found all of it out"
    )]
    #[inline(always)]
    fn send(
        &self,
        packet: &Packet<'_>,
        receiver: &'a PortState,
        to: PortId,
        tagging: Tagging,
        only: bool,
        progress: &mut Progress,
        lanes: &mut Lanes<'a>,
    ) -> Result<(), Cause> {
        let passed = self.egress_policy(receiver, packet, tagging)?;
        let delivered = self.deliver(packet, to, tagging, progress, lanes);
        let unsent = match delivered {
            Ok(sent) => passed.metered.saturating_sub(sent),
            Err(_) => passed.metered,
        };
        if unsent != 0 {
            receiver.egress.give_back(unsent);
        }
        match delivered {
            Err(cause) if self.is_held(cause, only) => {}
            _ => passed.hit.count(),
        }
        delivered.map(|_| ())
    }
}
