//! Two senders take lanes of one RX queue at the same time; a call is stopped while it takes one.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod common;

use common::{Guest, ModelNic, check, frame};
use loom::thread;
use postern_nic_models::state::Cause;
use postern_nic_models::sync::Ordering::Relaxed;
use postern_nic_models::sync::modelled::{Mutation, mutate, share, stop_after};

/// The port that receives; ports 0 and 2 send.
const TO: u32 = 1;

/// A frame waits at each sender, for everybody, so that no route is known.
fn prepare(nic: ModelNic) {
    nic.reset();
    for from in [0, 2] {
        assert!(Guest::new(nic, from, TO, 1).send(frame(TO as u8, from as u8, 100 + from as u16)));
    }
}

/// The tags of all frames that came, in the order of the lanes.
fn received(nic: ModelNic) -> Vec<u16> {
    let lanes = 0..nic.geometry.lanes();
    lanes
        .flat_map(|lane| Guest::new(nic, TO, lane, 1).receive(lane))
        .collect()
}

/// Number of frames of a port for which there was no lane.
fn without_lane(nic: ModelNic, from: u32) -> u64 {
    nic.switch().sender(from).unwrap().drops[Cause::NoLane as usize].load(Relaxed)
}

fn race(nic: ModelNic) {
    prepare(nic);
    for lane in 0..nic.geometry.lanes() {
        let state = nic.switch().lane(TO, lane).unwrap();
        share((&raw const state.holder).cast(), 4);
    }
    let other = thread::spawn(move || nic.call(2, 1, false));
    assert_eq!(nic.call(0, 1, false), 1);
    assert_eq!(other.join().unwrap(), 1);
    let mut tags = received(nic);
    tags.sort_unstable();
    let lost: u64 = [0, 2].map(|from| without_lane(nic, from)).iter().sum();
    assert_eq!(tags.len() as u64 + lost, 2, "{tags:?}");
    assert_eq!(lost, u64::from(nic.geometry.lanes() < 2));
    tags.dedup();
    assert_eq!(tags.len() as u64 + lost, 2, "a frame came twice");
}

/// Both begin their search at the same lane.
#[test]
fn two_senders_get_two_lanes() {
    let nic = ModelNic::with_lanes(3, 2);
    check(Mutation::None, 3, move || race(nic));
}

#[test]
fn one_of_two_senders_gets_the_only_lane() {
    let nic = ModelNic::with_lanes(3, 1);
    check(Mutation::None, 3, move || race(nic));
}

/// Wherever a call was stopped that took a lane, the next one of that sender delivers, through one
/// lane, and the other sender through another.
#[test]
fn a_call_that_is_stopped_takes_no_more_than_one_lane() {
    mutate(Mutation::None);
    let nic = ModelNic::with_lanes(3, 2);
    let mut stops = 0;
    loop {
        prepare(nic);
        let done = stop_after(stops, || nic.call(0, 1, false)).is_some();
        for (from, tag) in [(0, 200), (2, 202)] {
            let mut sender = Guest::new(nic, from, TO, 1);
            let next = nic.switch().sender(from).unwrap().tx_next.load(Relaxed);
            sender.producer = sender.producer.max(next + 32);
            sender.send(frame(TO as u8, from as u8, tag));
            assert!(nic.call(from, 9, false) >= 1, "{stops}");
            assert_eq!(without_lane(nic, from), 0, "{stops}");
        }
        let tags = received(nic);
        for tag in [100, 102, 200, 202] {
            assert!(tags.contains(&tag), "{stops}: {tags:?} without {tag}");
        }
        if done {
            break;
        }
        stops += 1;
    }
    assert!(stops > 50, "{stops}");
}

#[test]
#[should_panic]
fn taking_a_lane_needs_an_exchange() {
    let nic = ModelNic::with_lanes(3, 1);
    check(Mutation::TornExchange, 3, move || race(nic));
}
