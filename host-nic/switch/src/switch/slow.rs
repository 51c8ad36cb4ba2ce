//! Frames of which more is to be minded than their addresses: policy, VLANs, several RX queues, checksums and
//! large segments.
//!
//! The first 128 bytes of such a frame are read once. All that is decided, is decided on these, and
//! these are delivered.

use crate::sync::Ordering::Relaxed;

use postern_abi::window::{
    FEATURE_CSUM, FEATURE_TSO4, FEATURE_TSO6, FEATURE_USO, FLAG_NEEDS_CSUM, GSO_ECN, GSO_NONE,
    GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, KIND_FRAME, MIN_FRAME, PortId, RecordHeader,
};

use super::Call;
use super::deliver::{Parcel, Rest};
use super::fast::{Lanes, Progress};
use super::image::Tagging;
use super::records::{Records, Taken, load};
use super::route::PortSet;
use crate::fdb::{GROUP_BIT, MAC_MASK, Station};
use crate::offload::checksum::Partial;
use crate::offload::segment::{Offload, Shape};
use crate::policy::acl::{Direction, Verdict};
use crate::policy::headers::{Headers, Hidden, SNAPSHOT_BYTES, Snapshot};
use crate::state::{Cause, PortState, SOURCE_FIXED};

impl<'a> Call<'a> {
    /// The state of a port of this NIC, or port 0's.
    pub fn port_state(&self, port: PortId) -> &'a PortState {
        let number = match port.number() < self.caller.geometry().ports() {
            true => port.number(),
            false => 0,
        };
        let offset = crate::state::port_offset(number) as usize;
        // SAFETY: one of the states of ports, in memory that `serve`'s caller vouched for; every
        // field is an atomic.
        unsafe { &*self.base.add(offset).cast() }
    }

    /// Takes one record; false if there is none, or if it is held.
    #[inline(never)]
    pub fn full(
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
                return match self.parcel(header, record, progress, lanes) {
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
        self.context().count(refused, 1);
        progress.pass_one(0);
        true
    }

    /// Reads the beginning of a frame and sends it on its way.
    #[inline(never)]
    fn parcel(
        &self,
        header: RecordHeader,
        record: *const u8,
        progress: &mut Progress,
        lanes: &mut Lanes<'a>,
    ) -> Result<(), Held> {
        // SAFETY: a record has a header of 16 bytes.
        let bytes = unsafe { record.add(16) };
        // SAFETY: the words hold bytes of the frame.
        let snapshot = Snapshot::read(header.length, |index| unsafe { load(bytes.add(index * 8)) });
        let mut headers = Headers::default();
        headers.read(&snapshot);
        let sender = self.port_state(self.caller.port());
        let checked = match self.check_rest(sender, header, &snapshot, &headers) {
            Some(rest) => self
                .admit(sender, &mut headers, header.length)
                .map(|()| rest),
            None => Err(Cause::BadDescriptor),
        };
        let rest = match checked {
            Ok(rest) => rest,
            Err(cause) => {
                self.context().count(cause, 1);
                progress.pass_one(header.length);
                return Ok(());
            }
        };
        let hash = match self.caller.geometry().queues() {
            1 => 0,
            _ => headers.flow_hash(self.hash_key()),
        };
        let parcel = Parcel {
            header,
            bytes,
            snapshot: &snapshot,
            headers: &headers,
            rest,
            hash,
        };
        self.distribute(sender, &parcel, progress, lanes)?;
        progress.pass_one(header.length);
        Ok(())
    }

    fn hash_key(&self) -> [u64; 2] {
        let [first, second] = &self.state().key;
        // Not the table's key, which what receivers can see of the hash is not to tell.
        [!first.load(Relaxed), second.load(Relaxed).rotate_left(17)]
    }

    /// What the header asks for, if that is true of the frame and agreed on.
    fn check_rest(
        &self,
        sender: &PortState,
        header: RecordHeader,
        snapshot: &Snapshot,
        headers: &Headers,
    ) -> Option<Rest> {
        if header.kind != KIND_FRAME {
            return None;
        }
        if header == RecordHeader::plain(header.length) {
            return Some(Rest::Nothing);
        }
        let features = sender.features.load(Relaxed);
        let partial = Partial::new(header.csum_start, header.csum_offset, header.length)?;
        if header.flags != FLAG_NEEDS_CSUM || features & FEATURE_CSUM == 0 {
            return None;
        }
        let needed = match header.gso_type & !GSO_ECN {
            GSO_NONE if header.gso_type == GSO_NONE => {
                return is_payload(headers, partial).then_some(Rest::Checksum(partial));
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
        (shape.longest() <= self.caller.geometry().max_frame()).then_some(Rest::Large(shape))
    }

    /// The sender's policy. Sorts the frame into its VLAN.
    fn admit(&self, sender: &PortState, headers: &mut Headers, length: u32) -> Result<(), Cause> {
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
        if !sender.ingress.take(now, length) {
            return Err(Cause::Rate);
        }
        Ok(())
    }

    /// Learns where the frame comes from, and delivers it to where it goes.
    #[inline(never)]
    fn distribute(
        &self,
        sender: &PortState,
        parcel: &Parcel<'_>,
        progress: &mut Progress,
        lanes: &mut Lanes<'a>,
    ) -> Result<(), Held> {
        let headers = parcel.headers;
        let vlan = match self.state().vlans.load(Relaxed) {
            0 => 0,
            _ => u32::from(headers.vlan),
        };
        let key = self.key();
        let mode = self.state().mode(self.caller.port());
        self.learn(key, mode, vlan, headers.source);
        let mut targets = self.targets(key, vlan, sender, headers);
        let mut mirrors = PortSet::default();
        self.add_mirror(&mut mirrors, sender);
        if targets.is_empty() {
            self.context().count(Cause::NoDestination, 1);
        }
        let mut rest = targets;
        let alone = rest.pop().is_some() && rest.is_empty();
        while let Some(to) = targets.pop() {
            let receiver = self.port_state(to);
            let delivered = self
                .release(sender, receiver, to, parcel)
                .and_then(|tagging| self.deliver(parcel, to, tagging, progress, lanes));
            match delivered {
                Ok(()) => self.add_mirror(&mut mirrors, receiver),
                Err(Cause::Full | Cause::BadReceiver) if self.hold && alone => {
                    // It pays when it goes.
                    sender.ingress.give_back(parcel.header.length);
                    receiver.egress.give_back(parcel.header.length);
                    return Err(Held);
                }
                Err(cause) => self.refuse(parcel, to, cause, lanes),
            }
        }
        mirrors.remove(self.caller.port());
        while let Some(to) = mirrors.pop() {
            if let Err(cause) = self.deliver(parcel, to, Tagging::Keep, progress, lanes) {
                self.refuse(parcel, to, cause, lanes);
            }
        }
        Ok(())
    }

    fn targets(
        &self,
        key: crate::fdb::Key,
        vlan: u32,
        sender: &PortState,
        headers: &Headers,
    ) -> PortSet {
        if headers.destination & GROUP_BIT == 0 {
            let station = Station::new(vlan, headers.destination);
            let found = self.state().table.find(key, station);
            if let Some(port) = found.and_then(PortId::new) {
                let mut one = PortSet::default();
                if port != self.caller.port() && self.attached(port) {
                    one.add(port);
                }
                return one;
            }
        }
        self.flood_domain(sender, headers)
    }

    /// All ports but the caller's that a frame may reach: those that it may not are no destinations of it.
    fn flood_domain(&self, sender: &PortState, headers: &Headers) -> PortSet {
        let mut all = self.others();
        let mut reached = PortSet::default();
        while let Some(to) = all.pop() {
            if self
                .tagging(sender, self.port_state(to), to, headers)
                .is_some()
            {
                reached.add(to);
            }
        }
        reached
    }

    fn add_mirror(&self, mirrors: &mut PortSet, port: &PortState) {
        let mirror = port.mirror.load(Relaxed);
        if let Some(to) = mirror.checked_sub(1).and_then(PortId::new)
            && self.attached(to)
        {
            mirrors.add(to);
        }
    }

    /// How the frame leaves through a port, unless isolation or VLANs keep it from there.
    fn tagging(
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

    /// The receiver's policy: how the frame leaves through its port, or why it does not.
    fn release(
        &self,
        sender: &PortState,
        receiver: &PortState,
        to: PortId,
        parcel: &Parcel<'_>,
    ) -> Result<Tagging, Cause> {
        let headers = parcel.headers;
        let tagging = self.tagging(sender, receiver, to, headers);
        let tagging = tagging.ok_or(Cause::Policy)?;
        if receiver.acl.verdict(headers, Direction::Egress) == Verdict::Deny {
            return Err(Cause::Policy);
        }
        let now = self.state().clock.now.load(Relaxed);
        if !receiver.egress.take(now, parcel.header.length) {
            return Err(Cause::Rate);
        }
        Ok(tagging)
    }
}

/// Whether a checksum lies behind all that a policy reads. What is stored there is the sender's choice in the end, and
/// would be stored after the policy has looked.
fn is_payload(headers: &Headers, partial: Partial) -> bool {
    let l4 = u32::from(headers.l4_offset);
    let read = match headers.ports {
        Some(_) => 4,
        None => 0,
    };
    if headers.hidden == Hidden::Nothing && l4 != 0 {
        partial.start() >= l4 && partial.place() >= l4 + read
    } else {
        partial.start() >= u32::from(headers.l3_offset) && partial.place() >= SNAPSHOT_BYTES
    }
}

/// The frame waits, since its only destination has no room.
struct Held;
