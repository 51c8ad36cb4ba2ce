//! Calls that are stopped between any two accesses to memory and never go on, and the next calls of
//! the sender. No other thread takes part, so there is nothing for loom to decide; every pair of
//! stops is tried.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod common;

use common::{Guest, ModelNic, RECORD, SIZE, frame, mac, port, secret};
use postern_nic_models::layout::window_offset;
use postern_nic_models::state::CACHED_ROUTES;
use postern_nic_models::sync::Ordering::Relaxed;
use postern_nic_models::sync::modelled::{Mutation, mutate, stop_after, writes_of};

/// Checks the stores of a call of port 0: in windows, it may store to free bytes of its lanes, to
/// the words that tell of them, and to its TX consumer.
fn check_writes(nic: ModelNic, free: &[(u32, u32, u32)], writes: &[(usize, usize)]) {
    let geometry = nic.geometry;
    let windows = nic.base as usize + window_offset(geometry, port(0)) as usize;
    for (address, size) in writes.iter().filter(|(address, _)| *address >= windows) {
        let offset = (address - windows) as u64;
        let number = (offset / geometry.window_size()) as u32;
        let offset = offset % geometry.window_size();
        let lane = geometry.lane_offset(0, 0);
        let inside = number != 0 && (lane..lane + u64::from(SIZE)).contains(&offset);
        let word = match number {
            0 => offset == geometry.tx_consumer_offset(0),
            _ => [
                geometry.latest_offset(0),
                geometry.published_offset(0, 0),
                geometry.sender_offset(0, 0),
                geometry.used_offset(0),
            ]
            .contains(&offset),
        };
        let may = free.iter().any(|(to, position, room)| {
            let at = (offset.wrapping_sub(lane) as u32).wrapping_sub(*position) % SIZE;
            inside && *to == number && at + *size as u32 <= *room
        });
        assert!(
            word || may,
            "port {number}, {offset:#x}, {size} bytes; free: {free:x?}"
        );
    }
}

/// The free bytes of the lane from port 0, as its receiver knows them: the receiver's number, their
/// position, and how many they are.
fn free(nic: ModelNic, to: u32) -> (u32, u32, u32) {
    let geometry = nic.geometry;
    let published = nic.long(to, geometry.published_offset(0, 0)).load(Relaxed) as u32;
    let consumed = nic.word(to, geometry.consumed_offset(0, 0)).load(Relaxed);
    (to, published, SIZE - published.wrapping_sub(consumed))
}

/// Makes a call of port 0 for one frame that ends before access `stop`, if it makes so many.
/// Returns whether it got to its end.
fn call(nic: ModelNic, stop: u32) -> bool {
    let free: Vec<_> = (1..nic.geometry.ports()).map(|to| free(nic, to)).collect();
    let (done, writes) = writes_of(|| stop_after(stop, || nic.call(0, 1, false)));
    check_writes(nic, &free, &writes);
    done.is_some()
}

/// Makes a call of port 0 that is not stopped.
fn whole(nic: ModelNic) {
    assert!(call(nic, u32::MAX));
}

/// Tries two calls in a row, each of which stops before each of its accesses or not at all.
fn each_stop(nic: ModelNic, prepare: &dyn Fn(), end: &dyn Fn()) {
    let mut cases = 0;
    for first in 0.. {
        let mut done = false;
        for second in 0.. {
            prepare();
            done = call(nic, first);
            let second_done = call(nic, second);
            end();
            cases += 1;
            if second_done {
                break;
            }
        }
        if done {
            break;
        }
    }
    assert!(cases > 1000, "{cases} cases");
}

/// One frame is sent after the other. The lane is nearly full and then emptied, so that a call
/// looks for room.
fn refill(nic: ModelNic) {
    let prepare = || {
        nic.reset();
        let mut sender = Guest::new(nic, 0, 1, 1);
        sender.send(frame(1, 0, 1));
        assert_eq!(nic.call(0, 1, true), 1);
        // The lane looks as if it had been filled up to 32 bytes in front of its end, and then
        // read.
        let filled = SIZE - RECORD;
        let lane = nic.switch().lane(1, 0).unwrap();
        let word = u64::from(filled) | 1 << 32;
        lane.published.store(word, Relaxed);
        lane.limit.store(word, Relaxed);
        let geometry = nic.geometry;
        nic.long(1, geometry.published_offset(0, 0))
            .store(word, Relaxed);
        nic.word(1, geometry.consumed_offset(0, 0))
            .store(RECORD, Relaxed);
        sender.send(frame(1, 0, 2));
    };
    let end = || {
        let geometry = nic.geometry;
        let next = nic.switch().sender(0).unwrap().tx_next.load(Relaxed);
        let offset = next & (SIZE - 1);
        let sender = Guest::new(nic, 0, 1, 1);
        let [first, second] = frame(1, 0, 3);
        sender.put(offset, &[208, 0, first, second]);
        nic.word(0, geometry.tx_producer_offset(0))
            .store(next + 224, Relaxed);
        whole(nic);
    };
    each_stop(nic, &prepare, &end);
}

#[test]
fn no_stop_lets_a_later_call_write_where_it_may_not() {
    refill(ModelNic::new(2));
}

/// The receiver's port has a new tenant, whose consumer position is `consumed`.
fn hand_over(nic: ModelNic, consumed: u32) {
    let prepare = || {
        nic.reset();
        let mut sender = Guest::new(nic, 0, 1, 1);
        for tag in 1..4 {
            sender.send(frame(1, 0, tag));
            assert_eq!(nic.call(0, 1, true), 1);
        }
        nic.switch().admit(port(1), 2, secret(2), mac(1));
        let geometry = nic.geometry;
        nic.word(1, geometry.consumed_offset(0, 0))
            .store(consumed, Relaxed);
        let word = u64::from(consumed) | 2 << 32;
        nic.long(1, geometry.published_offset(0, 0))
            .store(word, Relaxed);
        sender.send(frame(1, 0, 4));
    };
    let end = || {
        let mut receiver = Guest::new(nic, 1, 0, 2);
        receiver.consumed = consumed;
        let mut sender = Guest::new(nic, 0, 1, 1);
        whole(nic);
        sender = Guest {
            producer: nic.switch().sender(0).unwrap().tx_next.load(Relaxed),
            ..sender
        };
        sender.send(frame(1, 0, 5));
        whole(nic);
        let frames = receiver.receive(0);
        // A frame of a call that was stopped may come twice. The last frame arrives, and none that
        // was sent to the former tenant.
        assert_eq!(frames.last(), Some(&5), "{frames:?}");
        assert!(frames.iter().all(|tag| *tag > 3), "{frames:?}");
    };
    each_stop(nic, &prepare, &end);
}

#[test]
fn no_stop_keeps_frames_from_a_new_tenant() {
    for consumed in [96, SIZE - 16] {
        hand_over(ModelNic::new(2), consumed);
    }
}

/// The address of a station behind port 2 whose cached route has the element of that to port 1's
/// address.
const OTHER: u8 = 1 + CACHED_ROUTES as u8;

/// Frames go to two stations in turn, whose cached routes share an element.
fn routes(nic: ModelNic) {
    let sent = std::cell::Cell::new(0);
    let prepare = || {
        nic.reset();
        let mut other = Guest::new(nic, 2, 0, 1);
        other.send(frame(0, OTHER, 0));
        assert_eq!(nic.call(2, 1, true), 1);
        let mut sender = Guest::new(nic, 0, 1, 1);
        // Both lanes are open, and the first station has the element.
        for (to, tag) in [(OTHER, 2), (1, 1)] {
            sender.send(frame(to, 0, tag));
            assert_eq!(nic.call(0, 1, true), 1);
            sender.send(frame(to, 0, tag));
            assert_eq!(nic.call(0, 1, true), 1);
        }
        sender.send(frame(OTHER, 0, 2));
        sent.set(sender.producer);
    };
    let end = || {
        let mut sender = Guest::new(nic, 0, 1, 1);
        sender.producer = sent.get();
        for tag in [12, 21, 22, 11] {
            sender.send(frame(if tag % 10 == 1 { 1 } else { OTHER }, 0, tag));
            whole(nic);
            whole(nic);
        }
        for to in [1, 2] {
            let mut receiver = Guest::new(nic, to, 0, 1);
            receiver.consumed = 0;
            let frames = receiver.receive(0);
            let own = |tag: &u16| u32::from(tag % 10) == to;
            assert!(frames.iter().all(own), "port {to} got {frames:?}");
            assert!(frames.len() >= 3, "port {to} got {frames:?}");
        }
    };
    each_stop(nic, &prepare, &end);
}

#[test]
fn no_stop_mixes_two_routes() {
    routes(ModelNic::new(3));
}

#[test]
#[should_panic(expected = " got ")]
fn a_route_needs_to_be_void_while_it_changes() {
    let nic = ModelNic::new(3);
    nic.reset();
    let [first, _] = frame(1, 0, 0);
    let route =
        &nic.switch().sender(0).unwrap().routes[(first >> 40) as usize & (CACHED_ROUTES - 1)];
    mutate(Mutation::LostZero((&raw const route.generation) as usize));
    routes(nic);
}
