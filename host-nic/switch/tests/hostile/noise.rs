//! Memory full of noise, and requests of any kind.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::*};
use std::{mem, ptr};

use postern_abi::PAGE_SIZE;
use postern_abi::service::{
    ERR_BAD_REQUEST, ERR_NO_SECRET, OP_FEATURES, OP_NOP, OP_TX, TX_BELL, TX_MORE, TX_QUEUE_SHIFT,
    tx_flags,
};
use postern_abi::window::{FEATURES, Geometry, LINE_SIZE, PortId};
use postern_switch::credentials::Credentials;
use postern_switch::layout::{self, memory_size, window_offset};
use postern_switch::state::{self, LANE_FREE, LaneState, PortState, SenderState, State};
use postern_switch::switch::Switch;
use proptest::prelude::*;

use crate::common::build::{Build, map_at};
use crate::common::port;
use crate::common::{Guest, SMALL, TestNic, geometry, secret};

const PAGE: usize = PAGE_SIZE as usize;

/// Memory of a NIC between two pages that fault, filled with noise.
struct Fenced {
    base: *mut u8,
    size: usize,
}

impl Fenced {
    fn new(build: Build, geometry: Geometry, seed: u64) -> Fenced {
        let size = memory_size(geometry) as usize;
        let base = match build.fixed_base() {
            Some(base) => map_at(base - PAGE as u64, (size + 2 * PAGE) as u64, None),
            None => {
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
                // SAFETY: it makes a new anonymous mapping, at any address.
                unsafe { libc::mmap(ptr::null_mut(), size + 2 * PAGE, 3, flags, -1, 0) }.cast()
            }
        };
        assert_ne!(base.cast(), libc::MAP_FAILED);
        // SAFETY: these are the first and the last page of the new mapping.
        let base = unsafe {
            assert_eq!(libc::mprotect(base.cast(), PAGE, libc::PROT_NONE), 0);
            let behind = base.add(PAGE + size);
            assert_eq!(libc::mprotect(behind.cast(), PAGE, libc::PROT_NONE), 0);
            base.add(PAGE)
        };
        let fenced = Fenced { base, size };
        let mut word = seed | 1;
        for cell in fenced.words() {
            word ^= word << 13;
            word ^= word >> 7;
            word ^= word << 17;
            cell.store(word, Relaxed);
        }
        fenced
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is page aligned, open, of that size, and accessed atomically only.
        unsafe { std::slice::from_raw_parts(self.base.cast(), self.size / 8) }
    }
}

/// The words of a link, `postern_switch::state::Link`: offset of the state in bytes, of the queue's words
/// and of the lane in pages, and the number of the lane.
#[derive(Clone, Copy, Debug)]
struct Link([u32; 4]);

impl Link {
    /// The link to a lane of queue 0 of a port.
    fn to(geometry: Geometry, to: PortId, lane: u32) -> Link {
        let state = layout::lane_offset(geometry, geometry.rx_queue(to, 0), lane);
        let window = window_offset(geometry, to);
        let page = |offset: u64| ((window + offset) / PAGE_SIZE) as u32;
        let (words, ring) = (geometry.latest_offset(0), geometry.lane_offset(0, lane));
        Link([state as u32, page(words), page(ring), lane])
    }
}

impl Fenced {
    /// Sets a sender's link to its lane in an RX queue, both numbered in the whole NIC.
    fn link(&self, geometry: Geometry, sender: u32, queue: u32, Link(words): Link) {
        let links = layout::sender_offset(geometry, sender) as usize + size_of::<SenderState>();
        let link = (links + queue as usize * size_of::<state::Link>()) / 8;
        for (cell, pair) in self.words()[link..].iter().zip(words.chunks(2)) {
            cell.store(u64::from(pair[0]) | u64::from(pair[1]) << 32, Relaxed);
        }
    }
}

impl Drop for Fenced {
    fn drop(&mut self) {
        // SAFETY: the mapping belongs to `self`.
        unsafe { libc::munmap(self.base.sub(PAGE).cast(), self.size + 2 * PAGE) };
    }
}

/// The parts of the memory that calls of a vCPU may change: in the state, the forwarding database
/// and the parts of its own port and sender; in its own window, the TX consumers; in other windows,
/// its own lanes.
///
/// `takes` says of an RX queue and a lane whether the lane is the caller's, or nobody's.
fn allowed(
    geometry: Geometry,
    caller: Credentials,
    vcpu: u32,
    takes: impl Fn(u32, u32) -> bool,
) -> Vec<Range<usize>> {
    let range = |start: u64, size: u64| start as usize..(start + size) as usize;
    let fdb = mem::offset_of!(State, fdb) as u64;
    let generation = mem::offset_of!(State, generation) as u64;
    let mut parts = vec![
        range(fdb, size_of::<State>() as u64 - fdb),
        range(generation, 8),
    ];
    let own_port = layout::port_offset(caller.port().number());
    parts.push(range(own_port, size_of::<PortState>() as u64));
    let number = geometry.sender(caller.port(), vcpu);
    let sender = layout::sender_offset(geometry, number);
    parts.push(range(sender, layout::sender_stride(geometry)));
    let own = window_offset(geometry, caller.port());
    for queue in 0..geometry.queues() {
        let of_queue = layout::sender_offset(geometry, geometry.sender(caller.port(), queue));
        // The position of the queue, and how far its first frame came.
        parts.push(range(of_queue, LINE_SIZE));
        parts.push(range(own + geometry.tx_consumer_offset(queue), 4));
        parts.push(range(own + geometry.bells_offset(queue), 32));
    }
    for to in geometry.all_ports().filter(|to| *to != caller.port()) {
        let window = window_offset(geometry, to);
        // Tokens of the port's buckets, and hits of its rules.
        let policies = layout::port_offset(to.number());
        parts.push(range(policies, size_of::<PortState>() as u64));
        for queue in 0..geometry.queues() {
            parts.push(range(window + geometry.latest_offset(queue), 8));
            parts.push(range(window + geometry.used_offset(queue), 32));
            let rx_queue = geometry.rx_queue(to, queue);
            let wanted = mem::offset_of!(LaneState, wanted) as u64;
            parts.push(range(
                layout::lane_offset(geometry, rx_queue, 0) + wanted,
                8,
            ));
            for lane in (0..geometry.lanes()).filter(|lane| takes(rx_queue, *lane)) {
                let state = layout::lane_offset(geometry, rx_queue, lane);
                parts.push(range(state, size_of::<LaneState>() as u64));
                parts.push(range(window + geometry.published_offset(queue, lane), 8));
                parts.push(range(window + geometry.sender_offset(queue, lane), 1));
                let lane = geometry.lane_offset(queue, lane);
                parts.push(range(window + lane, geometry.lane().into()));
            }
        }
    }
    parts
}

fn any_build() -> impl Strategy<Value = Build> {
    prop::sample::select(&Build::ALL[..])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 90, failure_persistence: None, ..ProptestConfig::default() })]
    /// State and windows are full of noise, positions, tenancies and forwarding database included.
    /// Calls end, stay in the memory, and change only what belongs to the caller.
    #[test]
    fn noise_everywhere(
        build in any_build(),
        seed: u64,
        ports in 2u32..=12,
        queues in 1u32..=3,
        number in 0u32..12,
        vcpu in 0u32..3,
        // Positions close enough for calls to do something.
        filled in 0u32..300,
        key: [u64; 2],
        // Whether the caller has links to lanes, or noise instead.
        linked: bool,
        // How many of the records are ordinary ones, in 256ths.
        ordinary in 0u64..=256,
        requests in prop::collection::vec((any::<u64>(), 0u32..3, any::<bool>()), 1..4),
    ) {
        let geometry = geometry(ports, queues, SMALL, SMALL);
        let port = geometry.port(number % ports).unwrap();
        let (vcpu, filled) = (vcpu % queues, filled * 16);
        let caller = Credentials::new(geometry, port, 0x1234_5678, secret(7));
        let loaded = build.load();
        let memory = Fenced::new(build, geometry, seed);
        // SAFETY: the memory is of that geometry.
        let switch = unsafe { Switch::from_base(memory.base, geometry) };
        let state = switch.state();
        state.tenancy[port.index()].store(caller.tenancy(), Relaxed);
        state.key[0].store(key[0], Relaxed);
        state.key[1].store(key[1], Relaxed);
        for queue in 0..queues {
            let sender = switch.sender(geometry.sender(port, queue)).unwrap();
            let next = sender.tx_next.load(Relaxed) & !15;
            sender.tx_next.store(next, Relaxed);
            let producer = switch.tx_producer(port, queue).unwrap();
            producer.store(next.wrapping_add(filled), Relaxed);
            // SAFETY: the ring has that size, and all of it is accessed atomically.
            let ring = unsafe {
                let ring = switch.tx_ring(port, queue).unwrap();
                std::slice::from_raw_parts(ring.cast::<AtomicU64>(), SMALL as usize / 8)
            };
            for record in ring.chunks(8) {
                let word = record[0].load(Relaxed);
                if word >> 56 < ordinary {
                    record[0].store(14 + word % 35, Relaxed);
                    record[1].store(0, Relaxed);
                }
            }
        }
        for to in geometry.all_ports() {
            // Half of the lanes get room, the others stay as they are.
            let own = geometry.sender(port, vcpu);
            let queue = geometry.rx_queue(to, 0);
            let number = (own + to.number()) % geometry.lanes();
            let lane = switch.lane(queue, number).unwrap();
            let consumed = switch.consumed(to, 0, number).unwrap();
            match to.number() % 4 {
                0 => lane.holder.store(own + 1, Relaxed),
                1 => lane.holder.store(LANE_FREE | 7, Relaxed),
                2 => lane.holder.store(0, Relaxed),
                _ => continue,
            }
            consumed.store(lane.published.load(Relaxed) as u32 & !15, Relaxed);
            if linked {
                memory.link(geometry, own, queue, Link::to(geometry, to, number));
            }
        }
        let before_lanes: Vec<Vec<u32>> = (0..geometry.senders())
            .map(|queue| {
                let lanes = (0..geometry.lanes()).map(|lane| switch.lane(queue, lane).unwrap());
                lanes.map(|lane| lane.holder.load(Relaxed)).collect()
            })
            .collect();
        let before: Vec<u64> = memory.words().iter().map(|word| word.load(Relaxed)).collect();
        for (count, queue, hold) in requests {
            let request = [caller.secret().request(OP_TX), count, tx_flags(queue % queues, hold)];
            // SAFETY: the memory is of the caller's geometry.
            let result = unsafe { loaded.serve(memory.base, &caller, vcpu, request) };
            prop_assert!(result & !(TX_MORE | TX_BELL) <= u64::from(filled / 16).min(256));
        }
        let own = geometry.sender(port, vcpu) + 1;
        let allowed = allowed(geometry, caller, vcpu, |queue, lane| {
            let holder = before_lanes[queue as usize][lane as usize];
            holder == 0 || holder == own || holder & LANE_FREE != 0
        });
        for (i, (word, before)) in memory.words().iter().zip(&before).enumerate() {
            let changed = (word.load(Relaxed) ^ before).to_le_bytes();
            for (byte, _) in changed.iter().enumerate().filter(|(_, changed)| **changed != 0) {
                let at = 8 * i + byte;
                prop_assert!(allowed.iter().any(|part| part.contains(&at)), "{at:#x}");
            }
        }
    }

    /// Wherever links lead, calls end, and stay in the memory.
    #[test]
    fn links_lead_anywhere(
        build in any_build(),
        seed: u64,
        // What the links have of the caller's lane, and what is noise in a range in which calls believe
        // some of it.
        parts in 0u32..16,
        noise in prop::array::uniform4(0u32..4000),
        state in 0u32..400_000,
    ) {
        let geometry = geometry(4, 1, SMALL, SMALL);
        let port = port(1);
        let caller = Credentials::new(geometry, port, 9, secret(9));
        let loaded = build.load();
        let memory = Fenced::new(build, geometry, seed);
        // SAFETY: the memory is of that geometry.
        let switch = unsafe { Switch::from_base(memory.base, geometry) };
        for to in geometry.all_ports() {
            switch.state().tenancy[to.index()].store(9, Relaxed);
            for lane in 0..geometry.lanes() {
                let lane = switch.lane(to.number(), lane).unwrap();
                lane.holder.store(2, Relaxed);
                lane.published.store(9 << 32, Relaxed);
                lane.limit.store(9 << 32 | u64::from(SMALL), Relaxed);
            }
            let Link(mut words) = Link::to(geometry, to, 1);
            let noise = [state, noise[1], noise[2], noise[3]];
            for (index, (word, noise)) in words.iter_mut().zip(noise).enumerate() {
                if parts >> index & 1 == 0 {
                    *word = noise;
                }
            }
            memory.link(geometry, 1, to.number(), Link(words));
        }
        switch.state().attached[0].store(0xf, Relaxed);
        switch.state().mode[1].store(0, Relaxed);
        let sender = switch.sender(1).unwrap();
        sender.tx_next.store(0, Relaxed);
        switch.tx_producer(port, 0).unwrap().store(80, Relaxed);
        // SAFETY: the ring has that size, and all of it is accessed atomically.
        let ring = unsafe {
            std::slice::from_raw_parts(switch.tx_ring(port, 0).unwrap().cast::<AtomicU64>(), 4)
        };
        for (cell, word) in ring.iter().zip([64, 0, u64::MAX >> 16, 0x1234_5678]) {
            cell.store(word, Relaxed);
        }
        let request = [caller.secret().request(OP_TX), 1, 0];
        // SAFETY: the memory is of the caller's geometry.
        let result = unsafe { loaded.serve(memory.base, &caller, 0, request) };
        prop_assert_eq!(result & !(TX_MORE | TX_BELL), 1);
    }

    /// Any request of any caller is refused or served.
    #[test]
    fn any_request(
        build in any_build(),
        tenancy in prop_oneof![1u32..12, 1u32..],
        number in 0u32..2,
        vcpu in prop_oneof![0u32..4, any::<u32>()],
        op in prop_oneof![0u64..4, any::<u64>()],
        a in prop_oneof![0u64..300, any::<u64>()],
        b in prop_oneof![0u64..16, any::<u64>()],
        own: bool,
        with_secret: bool,
    ) {
        let nic = TestNic::new(build, geometry(2, 2, SMALL, SMALL));
        let guest = Guest::attach(&nic, 1, 9);
        let caller = match own {
            true => guest.caller,
            false => Credentials::new(nic.geometry(), port(number), tenancy, secret(tenancy)),
        };
        let own = caller == guest.caller;
        let request = if with_secret { caller.secret().request(op) } else { op };
        let result = nic.serve(&caller, vcpu, [request, a, b]);
        let expected = match op {
            OP_NOP if own || !with_secret => 0,
            _ if own && (!with_secret || op > OP_FEATURES) => ERR_NO_SECRET,
            // Of two queues, for each of two vCPUs.
            OP_TX if own && b >> TX_QUEUE_SHIFT < 2 && vcpu < 2 => 0,
            OP_FEATURES if own && b == 0 && a & !u64::from(FEATURES) == 0 => a,
            _ => ERR_BAD_REQUEST,
        };
        prop_assert_eq!(result, expected);
    }
}
