//! Tenants come and go: what the owner of a NIC does with a port between two guests.
//!
//! Only the host calls these, one at a time. Calls of other ports go on meanwhile, so nothing here
//! relies on their standing still: a new tenant's indices begin where the switch has them, rather than
//! at a number that a call in progress could contradict.
//!
//! A call of another port that was stopped in the middle of a delivery to the former tenant writes
//! to unpublished slots of the same lane when it goes on, and then finds another tenant
//! and publishes nothing. If it was stopped between that look and the store that publishes, two
//! instructions apart, the frames of that one batch reach the new tenant.

use core::sync::atomic::{
    AtomicU8, AtomicU32, AtomicU64,
    Ordering::{AcqRel, Relaxed, Release},
};

use postern_abi::window::{PortId, WindowHeader};

use crate::state::SenderState;
use crate::switch::Switch;

impl Switch<'_> {
    /// Ends a tenancy: the port receives nothing more, its tenant's calls are refused, and its
    /// stations are forgotten.
    pub fn evict(&self, port: PortId) {
        let state = self.state();
        state.attached.fetch_and(!(1 << port.number()), AcqRel);
        state.tenancy[port.index()].store(0, Release);
        state.table.forget(port);
    }

    /// Begins a tenancy: ends the former one, clears the window, gives it a new header, and lets
    /// all its rings begin empty. Does nothing if the port is not one of this NIC's.
    ///
    /// `tenancy` must not be 0, nor a number that a former tenant still around has.
    pub fn admit(&self, port: PortId, tenancy: u32, mac: [u8; 6]) {
        let Some(window) = self.window(port) else {
            return;
        };
        self.evict(port);
        self.clear(window);
        self.start_own_rings(port);
        self.mend_lanes_to_others(port);
        self.state().sender(port).clear_counters();
        self.write_header(window, &WindowHeader::new(self.geometry(), port, mac));
        self.state().tenancy[port.index()].store(tenancy, Release);
        self.state().attached.fetch_or(1 << port.number(), AcqRel);
    }

    fn clear(&self, window: *mut u8) {
        for offset in (0..self.geometry().window_size() as usize).step_by(8) {
            // SAFETY: within the window, aligned; `from_base`'s caller vouched for it.
            let word = unsafe { AtomicU64::from_ptr(window.add(offset).cast()) };
            word.store(0, Relaxed);
        }
    }

    /// The rings of the port's own window: empty, at the indices that the switch has.
    fn start_own_rings(&self, port: PortId) {
        if let Some(tx) = self.tx(port) {
            let next = self.state().sender(port).tx_next.load(Relaxed);
            tx.publish_producer(next);
            tx.publish_consumer(next);
        }
        for from in self.geometry().all_ports() {
            let state = self.state().sender(from).lane(port);
            if let Some(lane) = self.lane(from, port) {
                let next = state.producer.load(Relaxed);
                lane.publish_producer(next);
                lane.publish_consumer(next);
            }
            state.frames.store(0, Relaxed);
            state.drops.store(0, Relaxed);
        }
    }

    /// The lanes that the port feeds, where the former tenant's concurrent calls left index pairs that
    /// are invalid for ever. What its receivers have not read of such a lane is gone.
    fn mend_lanes_to_others(&self, port: PortId) {
        for to in self.geometry().all_ports().filter(|to| *to != port) {
            let state = self.state().sender(port).lane(to);
            let Some(lane) = self.lane(port, to) else {
                continue;
            };
            let consumer = lane.consumer();
            let producer = state.producer.load(Relaxed);
            if self.geometry().filled(producer, consumer).is_none() {
                state.producer.store(consumer, Relaxed);
                lane.publish_producer(consumer);
            } else {
                lane.publish_producer(producer);
            }
            state.consumer.store(consumer, Relaxed);
        }
    }

    fn write_header(&self, window: *mut u8, header: &WindowHeader) {
        let at = |offset: usize| window.wrapping_add(offset);
        // SAFETY: all fields lie in the window's first line and are aligned for their type, as the
        // structure is; `from_base`'s caller vouched for the window.
        unsafe {
            let u64_at = |offset| AtomicU64::from_ptr(at(offset).cast());
            let u32_at = |offset| AtomicU32::from_ptr(at(offset).cast());
            use core::mem::offset_of;
            u32_at(offset_of!(WindowHeader, abi_version)).store(header.abi_version, Relaxed);
            u32_at(offset_of!(WindowHeader, ports)).store(header.ports, Relaxed);
            u32_at(offset_of!(WindowHeader, slots)).store(header.slots, Relaxed);
            u32_at(offset_of!(WindowHeader, port)).store(header.port, Relaxed);
            u64_at(offset_of!(WindowHeader, size)).store(header.size, Relaxed);
            for (i, byte) in header.mac.iter().enumerate() {
                AtomicU8::from_ptr(at(offset_of!(WindowHeader, mac) + i)).store(*byte, Relaxed);
            }
            u64_at(offset_of!(WindowHeader, magic)).store(header.magic, Release);
        }
    }
}

impl SenderState {
    fn clear_counters(&self) {
        let own = [&self.frames, &self.bytes, &self.learned, &self.moved];
        let lanes = self
            .lanes
            .iter()
            .flat_map(|lane| [&lane.frames, &lane.drops]);
        for counter in own.into_iter().chain(&self.drops).chain(lanes) {
            counter.store(0, Relaxed);
        }
    }
}
