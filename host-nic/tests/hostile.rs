//! Guests that do everything wrong: none of it reaches anybody else.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod common;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::{ptr, thread};

use common::{BROADCAST, Guest, Stop, frame, geometry, mac, port};
use postern_abi::service::{ERR_BAD_REQUEST, OP_NOP, OP_TX, TX_HOLD};
use postern_abi::window::{BUFFER_SIZE, DESCRIPTOR_SIZE, Geometry, LINE_SIZE, Ring};
use postern_nic::caller::{Caller, memory_size, window_offset};
use postern_nic::memory::Memory;
use postern_nic::state::{Cause, SenderState, State};
use postern_nic::switch::serve;
use proptest::prelude::*;

/// Memory of a NIC between two pages that fault, with any content.
struct Fenced {
    base: *mut u8,
    size: usize,
}

const PAGE: usize = 4096;

impl Fenced {
    fn new(geometry: Geometry, seed: u64) -> Fenced {
        let size = memory_size(geometry) as usize;
        // SAFETY: a new anonymous mapping, of which all but the first and the last page is opened.
        let base = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let base = libc::mmap(ptr::null_mut(), size + 2 * PAGE, 0, flags, -1, 0);
            assert_ne!(base, libc::MAP_FAILED);
            let base = base.cast::<u8>().add(PAGE);
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            assert_eq!(libc::mprotect(base.cast(), size, prot), 0);
            base
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

    fn state(&self) -> &State {
        // SAFETY: the mapping begins with a state, whatever it holds.
        unsafe { State::at(self.base) }
    }
}

impl Drop for Fenced {
    fn drop(&mut self) {
        // SAFETY: the mapping belongs to `self`.
        unsafe { libc::munmap(self.base.sub(PAGE).cast(), self.size + 2 * PAGE) };
    }
}

/// The parts of the memory that calls of a port may change.
fn allowed(geometry: Geometry, caller: Caller) -> Vec<Range<usize>> {
    let range = |start: usize, size: usize| start..start + size;
    let table = std::mem::offset_of!(State, table);
    let senders = std::mem::offset_of!(State, senders);
    let sender = senders + caller.port.index() * size_of::<SenderState>();
    let mut parts = vec![range(table, senders - table)];
    parts.push(range(sender, size_of::<SenderState>()));
    let own = window_offset(geometry, caller.port) as usize;
    parts.push(range(own + geometry.consumer_offset(Ring::TX) as usize, 4));
    for to in geometry.all_ports().filter(|to| *to != caller.port) {
        let window = window_offset(geometry, to) as usize;
        let lane = Ring::lane(caller.port);
        let at = |offset: u64| window + offset as usize;
        let slots = geometry.slots() as usize;
        parts.push(range(at(geometry.producer_offset(lane)), 4));
        let descriptors = slots * DESCRIPTOR_SIZE as usize;
        parts.push(range(at(geometry.descriptor_offset(lane, 0)), descriptors));
        let buffers = slots * BUFFER_SIZE as usize;
        parts.push(range(at(geometry.buffer_offset(lane, 0)), buffers));
    }
    parts
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]
    /// State and windows full of noise, including indices, tenancies and MAC table: calls end, stay in the
    /// memory, and change nothing but what belongs to the caller.
    #[test]
    fn noise_everywhere(
        seed: u64,
        ports in 2u32..=16,
        number in 0u32..16,
        // Indices close enough for calls to do something.
        filled in 0u32..80,
        key: [u64; 2],
        requests in prop::collection::vec((any::<u64>(), any::<bool>()), 1..4),
    ) {
        let slots = if ports < 4 { 64 } else { 16 };
        let geometry = geometry(ports, slots);
        let port = geometry.port(number % ports).unwrap();
        let caller = Caller { geometry, port, tenancy: 0x1234_5678 };
        let memory = Fenced::new(geometry, seed);
        let state = memory.state();
        state.tenancy[port.index()].store(caller.tenancy, Relaxed);
        state.key[0].store(key[0], Relaxed);
        state.key[1].store(key[1], Relaxed);
        // SAFETY: the memory is of that geometry.
        let switch = unsafe { postern_nic::switch::Switch::from_base(memory.base, geometry) };
        let tx = switch.tx(port).unwrap();
        tx.publish_producer(state.sender(port).tx_next.load(Relaxed).wrapping_add(filled));
        for index in 0..slots {
            // Half of the descriptors valid, the others as they are.
            if index % 2 == 0 {
                tx.set_descriptor(index, tx.descriptor(index) & 0x7ff);
            }
        }
        for to in geometry.all_ports() {
            // Half of the lanes with room, the others as they are.
            if to.number() % 2 == 0 {
                let lane = switch.lane(port, to).unwrap();
                lane.publish_consumer(state.sender(port).lane(to).producer.load(Relaxed));
            }
        }
        let before: Vec<u64> = memory.words().iter().map(|word| word.load(Relaxed)).collect();
        let mut taken = 0;
        for (count, hold) in requests {
            let flags = if hold { TX_HOLD } else { 0 };
            // SAFETY: the memory is of the caller's geometry.
            let result = unsafe { serve(memory.base, caller.encode(), OP_TX, count, flags) };
            prop_assert!(result <= u64::from(slots));
            taken += result;
        }
        prop_assert!(taken <= u64::from(filled));
        let allowed = allowed(geometry, caller);
        for (i, (word, before)) in memory.words().iter().zip(&before).enumerate() {
            let changed = (word.load(Relaxed) ^ before).to_le_bytes();
            for (byte, _) in changed.iter().enumerate().filter(|(_, changed)| **changed != 0) {
                let at = 8 * i + byte;
                prop_assert!(allowed.iter().any(|part| part.contains(&at)), "{at:#x}");
            }
        }
    }

    /// Any word and any request: refused, or served within the memory.
    #[test]
    fn any_request(word: u64, op in prop_oneof![0u64..4, any::<u64>()], a: u64, b: u64, some: bool) {
        let memory = Memory::create(geometry(2, 16)).unwrap();
        let guest = Guest::attach(&memory, 1, 9);
        let valid = Caller::decode(word);
        prop_assume!(valid.is_none_or(|caller| caller.memory_size() <= memory.size()));
        let word = if some { guest.caller.encode() } else { word };
        let result = guest.raw_call(word, op, a, b);
        let expected = match op {
            OP_NOP => 0,
            OP_TX if some && b & !TX_HOLD == 0 => 0,
            _ => ERR_BAD_REQUEST,
        };
        prop_assert_eq!(result, expected);
    }
}

#[test]
fn a_producer_index_out_of_range_takes_nothing() {
    let memory = Memory::create(geometry(2, 16)).unwrap();
    let mut sender = Guest::attach(&memory, 0, 1);
    let mut receiver = Guest::attach(&memory, 1, 1);
    for (calls, offset) in [17u32, 1000, u32::MAX, 1 << 31].into_iter().enumerate() {
        sender.producer(Ring::TX).store(offset, Release);
        // The guest spoils the consumer as well, and gets it back.
        sender.consumer(Ring::TX).store(0xdead, Release);
        assert_eq!(sender.call(u64::MAX, false), 0);
        assert_eq!(sender.drops(Cause::BadIndex), calls as u64 + 1);
        assert_eq!(sender.consumer(Ring::TX).load(Acquire), 0);
    }
    assert!(receiver.receive(0, 99).is_empty());
    sender.tx = 0;
    sender.send(&frame(mac(1), mac(0), 64, 1));
    assert_eq!(sender.call(1, false), 1);
    assert_eq!(receiver.receive(0, 99), [frame(mac(1), mac(0), 64, 1)]);
}

#[test]
fn every_length_is_taken_or_counted() {
    let memory = Memory::create(geometry(2, 16)).unwrap();
    let mut sender = Guest::attach(&memory, 0, 1);
    let mut receiver = Guest::attach(&memory, 1, 1);
    let (mut short, mut long, mut bad) = (0, 0, 0);
    let lengths = (0..2100).chain([4096, 65535, 65536, 65600, 0x8000_0040, u32::MAX]);
    for length in lengths {
        let bytes = frame(mac(1), mac(0), 2048, length.into());
        sender.send_as(&bytes, length);
        assert_eq!(sender.call(1, true), 1);
        let received = receiver.receive(0, 99);
        match length {
            0..14 => short += 1,
            14..=1514 => {
                assert_eq!(received, [bytes[..length as usize].to_vec()]);
                continue;
            }
            1515..=65535 => long += 1,
            _ => bad += 1,
        }
        assert!(received.is_empty(), "{length}");
    }
    assert_eq!(sender.drops(Cause::TooShort), short);
    assert_eq!(sender.drops(Cause::TooLong), long);
    assert_eq!(sender.drops(Cause::BadDescriptor), bad);
}

#[test]
fn a_receiver_that_never_drains_costs_counted_drops() {
    let memory = Memory::create(geometry(3, 16)).unwrap();
    let mut sender = Guest::attach(&memory, 0, 1);
    let mut deaf = Guest::attach(&memory, 1, 1);
    let mut good = Guest::attach(&memory, 2, 1);
    // The switch knows where both are.
    deaf.send(&frame(BROADCAST, mac(1), 64, 0));
    good.send(&frame(BROADCAST, mac(2), 64, 0));
    assert_eq!((deaf.call(1, false), good.call(1, false)), (1, 1));
    for round in 0..10 {
        for i in 0..8 {
            sender.send(&frame(mac(1), mac(0), 64, i));
            sender.send(&frame(mac(2), mac(0), 64, i));
        }
        assert_eq!(sender.call(u64::MAX, false), 16, "{round}");
        assert_eq!(good.receive(0, 99).len(), 8, "{round}");
    }
    assert_eq!(sender.drops(Cause::Full), 80 - 16);
    // Held back instead: the sender waits at its own frame, with nothing lost.
    sender.send(&frame(mac(1), mac(0), 64, 100));
    sender.send(&frame(mac(2), mac(0), 64, 101));
    assert_eq!(sender.call(2, true), 0);
    assert_eq!(deaf.receive(0, 1).len(), 1);
    assert_eq!(sender.call(2, true), 2);
    assert_eq!(good.receive(0, 9), [frame(mac(2), mac(0), 64, 101)]);
    assert_eq!(sender.drops(Cause::Full), 80 - 16);
    // Broadcast is not held back for one deaf receiver.
    sender.send(&frame(BROADCAST, mac(0), 64, 102));
    assert_eq!(sender.call(1, true), 1);
    assert_eq!(good.receive(0, 9).len(), 1);
    assert_eq!(sender.drops(Cause::Full), 80 - 16 + 1);
}

#[test]
fn a_consumer_index_out_of_range_is_a_full_lane() {
    let memory = Memory::create(geometry(2, 16)).unwrap();
    let mut sender = Guest::attach(&memory, 0, 1);
    let mut liar = Guest::attach(&memory, 1, 1);
    let lane = Ring::lane(port(0));
    for i in 0..16 {
        sender.send(&frame(mac(1), mac(0), 64, i));
    }
    assert_eq!(sender.call(16, false), 16);
    for consumer in [17u32, 0x8000_0000, u32::MAX, u32::MAX - 15] {
        liar.consumer(lane).store(consumer, Release);
        sender.send(&frame(mac(1), mac(0), 64, 99));
        let before = sender.drops(Cause::BadReceiver);
        assert_eq!(sender.call(1, false), 1, "dropped");
        assert_eq!(sender.drops(Cause::BadReceiver), before + 1);
        assert_eq!(sender.producer(Ring::TX).load(Acquire), sender.tx);
    }
    // What had been delivered before is untouched.
    let expected: Vec<_> = (0..16).map(|i| frame(mac(1), mac(0), 64, i)).collect();
    assert_eq!(liar.receive(0, 99), expected);
}

#[test]
fn a_sender_receives_nothing_of_its_own() {
    let memory = Memory::create(geometry(2, 16)).unwrap();
    let mut sender = Guest::attach(&memory, 0, 1);
    let mut other = Guest::attach(&memory, 1, 1);
    sender.send(&frame(BROADCAST, mac(0), 64, 1));
    sender.send(&frame(mac(0), mac(0), 64, 2));
    assert_eq!(sender.call(9, true), 2);
    assert_eq!(sender.receive(0, 9), [] as [Vec<u8>; 0]);
    assert_eq!(other.receive(0, 9).len(), 1);
    assert_eq!(sender.drops(Cause::NoDestination), 1);
}

#[test]
fn group_sources_are_not_learned() {
    let memory = Memory::create(geometry(2, 16)).unwrap();
    let mut sender = Guest::attach(&memory, 0, 1);
    for source in [
        BROADCAST,
        [0x01, 0, 0x5e, 1, 2, 3],
        [0x33, 0x33, 0, 0, 0, 1],
    ] {
        sender.send(&frame(mac(1), source, 64, 1));
    }
    assert_eq!(sender.call(9, false), 3);
    assert_eq!(memory.switch().state().table.entries().count(), 0);
}

#[test]
fn a_new_tenant_inherits_nothing() {
    let memory = Memory::create(geometry(3, 16)).unwrap();
    let mut old = Guest::attach(&memory, 0, 1);
    let mut other = Guest::attach(&memory, 1, 1);
    let mut third = Guest::attach(&memory, 2, 1);
    old.send(&frame(BROADCAST, mac(0), 64, 1));
    assert_eq!(old.call(1, false), 1);
    old.send(&frame(mac(1), mac(0), 64, 2)); // never taken
    for i in 0..5 {
        other.send(&frame(mac(0), mac(1), 64, i)); // never read
    }
    assert_eq!(other.call(9, false), 5);
    // The former tenant breaks its indices before it goes.
    old.consumer(Ring::lane(port(1)))
        .store(0x7777_7777, Release);
    old.producer(Ring::TX).store(0x7777_7777, Release);

    memory.switch().evict(port(0));
    assert_eq!(old.call(1, false), ERR_BAD_REQUEST);
    assert!(
        memory
            .switch()
            .state()
            .table
            .entries()
            .all(|(_, port)| port != 0)
    );
    let mut new = Guest::attach(&memory, 0, 2);
    assert_eq!(old.call(1, false), ERR_BAD_REQUEST, "still");
    // Nothing is left in the whole window behind its header and indices.
    let geometry = memory.geometry();
    let from = geometry.descriptor_offset(Ring::TX, 0);
    for offset in (from..geometry.window_size()).step_by(4) {
        assert_eq!(new.word(offset).load(Relaxed), 0, "{offset:#x}");
    }
    assert_eq!(new.call(9, false), 0);
    assert!(new.receive(1, 9).is_empty());
    // The station is not known any more: flooded, to the new tenant too; and everything works.
    other.send(&frame(mac(0), mac(1), 64, 7));
    assert_eq!(other.call(9, true), 1);
    assert_eq!(new.receive(1, 9), [frame(mac(0), mac(1), 64, 7)]);
    assert_eq!(third.receive(1, 9).len(), 1);
    new.send(&frame(mac(1), mac(5), 64, 8));
    assert_eq!(new.call(9, true), 1);
    assert_eq!(
        other.receive(0, 9).last(),
        Some(&frame(mac(1), mac(5), 64, 8))
    );
}

/// A former tenant's racing calls can leave any index in its own words: the next tenant can send.
#[test]
fn a_new_tenant_gets_working_lanes() {
    let memory = Memory::create(geometry(2, 16)).unwrap();
    let mut receiver = Guest::attach(&memory, 1, 1);
    for (tenancy, index) in (1u32..).zip([0x8000_0000u32, 17, u32::MAX, 3]) {
        let sender = memory.switch().state().sender(port(0));
        sender.lane(port(1)).producer.store(index, Relaxed);
        sender.tx_next.store(index, Relaxed);
        let mut new = Guest::attach(&memory, 0, tenancy);
        // What the former tenant made of the lane is skipped.
        let lane = Ring::lane(port(0));
        receiver.rx[0] = receiver.producer(lane).load(Acquire);
        receiver.consumer(lane).store(receiver.rx[0], Release);
        new.send(&frame(mac(1), mac(0), 64, 5));
        assert_eq!(new.call(1, true), 1, "{index:#x}");
        assert_eq!(receiver.receive(0, 9), [frame(mac(1), mac(0), 64, 5)]);
    }
}

/// The sender turns the destination around all the time: what arrives is what was decided on.
#[test]
fn a_header_that_changes_after_the_look_goes_where_it_says() {
    let memory = Memory::create(geometry(3, 64)).unwrap();
    let mut sender = Guest::attach(&memory, 0, 1);
    let mut receivers = [Guest::attach(&memory, 1, 1), Guest::attach(&memory, 2, 1)];
    for receiver in &mut receivers {
        let own = mac(receiver.caller.port.number() as u8);
        receiver.send(&frame(BROADCAST, own, 64, 0));
        assert_eq!(receiver.call(1, false), 1);
    }
    for receiver in &mut receivers {
        receiver.receive(1, 99);
        receiver.receive(2, 99);
    }
    let stop = AtomicBool::new(false);
    let first_words = [mac(1), mac(2)].map(|to| {
        let bytes = frame(to, mac(0), 64, 0);
        u64::from_le_bytes(bytes[..8].try_into().unwrap())
    });
    let buffers: Vec<_> = (0..64).map(|slot| sender.buffer(Ring::TX, slot)).collect();
    let descriptors: Vec<_> = (0..64)
        .map(|slot| sender.descriptor(Ring::TX, slot))
        .collect();
    for _ in 0..64 {
        sender.send(&frame(mac(1), mac(0), 64, 0));
    }
    let mut counts = [0u32; 2];
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut turn = 0usize;
            while !stop.load(Relaxed) {
                turn += 1;
                let slot = turn % 64;
                buffers[slot][0].store(first_words[turn / 64 % 2], Relaxed);
                // Lengths change too, valid and not.
                descriptors[slot].store([64, 1514, 65535, 14][turn / 7 % 4], Relaxed);
            }
        });
        let _stop = Stop(&stop);
        for _ in 0..4000 {
            sender.call(64, false);
            sender.tx = sender.tx.wrapping_add(64);
            sender.producer(Ring::TX).store(sender.tx, Release);
            for (receiver, count) in receivers.iter_mut().zip(&mut counts) {
                let own = mac(receiver.caller.port.number() as u8);
                for bytes in receiver.receive(0, 999) {
                    assert_eq!(bytes[..6], own, "switched by another header");
                    *count += 1;
                }
            }
        }
    });
    assert!(counts.iter().all(|count| *count > 100), "{counts:?}");
}

/// Index lines, so that the ranges of `allowed` are what they seem.
const _: () = assert!(LINE_SIZE >= 4);
