//! Tenants: how the owner of a NIC hands a port from one guest to the next.
//!
//! A *tenant* is the guest that has a port for a time, and a *tenancy* that time, numbered by the
//! owner. Only the host calls these functions, one at a time. Calls of other ports go on meanwhile,
//! so nothing here relies on their standing still: a new tenant's positions begin where the switch
//! has them, rather than at a number that a call in progress could contradict.
//!
//! A call of another port may be stopped in the middle of a delivery to the former tenant. When it
//! goes on, it writes to the unpublished part of its lane and then publishes for the former tenant,
//! which the new one takes as an empty lane ([`postern_abi::window::Published`]). The next call of
//! that sender finds another tenancy than that of its positions, and begins where the new tenant
//! expects the next record. So frames for a former tenant can end in memory of the next one, and
//! are never delivered to it.

use crate::sync::{
    AtomicU8, AtomicU32, AtomicU64,
    Ordering::{AcqRel, Relaxed, Release},
};

use postern_abi::service::Secret;
use postern_abi::window::{LOOK_AGAIN, PortId, Published, WindowHeader};

use crate::fdb::{Key, Station};
use crate::state::{LANE_FREE, LaneState, SOURCE_FIXED, SOURCE_OWN, SenderState};
use crate::switch::Switch;

/// A MAC address as the forwarding database has it: 48 bits, first byte lowest.
pub const fn mac_word(mac: [u8; 6]) -> u64 {
    let [a, b, c, d, e, f] = mac;
    u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
}

impl Switch<'_> {
    /// Key of the forwarding database.
    pub fn key(&self) -> Key {
        let [first, second] = &self.state().key;
        Key::new([first.load(Relaxed), second.load(Relaxed)])
    }

    /// Ends a port's tenancy: the port receives nothing more, its tenant's calls are refused, and
    /// the stations behind it leave the forwarding database.
    pub fn evict(&self, port: PortId) {
        let state = self.state();
        let bit = 1 << (port.number() & 63);
        state.attached[port.index() >> 6].fetch_and(!bit, AcqRel);
        state.tenancy[port.index()].store(0, Release);
        state.secret[port.index()].store(0, Relaxed);
        state.fdb.forget(port);
        state.generation.fetch_add(1, AcqRel);
    }

    /// Begins a tenancy of a port: ends the former one, clears the window, gives it a new header,
    /// and lets all its rings begin empty. The address gets a static entry in the forwarding
    /// database as long as the tenancy lasts. Does nothing if the port is not one of this NIC's.
    ///
    /// The port's former tenant must make no calls any more: the lanes that it held become others'.
    /// `tenancy` must not be 0, nor the number of a former tenancy. `secret` must have been drawn for this tenancy alone. It goes into the window, where
    /// the guest reads it, and nobody else can.
    pub fn admit(&self, port: PortId, tenancy: u32, secret: Secret, mac: [u8; 6]) {
        let (Some(window), Some(port_state)) = (self.window(port), self.port(port)) else {
            return;
        };
        let state = self.state();
        self.evict(port);
        self.release_lanes(port);
        self.clear(window);
        port_state.features.store(0, Relaxed);
        if port_state.source.load(Relaxed) & SOURCE_OWN != 0 {
            let source = SOURCE_FIXED | SOURCE_OWN | mac_word(mac);
            port_state.source.store(source, Relaxed);
        }
        self.start_rings(port, tenancy);
        self.clear_counters(port);
        let header = WindowHeader::new(self.geometry(), port, tenancy, secret, mac);
        self.write_header(window, &header);
        let station = Station::new(0, mac_word(mac));
        state.fdb.pin(self.key(), station, port);
        self.forget_shadowed();
        state.secret[port.index()].store(secret.word(), Relaxed);
        state.tenancy[port.index()].store(tenancy, Release);
        let bit = 1 << (port.number() & 63);
        state.attached[port.index() >> 6].fetch_or(bit, AcqRel);
        state.generation.fetch_add(1, AcqRel);
    }

    /// Forgets what was learned of stations that have a static entry for all VLANs, in the VLANs in
    /// which that holds now, since it takes the place of what was learned (IEEE 802.1Q "Dynamic
    /// Filtering Entries"). To be called when there is another such entry, or a port has entered a
    /// VLAN.
    pub fn forget_shadowed(&self) {
        let state = self.state();
        if state.vlans.load(Relaxed) == 0 {
            return;
        }
        let key = self.key();
        state.fdb.flush_if(key, |station, _| {
            let everywhere = Station::new(0, station.mac());
            let told = state.fdb.find_static(key, everywhere);
            let port = told.and_then(PortId::new).and_then(|port| self.port(port));
            port.is_some_and(|port| port.vlan.is_member(station.vlan() as u16))
        });
    }

    /// Fills a window with zeros.
    fn clear(&self, window: *mut u8) {
        for offset in (0..self.geometry().window_size() as usize).step_by(8) {
            // SAFETY: an aligned word below the size of a window of this NIC, in memory that
            // `from_base`'s caller vouched for.
            let word = unsafe { AtomicU64::from_ptr(window.add(offset).cast()) };
            word.store(0, Relaxed);
        }
    }

    /// Makes the rings of a port's window empty, at the positions that the switch has.
    fn start_rings(&self, port: PortId, tenancy: u32) {
        let geometry = self.geometry();
        for queue in 0..geometry.queues() {
            let number = geometry.sender(port, queue);
            if let Some(sender) = self.sender(number) {
                sender.paused.store(0, Relaxed);
                sender.belled.store(0, Relaxed);
                for bells in &sender.bells {
                    bells.store(0, Relaxed);
                }
                let next = sender.tx_next.load(Relaxed);
                let positions = [self.tx_producer(port, queue), self.tx_consumer(port, queue)];
                for position in positions.into_iter().flatten() {
                    position.store(next, Relaxed);
                }
            }
            // None of the words by which frames are published: the first such word is another one, at
            // whatever position.
            if let Some(latest) = self.latest(port, queue) {
                latest.store(LOOK_AGAIN, Relaxed);
            }
            for lane in 0..geometry.lanes() {
                let words = (
                    self.lane(number, lane),
                    self.published(port, queue, lane),
                    self.consumed(port, queue, lane),
                );
                if let (Some(lane), Some(published), Some(consumed)) = words {
                    let position = Published::from_word(lane.published.load(Relaxed)).position;
                    published.store(Published { position, tenancy }.word(), Relaxed);
                    consumed.store(position, Relaxed);
                }
            }
        }
    }

    /// Sets the counters of what a port sent and received to zero.
    fn clear_counters(&self, port: PortId) {
        let geometry = self.geometry();
        if let Some(state) = self.port(port) {
            state.refused.store(0, Relaxed);
        }
        for queue in 0..geometry.queues() {
            let number = geometry.sender(port, queue);
            if let Some(sender) = self.sender(number) {
                sender.clear_counters();
            }
            for lane in (0..geometry.lanes()).filter_map(|lane| self.lane(number, lane)) {
                lane.clear_counters();
            }
        }
    }

    /// Takes the lanes that a port's senders hold in all RX queues. None of their calls may be going
    /// on.
    fn release_lanes(&self, port: PortId) {
        let geometry = self.geometry();
        let senders = (0..geometry.queues()).map(|queue| geometry.sender(port, queue));
        for sender in senders {
            for queue in 0..geometry.senders() {
                if let Some(link) = self.link(sender, queue) {
                    link.state.store(0, Relaxed);
                }
                if let Some((number, lane)) = self.lane_from(sender, queue) {
                    self.publish_again(queue, number);
                    // Release: the next holder sees the positions where this one left them.
                    lane.holder.store(LANE_FREE | (sender + 1), Release);
                }
            }
        }
    }

    /// Writes a window's header, its magic number last.
    fn write_header(&self, window: *mut u8, header: &WindowHeader) {
        let at = |offset: usize| window.wrapping_add(offset);
        // SAFETY: all fields lie in the window's first line and are aligned for their type, as the
        // structure is; `from_base`'s caller vouched for the window.
        unsafe {
            let u64_at = |offset| AtomicU64::from_ptr(at(offset).cast());
            let u32_at = |offset| AtomicU32::from_ptr(at(offset).cast());
            use core::mem::offset_of;
            for (offset, value) in [
                (offset_of!(WindowHeader, abi_version), header.abi_version),
                (offset_of!(WindowHeader, ports), header.ports),
                (offset_of!(WindowHeader, queues), header.queues),
                (offset_of!(WindowHeader, ring), header.ring),
                (offset_of!(WindowHeader, lane), header.lane),
                (offset_of!(WindowHeader, port), header.port),
                (offset_of!(WindowHeader, tenancy), header.tenancy),
                (offset_of!(WindowHeader, features), header.features),
            ] {
                u32_at(offset).store(value, Relaxed);
            }
            u64_at(offset_of!(WindowHeader, size)).store(header.size, Relaxed);
            u64_at(offset_of!(WindowHeader, secret)).store(header.secret.word(), Relaxed);
            let store = |offset, bytes: &[u8]| {
                for (i, byte) in bytes.iter().enumerate() {
                    AtomicU8::from_ptr(at(offset + i)).store(*byte, Relaxed);
                }
            };
            store(offset_of!(WindowHeader, mac), &header.mac);
            store(offset_of!(WindowHeader, lanes), &header.lanes.to_ne_bytes());
            u64_at(offset_of!(WindowHeader, magic)).store(header.magic, Release);
        }
    }
}

impl SenderState {
    fn clear_counters(&self) {
        let own = [
            &self.calls,
            &self.ended,
            &self.frames,
            &self.bytes,
            &self.learned,
            &self.moved,
        ];
        for counter in own.into_iter().chain(&self.drops) {
            counter.store(0, Relaxed);
        }
    }
}

impl LaneState {
    fn clear_counters(&self) {
        for counter in [&self.frames, &self.bytes, &self.drops] {
            counter.store(0, Relaxed);
        }
    }
}
