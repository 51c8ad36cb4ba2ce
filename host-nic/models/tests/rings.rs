//! Rings between a guest and the switch: no bytes are read that were not written, and none
//! overwritten that were not read. The switch is the real one; the guest's ends follow `TxQueue`
//! and `RxQueue` of guest-lib/src/ring.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod common;

use common::{Guest, ModelNic, RECORD, SIZE, check, frame, mac};
use loom::thread;
use postern_abi::window::Published;
use postern_nic_models::fdb::{BUCKETS, Station, WAYS};
use postern_nic_models::sync::Ordering::Relaxed;
use postern_nic_models::sync::modelled::{Mutation, share};
use postern_nic_models::tenant::mac_word;

/// Length in bytes of a frame that fills a ring up to its last 48 bytes.
const LONG: u32 = SIZE - 48 - 16;

/// The words of the record at the beginning of a ring that is full but for 48 bytes.
fn old() -> [u64; 4] {
    let [first, second] = frame(1, 0, 100);
    [LONG.into(), 0, first, second]
}

/// The lane from port 0 to port 1 has 48 bytes of room in front of its end. Two short frames wait
/// to be sent, of which the second one fits at the lane's beginning only.
fn lane(nic: ModelNic) {
    nic.reset();
    let geometry = nic.geometry;
    let mut sender = Guest::new(nic, 0, 1, 1);
    let receiver = Guest::new(nic, 1, 0, 1);
    // The route is cached, so that `transmit_one` takes the frames.
    sender.send(frame(1, 0, 99));
    assert_eq!(nic.call(0, 1, true), 1);
    let filled = LONG + 16;
    let state = nic.switch().lane(1, 0).unwrap();
    let word = |position| {
        Published {
            position,
            tenancy: 1,
        }
        .word()
    };
    state.published.store(word(filled), Relaxed);
    state.limit.store(word(SIZE), Relaxed);
    nic.long(1, geometry.published_offset(0, 0))
        .store(word(filled), Relaxed);
    let lane = geometry.lane_offset(0, 0);
    for (index, word) in (0u64..).zip(old()) {
        nic.long(1, lane + index * 8).store(word, Relaxed);
    }
    for tag in [101, 102] {
        sender.send(frame(1, 0, tag));
    }
    nic.share_lane(0, 1);
    nic.share_longs(1, lane, RECORD.into());
    nic.share_longs(1, lane + u64::from(filled), 48);
    let guest = thread::spawn(move || {
        let mut receiver = receiver;
        let mut frames = receiver.receive(0);
        frames.extend(receiver.receive(0));
        (receiver, frames)
    });
    nic.call(0, 1, true);
    nic.call(0, 1, true);
    let (mut receiver, mut frames) = guest.join().unwrap();
    while frames.len() < 3 {
        nic.call(0, 2, true);
        frames.extend(receiver.receive(0));
    }
    assert_eq!(frames, [100, 101, 102]);
}

fn check_lane(mutation: impl FnOnce(ModelNic) -> Mutation) {
    let nic = ModelNic::new(2);
    check(mutation(nic), 3, move || lane(nic));
}

#[test]
fn a_lane_is_read_and_refilled() {
    check_lane(|_| Mutation::None);
}

#[test]
#[should_panic]
fn a_lane_needs_release() {
    check_lane(|_| Mutation::RelaxedStores);
}

#[test]
#[should_panic]
fn a_lane_needs_acquire() {
    check_lane(|_| Mutation::RelaxedLoads);
}

/// The TX ring of port 0 has 48 bytes of room in front of its end.
fn ring(nic: ModelNic) {
    nic.reset();
    let geometry = nic.geometry;
    let mut sender = Guest::new(nic, 0, 1, 1);
    let mut receiver = Guest::new(nic, 1, 0, 1);
    // Two frames fill the ring up to its last 48 bytes.
    for (at, length, tag) in [(0, 2000u64, 99), (2016, 2016, 100)] {
        let [first, second] = frame(1, 0, tag);
        sender.put(at, &[length, 0, first, second]);
    }
    sender.producer = LONG + 16;
    nic.word(0, geometry.tx_producer_offset(0))
        .store(sender.producer, Relaxed);
    nic.share_word(0, geometry.tx_producer_offset(0));
    nic.share_word(0, geometry.tx_consumer_offset(0));
    nic.share_longs(0, geometry.tx_ring_offset(0), RECORD.into());
    nic.share_longs(
        0,
        geometry.tx_ring_offset(0) + u64::from(sender.producer),
        48,
    );
    let guest = thread::spawn(move || {
        let mut tags = [101, 102].into_iter().peekable();
        for _ in 0..3 {
            if tags.next_if(|tag| sender.send(frame(1, 0, *tag))).is_none() {
                thread::yield_now();
            }
        }
        (sender, tags)
    });
    let mut frames = Vec::new();
    for _ in 0..2 {
        nic.call(0, 9, true);
        frames.extend(receiver.receive(0));
    }
    let (mut sender, mut tags) = guest.join().unwrap();
    while frames.len() < 4 {
        tags.next_if(|tag| sender.send(frame(1, 0, *tag)));
        nic.call(0, 9, true);
        frames.extend(receiver.receive(0));
    }
    assert_eq!(frames, [99, 100, 101, 102]);
}

fn check_ring(mutation: Mutation) {
    let nic = ModelNic::new(2);
    check(mutation, 2, move || ring(nic));
}

#[test]
fn a_tx_ring_is_taken_and_refilled() {
    check_ring(Mutation::None);
}

#[test]
#[should_panic]
fn a_tx_ring_needs_release() {
    check_ring(Mutation::RelaxedStores);
}

#[test]
#[should_panic]
fn a_tx_ring_needs_acquire() {
    check_ring(Mutation::RelaxedLoads);
}

/// A station moves from port 1 to port 2 while port 0 sends to it. Once the move has been learned,
/// frames of port 0 go to port 2.
fn moves(nic: ModelNic) {
    nic.reset();
    let state = nic.state();
    let mut sender = Guest::new(nic, 0, 1, 1);
    let mut first = Guest::new(nic, 1, 2, 1);
    first.send(frame(0, 9, 1));
    assert_eq!(nic.call(1, 1, true), 1);
    sender.send(frame(9, 0, 2));
    assert_eq!(nic.call(0, 1, true), 1);
    let mut second = Guest::new(nic, 2, 1, 1);
    second.send(frame(0, 9, 3));
    sender.send(frame(9, 0, 4));
    share((&raw const state.generation).cast(), 8);
    let station = Station::new(0, mac_word(mac(9)));
    let words = BUCKETS * WAYS;
    let way = (0..words).find(|at| is_way(nic, *at, station)).unwrap();
    share(fdb_address(nic, way), 8);
    let mover = thread::spawn(move || {
        nic.call(2, 1, true);
    });
    nic.call(0, 1, true);
    mover.join().unwrap();
    let mut there = Guest::new(nic, 2, 0, 1);
    there.receive(0);
    sender.send(frame(9, 0, 5));
    assert_eq!(nic.call(0, 1, true), 1);
    assert_eq!(there.receive(0), [5], "the last frame follows the station");
}

/// Address of a word of the forwarding database.
fn fdb_address(nic: ModelNic, at: usize) -> *const u8 {
    (&raw const nic.state().fdb)
        .cast::<u8>()
        .wrapping_add(at * 8)
}

/// A word of the forwarding database.
fn fdb_word(nic: ModelNic, at: usize) -> u64 {
    // SAFETY: the address is that of a word of the database, which no thread uses now.
    unsafe { *fdb_address(nic, at).cast() }
}

/// Whether a word of the forwarding database is the entry of a station: without it the station is
/// not known.
fn is_way(nic: ModelNic, at: usize, station: Station) -> bool {
    let word = fdb_word(nic, at);
    if word == 0 {
        return false;
    }
    let entry = fdb_address(nic, at).cast_mut().cast::<u64>();
    // SAFETY: the address is that of a word of the database, which no thread uses now.
    unsafe { *entry = 0 };
    let gone = nic.state().fdb.find(nic.switch().key(), station).is_none();
    // SAFETY: the address is that of a word of the database, which no thread uses now.
    unsafe { *entry = word };
    gone
}

#[test]
fn frames_follow_a_station_that_moves() {
    let nic = ModelNic::new(3);
    check(Mutation::None, 3, move || moves(nic));
}

#[test]
#[should_panic]
fn a_move_that_is_not_told_is_not_followed() {
    let nic = ModelNic::new(3);
    let generation = (&raw const nic.state().generation) as usize;
    check(Mutation::Lost(generation), 3, move || moves(nic));
}

#[test]
#[should_panic(expected = "follows the station")]
fn a_move_is_told_with_release() {
    let nic = ModelNic::new(3);
    check(Mutation::RelaxedStores, 3, move || moves(nic));
}
