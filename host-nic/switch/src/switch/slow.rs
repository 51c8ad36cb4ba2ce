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
use crate::fdb::{GROUP_BIT, Station};
use crate::offload::checksum::Partial;
use crate::offload::segment::{Offload, Shape};
use crate::policy::headers::{Headers, Snapshot};
use crate::state::{Cause, PortState, SenderState};

/// The frame stays in its ring. It is held, since its only destination has no room; or it is paused,
/// since the call has done as much as a call may.
struct Stays;

/// The destinations of a frame that are still to be served.
enum Destinations {
    /// The port that a known station is behind.
    Known(PortId),
    /// The ports that a frame is flooded to. Those that it may not reach are no destinations of it.
    Flooded(PortSet),
}

impl Destinations {
    /// Takes out the ports below this number.
    #[cold]
    fn pass(&mut self, first: u32) {
        match self {
            Destinations::Known(port) if port.number() >= first => {}
            Destinations::Known(_) => *self = Destinations::Flooded(PortSet::default()),
            Destinations::Flooded(ports) => {
                for port in (0..first).map_while(PortId::new) {
                    ports.remove(port);
                }
            }
        }
    }
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
) -> Option<Paused> {
    let [a, b, c, d] = &queue.paused_mirrors;
    let mirrors = [a, b, c, d].map(|word| word.load(Relaxed));
    let paused = Paused::parse(word, position, length, PortSet::from_words(mirrors));
    match paused {
        Some(_) => progress.note = Note::Taken,
        // It is a pause of a frame that is no longer there.
        None => queue.paused.store(0, Relaxed),
    }
    paused
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
                    Err(Stays) => {
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
        let checked = match self.check_offload(sender, header, &snapshot, &headers) {
            Some(offload) => self
                .ingress_policy(sender, &mut headers, header.length, paused.is_some())
                .map(|()| offload),
            None => Err(Cause::BadDescriptor),
        };
        let offload = match checked {
            Ok(offload) => offload,
            Err(cause) => {
                self.sender().count(cause, 1);
                progress.count_taken(header.length);
                return Ok(());
            }
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
        self.forward_packet(sender, &packet, paused, progress, lanes)?;
        progress.count_taken(header.length);
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
        let offload = Offload {
            flags: header.flags,
            gso_type: header.gso_type,
            gso_size: header.gso_size,
            csum_start: header.csum_start,
            csum_offset: header.csum_offset,
        };
        let shape = Shape::check(snapshot, headers, offload).ok()?;
        (shape.longest() <= self.caller.geometry().max_frame())
            .then_some(PendingOffload::Segmentation(shape))
    }

    /// How far an earlier call came with the frame of this length at this position, if one began
    /// with it and paused it.
    #[inline(always)]
    fn paused(&self, progress: &mut Progress, position: u32, length: u32) -> Option<Paused> {
        // SAFETY: `serve` compared the number of the queue with that of queues, or it is 0.
        let queue = unsafe { self.sender_of(progress.queue) };
        match queue.paused.load(Relaxed) {
            0 => None,
            word => parse_paused(queue, word, progress, position, length),
        }
    }

    /// Pauses the frame if the call has done as much as a call may, and some port or mirror is left.
    ///
    /// # Errors
    ///
    /// [`Stays`]: the frame is paused.
    #[inline(always)]
    fn pause(
        progress: &mut Progress,
        packet: &Packet<'_>,
        next: Option<u32>,
        mirrors: PortSet,
    ) -> Result<(), Stays> {
        match next {
            Some(port) if progress.is_spent() => {
                progress.note = Note::Paused(packet.header.length, Paused { port, mirrors });
                Err(Stays)
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
        paused: Option<Paused>,
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
        let mut destinations = self.destinations(key, vlan, headers);
        let mut mirrors = PortSet::default();
        if let Some(paused) = paused {
            destinations.pass(paused.port);
            mirrors = paused.mirrors.and(self.present_mirrors());
        } else {
            self.add_mirror(&mut mirrors, sender);
        }
        let mut first = paused.is_none();
        let mut next = self.next_destination(&mut destinations, sender, headers, progress);
        if next.is_none() && first {
            self.sender().count(Cause::NoDestination, 1);
        }
        while let Some((to, tagging)) = next {
            next = self.next_destination(&mut destinations, sender, headers, progress);
            let only = first && next.is_none();
            first = false;
            let receiver = self.port_state(to);
            let delivered = tagging.and_then(|tagging| {
                self.egress_policy(receiver, headers, packet.header.length)?;
                self.deliver(packet, to, tagging, progress, lanes)
            });
            match delivered {
                Ok(()) => self.add_mirror(&mut mirrors, receiver),
                Err(Cause::Full | Cause::BadReceiver | Cause::NoLane) if self.hold && only => {
                    // The rate limits count the frame when it is sent.
                    sender.ingress.give_back(packet.header.length);
                    receiver.egress.give_back(packet.header.length);
                    return Err(Stays);
                }
                Err(cause) => self.refuse(packet, to, cause, lanes),
            }
            Self::pause(progress, packet, next.map(|(to, _)| to.number()), mirrors)?;
        }
        mirrors.remove(self.caller.port());
        let mut left = (!mirrors.is_empty()).then_some(MAX_PORTS);
        Self::pause(progress, packet, left, mirrors)?;
        while let Some(to) = mirrors.pop() {
            progress.count_copies(1);
            if let Err(cause) = self.deliver(packet, to, Tagging::Keep, progress, lanes) {
                self.refuse(packet, to, cause, lanes);
            }
            left = (!mirrors.is_empty()).then_some(MAX_PORTS);
            Self::pause(progress, packet, left, mirrors)?;
        }
        Ok(())
    }

    /// Looks up the destinations of a frame of a VLAN, in the forwarding database.
    fn destinations(&self, key: crate::fdb::Key, vlan: u32, headers: &Headers) -> Destinations {
        if headers.destination & GROUP_BIT == 0 {
            let station = Station::new(vlan, headers.destination);
            let found = self.state().fdb.find(key, station);
            if let Some(port) = found.and_then(PortId::new) {
                return match port != self.caller.port() && self.attached(port) {
                    true => Destinations::Known(port),
                    false => Destinations::Flooded(PortSet::default()),
                };
            }
        }
        Destinations::Flooded(self.other_ports())
    }

    /// Takes the next destination out of those that are left, and computes what happens to the
    /// frame's tag there, once for each destination.
    #[inline(never)]
    fn next_destination(
        &self,
        left: &mut Destinations,
        sender: &PortState,
        headers: &Headers,
        progress: &mut Progress,
    ) -> Option<(PortId, Result<Tagging, Cause>)> {
        let tagging = |to| self.tagging(sender, self.port_state(to), to, headers);
        match left {
            Destinations::Known(to) => {
                let to = *to;
                *left = Destinations::Flooded(PortSet::default());
                Some((to, tagging(to).ok_or(Cause::Policy)))
            }
            Destinations::Flooded(ports) => {
                while let Some(to) = ports.pop() {
                    progress.count_copies(1);
                    if let Some(tagging) = tagging(to) {
                        return Some((to, Ok(tagging)));
                    }
                }
                None
            }
        }
    }

    /// The mirrors that ports have now. Those of a frame that was paused may be none any more.
    #[cold]
    #[inline(never)]
    fn present_mirrors(&self) -> PortSet {
        let mut mirrors = PortSet::default();
        for port in self.caller.geometry().all_ports() {
            self.add_mirror(&mut mirrors, self.port_state(port));
        }
        mirrors
    }

    /// Adds a port's mirror to the set of mirrors, if it has one with a tenant.
    fn add_mirror(&self, mirrors: &mut PortSet, port: &PortState) {
        let mirror = port.mirror.load(Relaxed);
        if let Some(to) = mirror.checked_sub(1).and_then(PortId::new)
            && self.attached(to)
        {
            mirrors.add(to);
        }
    }
}
