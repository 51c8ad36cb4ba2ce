//! A NIC in plain memory, and guests whose ends of the rings follow those of guest-lib
//! (`postern_guest::ring`: `TxQueue`, `RxQueue`) line by line.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]
#![allow(dead_code, reason = "each test uses a part")]

use std::alloc::{Layout, alloc_zeroed};

use postern_abi::service::{OP_TX, Secret, TX_HOLD};
use postern_abi::window::{
    Geometry, KIND_PAD, PAD_WORD, PortId, Published, RecordHeader, record_size,
};
use postern_nic_models::credentials::Credentials;
use postern_nic_models::layout::{memory_size, window_offset};
use postern_nic_models::state::State;
use postern_nic_models::switch::{Switch, serve};
use postern_nic_models::sync::modelled::{Mutation, begin, mutate, share_one_way};
use postern_nic_models::sync::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

/// Size of each ring and each lane in bytes.
pub const SIZE: u32 = 4096;
/// Size in bytes of the record of a frame of [`SHORT`] bytes.
pub const RECORD: u32 = 32;
/// Length in bytes of frames so short that a record is four words, all of them atomics.
pub const SHORT: u32 = 14;

/// The secret of a tenancy of this number.
pub fn secret(tenancy: u32) -> Secret {
    Secret::from_word(0x5ec2_0000_0000_0000 + (u64::from(tenancy) << 16))
}

/// The memory of a NIC, used by all executions of a model.
#[derive(Clone, Copy)]
pub struct ModelNic {
    pub base: *mut u8,
    pub geometry: Geometry,
}

// SAFETY: the threads of a model take turns on one thread of the system.
unsafe impl Send for ModelNic {}
// SAFETY: the threads of a model take turns on one thread of the system.
unsafe impl Sync for ModelNic {}

pub fn port(number: u32) -> PortId {
    PortId::new(number).unwrap()
}

pub fn mac(number: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, number]
}

/// The two words of a frame of [`SHORT`] bytes: its addresses, and a tag of two bytes.
pub fn frame(to: u8, from: u8, tag: u16) -> [u64; 2] {
    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(&mac(to));
    bytes[6..12].copy_from_slice(&mac(from));
    bytes[12..14].copy_from_slice(&tag.to_le_bytes());
    [0, 8].map(|at| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()))
}

impl ModelNic {
    /// A NIC with one queue a port, and a lane for each sender.
    pub fn new(ports: u32) -> ModelNic {
        ModelNic::with_lanes(ports, ports)
    }

    /// A NIC with one queue a port, which has so many lanes.
    pub fn with_lanes(ports: u32, lanes: u32) -> ModelNic {
        let geometry = Geometry::new(ports, 1, SIZE, SIZE).unwrap();
        let geometry = geometry.with_lanes(lanes).unwrap();
        let layout = Layout::from_size_align(memory_size(geometry) as usize, 4096).unwrap();
        // SAFETY: the size is not 0. The memory is never freed, as a model has one NIC.
        let base = unsafe { alloc_zeroed(layout) };
        assert!(!base.is_null());
        ModelNic { base, geometry }
    }

    /// Makes the NIC new, with a tenant of tenancy 1 at each port and no word shared.
    pub fn reset(&self) {
        begin();
        // SAFETY: the memory has that size, and no thread uses it now.
        unsafe {
            self.base
                .write_bytes(0, memory_size(self.geometry) as usize)
        };
        let state = self.state();
        state.generation.store(1, Relaxed);
        state.key[0].store(0x0123_4567_89ab_cdef, Relaxed);
        state.key[1].store(0xfedc_ba98_7654_3211, Relaxed);
        state.set_geometry(self.geometry);
        for number in 0..self.geometry.ports() {
            self.switch()
                .admit(port(number), 1, secret(1), mac(number as u8));
        }
    }

    pub fn state(&self) -> &'static State {
        // SAFETY: the memory begins with the state and is never freed.
        unsafe { State::at(self.base) }
    }

    pub fn switch(&self) -> Switch<'static> {
        // SAFETY: the memory is of that geometry and never freed.
        unsafe { Switch::from_base(self.base, self.geometry) }
    }

    /// Makes a call of tenancy 1 of a port, for `count` frames.
    pub fn call(&self, number: u32, count: u64, hold: bool) -> u64 {
        let tenancy = 1;
        let caller = Credentials::new(self.geometry, port(number), tenancy, secret(tenancy));
        let flags = if hold { TX_HOLD } else { 0 };
        // SAFETY: the memory is of that geometry, and tests make one call of a port at a time.
        unsafe {
            serve(
                self.base,
                &caller,
                0,
                secret(tenancy).request(OP_TX),
                count,
                flags,
            )
        }
    }

    fn at(&self, number: u32, offset: u64) -> *mut u8 {
        let window = window_offset(self.geometry, port(number));
        // SAFETY: the offset is one of the geometry's, so it lies in the window.
        unsafe { self.base.add((window + offset) as usize) }
    }

    pub fn word(&self, number: u32, offset: u64) -> &'static AtomicU32 {
        // SAFETY: tests ask for aligned words of the window, whose memory is never freed.
        unsafe { AtomicU32::from_ptr(self.at(number, offset).cast()) }
    }

    pub fn long(&self, number: u32, offset: u64) -> &'static AtomicU64 {
        // SAFETY: tests ask for aligned words of the window, whose memory is never freed.
        unsafe { AtomicU64::from_ptr(self.at(number, offset).cast()) }
    }

    /// Lets loom decide about the words of 8 bytes of a part of a window.
    pub fn share_longs(&self, number: u32, from: u64, bytes: u64) {
        for offset in (from..from + bytes).step_by(8) {
            share_one_way(self.at(number, offset), 8);
        }
    }

    /// Lets loom decide about a word of 4 bytes of a window.
    pub fn share_word(&self, number: u32, offset: u64) {
        share_one_way(self.at(number, offset), 4);
    }

    /// Lets loom decide about the positions of a lane in window and state.
    pub fn share_lane(&self, from: u32, to: u32) {
        self.share_longs(to, self.geometry.latest_offset(0), 8);
        self.share_longs(to, self.geometry.published_offset(0, from), 8);
        self.share_word(to, self.geometry.consumed_offset(0, from));
        share_one_way(self.published_state(from, to), 8);
    }

    /// Address of the NIC's own copy of a lane's published position.
    pub fn published_state(&self, from: u32, to: u32) -> *const u8 {
        (&raw const self.switch().lane(to, from).unwrap().published).cast()
    }
}

/// The guest of a port, with the positions in its own memory.
pub struct Guest {
    pub nic: ModelNic,
    pub number: u32,
    pub tenancy: u32,
    pub producer: u32,
    pub consumed: u32,
    /// The word `latest` when the guest last looked at its lane.
    pub seen: u64,
}

impl Guest {
    /// Opens a port as `TxQueue::new` and `RxQueue::new` do. Its lane is that from port `from`.
    pub fn new(nic: ModelNic, number: u32, from: u32, tenancy: u32) -> Guest {
        let consumer = nic.word(number, nic.geometry.tx_consumer_offset(0));
        let consumed = nic.word(number, nic.geometry.consumed_offset(0, from));
        Guest {
            nic,
            number,
            tenancy,
            producer: consumer.load(Acquire),
            consumed: consumed.load(Relaxed),
            seen: u64::MAX,
        }
    }

    /// Sends a frame as `TxQueue::write` and `TxQueue::commit` do. Returns false if there is no
    /// room.
    pub fn send(&mut self, words: [u64; 2]) -> bool {
        let geometry = self.nic.geometry;
        let consumer = self
            .nic
            .word(self.number, geometry.tx_consumer_offset(0))
            .load(Acquire);
        let mut free = SIZE - Geometry::filled(SIZE, self.producer, consumer).unwrap();
        let mut offset = self.producer & (SIZE - 1);
        let to_end = SIZE - offset;
        if to_end < RECORD && to_end <= free {
            self.put(offset, &[0, PAD_WORD]);
            self.producer = self.producer.wrapping_add(to_end);
            (free, offset) = (free - to_end, 0);
        }
        if free < RECORD || SIZE - offset < RECORD {
            return false;
        }
        self.put(offset, &[SHORT.into(), 0, words[0], words[1]]);
        self.producer = self.producer.wrapping_add(RECORD);
        self.nic
            .word(self.number, geometry.tx_producer_offset(0))
            .store(self.producer, Release);
        true
    }

    /// Writes words at an offset of the TX ring.
    pub fn put(&self, offset: u32, words: &[u64]) {
        let ring = self.nic.geometry.tx_ring_offset(0) + u64::from(offset);
        for (index, word) in (0u64..).zip(words) {
            self.nic
                .long(self.number, ring + index * 8)
                .store(*word, Relaxed);
        }
    }

    /// Receives all frames of the lane from a port as `RxQueue::receive` does. Returns their tags.
    pub fn receive(&mut self, from: u32) -> Vec<u16> {
        let geometry = self.nic.geometry;
        let latest = self.nic.long(self.number, geometry.latest_offset(0));
        let latest = latest.load(Acquire);
        if latest == self.seen {
            return Vec::new();
        }
        self.seen = latest;
        let word = self
            .nic
            .long(self.number, geometry.published_offset(0, from));
        let published = Published::from_word(word.load(Acquire));
        let mut frames = Vec::new();
        if published.tenancy != self.tenancy {
            return frames;
        }
        let filled = Geometry::filled(SIZE, published.position, self.consumed);
        // `RxQueue` takes a lane with such a position as empty; no honest NIC publishes one.
        let mut left = filled.expect("a position that can be");
        if left == 0 {
            return frames;
        }
        while left != 0 {
            let offset = self.consumed & (SIZE - 1);
            let stretch = (SIZE - offset).min(left);
            let lane = geometry.lane_offset(0, from) + u64::from(offset);
            let load = |index: u64| self.nic.long(self.number, lane + index * 8).load(Relaxed);
            let header = RecordHeader::from_words(load(0), load(1));
            let record = if header.kind == KIND_PAD {
                stretch
            } else {
                let record = record_size(header.length) as u32;
                assert!(header.length >= SHORT && record <= stretch, "{header:?}");
                let (first, second) = (load(2), load(3));
                assert_eq!(first as u8, 2, "a frame: {first:#x} {second:#x}");
                frames.push((second >> 32) as u16);
                record
            };
            self.consumed = self.consumed.wrapping_add(record);
            left -= record;
        }
        self.nic
            .word(self.number, geometry.consumed_offset(0, from))
            .store(self.consumed, Release);
        frames
    }
}

/// Runs a model with the code under test changed, and at most `bound` preemptions.
pub fn check(mutation: Mutation, bound: usize, model: impl Fn() + Sync + Send + 'static) {
    mutate(mutation);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(bound);
    builder.max_branches = 100_000;
    builder.check(model);
    mutate(Mutation::None);
}
