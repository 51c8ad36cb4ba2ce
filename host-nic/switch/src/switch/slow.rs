//! The slow path: frames for which more than their addresses decides, because of a policy, VLANs,
//! several RX queues, checksums or large segments.
//!
//! The first 128 bytes of such a frame are read once, as a snapshot. All that is decided is decided
//! on these bytes, and these bytes are delivered.

use crate::sync::Ordering::Relaxed;

use postern_abi::window::{
    FEATURE_CSUM, FEATURE_TSO4, FEATURE_TSO6, FEATURE_USO, FLAG_NEEDS_CSUM, GSO_ECN, GSO_NONE,
    GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, KIND_FRAME, MIN_FRAME, PortId, RecordHeader,
};

use super::call::Call;
use super::deliver::{Packet, PendingOffload};
use super::egress::Tagging;
use super::lanes::Lanes;
use super::progress::Progress;
use super::records::{Records, Taken, load};
use super::sets::PortSet;
use crate::fdb::{GROUP_BIT, Station};
use crate::offload::checksum::Partial;
use crate::offload::segment::{Offload, Shape};
use crate::policy::headers::{Headers, Snapshot};
use crate::state::{Cause, PortState};

/// The frame is held: it waits in its ring, since its only destination has no room.
struct Held;

/// The destinations of a frame that are still to be served.
enum Destinations {
    /// The port that a known station is behind.
    Known(PortId),
    /// The ports that a frame is flooded to. Those that it may not reach are no destinations of it.
    Flooded(PortSet),
}

impl<'a> Call<'a> {
    /// Takes one record and forwards its frame. Returns false if there is none, or the frame is
    /// held.
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
                return match self.forward_record(header, record, progress, lanes) {
                    Ok(()) => true,
                    Err(Held) => {
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
    /// [`Held`]: the frame was not delivered, and stays in its ring.
    #[inline(never)]
    fn forward_record(
        &self,
        header: RecordHeader,
        record: *const u8,
        progress: &mut Progress,
        lanes: &mut Lanes<'a>,
    ) -> Result<(), Held> {
        // SAFETY: the record begins with a header of 16 bytes, and lies in its ring.
        let bytes = unsafe { record.add(16) };
        // SAFETY: the snapshot asks for words that hold bytes of the frame, which lie in its record
        // with all of their 8 bytes.
        let snapshot = Snapshot::read(header.length, |index| unsafe { load(bytes.add(index * 8)) });
        let mut headers = Headers::default();
        headers.read(&snapshot);
        let sender = self.port_state(self.caller.port());
        let checked = match self.check_offload(sender, header, &snapshot, &headers) {
            Some(offload) => self
                .ingress_policy(sender, &mut headers, header.length)
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
        self.forward_packet(sender, &packet, progress, lanes)?;
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

    /// Learns which port a frame's source is behind, looks up its destinations, and delivers it to
    /// them and to mirrors.
    ///
    /// # Errors
    ///
    /// [`Held`]: the frame was not delivered, and stays in its ring.
    #[inline(never)]
    fn forward_packet(
        &self,
        sender: &PortState,
        packet: &Packet<'_>,
        progress: &mut Progress,
        lanes: &mut Lanes<'a>,
    ) -> Result<(), Held> {
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
        self.add_mirror(&mut mirrors, sender);
        let mut next = self.next_destination(&mut destinations, sender, headers);
        if next.is_none() {
            self.sender().count(Cause::NoDestination, 1);
        }
        let mut first = true;
        while let Some((to, tagging)) = next {
            next = self.next_destination(&mut destinations, sender, headers);
            let only = first && next.is_none();
            first = false;
            let receiver = self.port_state(to);
            let delivered = tagging.and_then(|tagging| {
                self.egress_policy(receiver, headers, packet.header.length)?;
                self.deliver(packet, to, tagging, progress, lanes)
            });
            match delivered {
                Ok(()) => self.add_mirror(&mut mirrors, receiver),
                Err(Cause::Full | Cause::BadReceiver) if self.hold && only => {
                    // The rate limits count the frame when it is sent.
                    sender.ingress.give_back(packet.header.length);
                    receiver.egress.give_back(packet.header.length);
                    return Err(Held);
                }
                Err(cause) => self.refuse(packet, to, cause, lanes),
            }
        }
        mirrors.remove(self.caller.port());
        while let Some(to) = mirrors.pop() {
            if let Err(cause) = self.deliver(packet, to, Tagging::Keep, progress, lanes) {
                self.refuse(packet, to, cause, lanes);
            }
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
                    if let Some(tagging) = tagging(to) {
                        return Some((to, Ok(tagging)));
                    }
                }
                None
            }
        }
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
