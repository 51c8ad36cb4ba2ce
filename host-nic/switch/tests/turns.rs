//! Senders that share the lanes of an RX queue.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod common;

use std::sync::atomic::Ordering::Relaxed;

use common::build::Build;
use common::{Guest, SMALL, TestNic, frame, mac};
use postern_abi::window::Geometry;
use postern_switch::state::{Cause, LANE_LEAVING};

/// The port that receives.
const TO: u32 = 1;

/// A NIC of 4 ports, each with one lane.
fn nic() -> TestNic {
    let geometry = Geometry::new(4, 1, SMALL, SMALL).unwrap();
    TestNic::new(Build::Native, geometry.with_lanes(1).unwrap())
}

/// Sends a frame to the receiver. Returns whether it was delivered.
fn delivers(from: &Guest<'_>, to: &mut Guest<'_>, seed: u64) -> bool {
    let bytes = frame(mac(TO as u8), from.mac(), 60, seed);
    let mut sender = Guest::alias(from.nic, from.caller);
    sender.send(&bytes);
    let before = from.drops(Cause::NoLane);
    assert_eq!(sender.call(1, false), 1);
    let got = to.receive_from(from.number(), 9);
    assert_eq!(got.len() as u64 + from.drops(Cause::NoLane) - before, 1);
    got == [bytes]
}

#[test]
fn a_sender_that_waits_gets_a_lane_in_its_turn() {
    let nic = nic();
    let mut to = Guest::attach(&nic, TO, 1);
    let senders = [0, 2, 3].map(|port| Guest::attach(&nic, port, 1));
    assert!(delivers(&senders[0], &mut to, 1));
    for turn in 0..30 {
        // One has the lane, and keeps it as long as nobody asks.
        let has: Vec<bool> = senders.iter().map(|s| delivers(s, &mut to, 2)).collect();
        assert_eq!(has.iter().filter(|has| **has).count(), 1, "{turn}: {has:?}");
        let holder = has.iter().position(|has| *has).unwrap();
        nic.switch().turn_lanes(turn);
        assert!(!delivers(&senders[holder], &mut to, 3), "its lane is taken");
        nic.switch().turn_lanes(turn);
        let next = (holder + 1) % 3;
        assert!(delivers(&senders[next], &mut to, 4), "{turn}");
    }
}

#[test]
fn nobody_loses_a_lane_that_nobody_wants() {
    let nic = nic();
    let mut to = Guest::attach(&nic, TO, 1);
    let sender = Guest::attach(&nic, 0, 1);
    for turn in 0..9 {
        assert!(delivers(&sender, &mut to, turn.into()));
        nic.switch().turn_lanes(turn);
    }
}

/// A call that is stopped in the middle of a lane may go on at any time.
#[test]
fn a_call_that_goes_on_keeps_its_lane() {
    let nic = nic();
    let mut to = Guest::attach(&nic, TO, 1);
    let [holder, other] = [0, 2].map(|port| Guest::attach(&nic, port, 1));
    assert!(delivers(&holder, &mut to, 1));
    // A call has begun, and not ended.
    let state = nic.switch().sender(0).unwrap();
    state.calls.fetch_add(1, Relaxed);
    for turn in 0..9 {
        assert!(!delivers(&other, &mut to, 2), "{turn}");
        nic.switch().turn_lanes(turn);
    }
    // Another call of that vCPU means that the first one has ended.
    assert!(!delivers(&holder, &mut to, 3), "it leaves the lane alone");
    nic.switch().turn_lanes(9);
    assert!(delivers(&other, &mut to, 4));
}

/// A call may have begun so shortly before the first turn that it was not seen to have.
#[test]
fn calls_that_were_not_seen_at_once_count() {
    let nic = nic();
    let mut to = Guest::attach(&nic, TO, 1);
    let [holder, other] = [0, 2].map(|port| Guest::attach(&nic, port, 1));
    assert!(delivers(&holder, &mut to, 1));
    assert!(!delivers(&other, &mut to, 2));
    nic.switch().turn_lanes(0);
    let state = nic.switch().sender(0).unwrap();
    state.calls.fetch_add(1, Relaxed);
    for turn in 1..9 {
        nic.switch().turn_lanes(turn);
        assert!(!delivers(&other, &mut to, 3), "{turn}");
    }
}

#[test]
fn a_lane_is_free_when_its_frames_have_been_read() {
    let nic = nic();
    let mut to = Guest::attach(&nic, TO, 1);
    let [mut holder, other] = [0, 2].map(|port| Guest::attach(&nic, port, 1));
    let unread = frame(mac(TO as u8), mac(0), 60, 1);
    holder.send(&unread);
    assert_eq!(holder.call(1, false), 1);
    let mut waits = Guest::alias(&nic, other.caller);
    let waiting = frame(mac(TO as u8), mac(2), 60, 2);
    waits.send(&waiting);
    for turn in 0..5 {
        // Held, not dropped.
        assert_eq!(waits.call(1, true), 0, "{turn}");
        nic.switch().turn_lanes(turn);
    }
    assert_eq!(to.receive_from(0, 9), [unread]);
    assert_eq!(waits.call(1, true), 1);
    assert_eq!(to.receive_from(2, 9), [waiting]);
}

/// An owner may end in the middle of a turn, also before it has noted that one goes on.
#[test]
fn a_turn_that_an_owner_left_goes_on_when_somebody_waits() {
    let nic = nic();
    let mut to = Guest::attach(&nic, TO, 1);
    let [holder, other] = [0, 2].map(|port| Guest::attach(&nic, port, 1));
    let first = nic.switch().lane(TO, 0).unwrap();
    assert!(delivers(&holder, &mut to, 1));
    first.holder.fetch_or(LANE_LEAVING, Relaxed);
    first.wanted.store(0, Relaxed);
    nic.switch().state().generation.fetch_add(1, Relaxed);
    // Nobody waits, so nothing is looked at.
    nic.switch().turn_lanes(0);
    assert_ne!(first.holder.load(Relaxed) & LANE_LEAVING, 0);
    assert!(!delivers(&other, &mut to, 2));
    nic.switch().turn_lanes(1);
    assert!(delivers(&other, &mut to, 3));
}

/// A call that was stopped in the middle of a publication has filled a lane and not told its receiver.
#[test]
fn a_lane_that_was_not_published_to_the_end_is_no_loss() {
    let nic = nic();
    let mut to = Guest::attach(&nic, TO, 1);
    let [mut holder, mut other] = [0, 2].map(|port| Guest::attach(&nic, port, 1));
    assert!(delivers(&holder, &mut to, 1));
    holder.resume();
    let words = (
        to.published(0, 0),
        nic.switch().latest(common::port(TO), 0).unwrap(),
    );
    let before = (words.0.load(Relaxed), words.1.load(Relaxed));
    let stopped = frame(mac(TO as u8), mac(0), 60, 2);
    holder.send(&stopped);
    assert_eq!(holder.call(1, false), 1);
    words.0.store(before.0, Relaxed);
    words.1.store(before.1, Relaxed);
    let waiting = frame(mac(TO as u8), mac(2), 60, 3);
    other.send(&waiting);
    for turn in 0..3 {
        assert_eq!(other.call(1, true), 0, "{turn}");
        nic.switch().turn_lanes(turn);
    }
    assert_ne!(
        words.1.load(Relaxed),
        before.1,
        "the receiver does not look"
    );
    assert_eq!(to.receive_from(0, 9), [stopped]);
    assert_eq!(other.call(1, true), 1);
    assert_eq!(to.receive_from(2, 9), [waiting]);
}

/// A call that was stopped for ever keeps its lane, and nobody from the others.
#[test]
fn a_call_that_is_stopped_holds_up_one_lane() {
    let geometry = Geometry::new(5, 1, SMALL, SMALL).unwrap();
    let nic = TestNic::new(Build::Native, geometry.with_lanes(2).unwrap());
    let mut to = Guest::attach(&nic, TO, 1);
    let senders = [0, 2, 3, 4].map(|port| Guest::attach(&nic, port, 1));
    assert!(delivers(&senders[0], &mut to, 1));
    let state = nic.switch().sender(0).unwrap();
    state.calls.fetch_add(1, Relaxed);
    let mut got = [0; 3];
    for turn in 0..60 {
        // Whoever sends first gets a lane that has become free.
        let mut order = [0, 1, 2];
        order.sort_by_key(|n| got[*n]);
        for n in order {
            got[n] += u32::from(delivers(&senders[1 + n], &mut to, turn.into()));
        }
        nic.switch().turn_lanes(turn);
    }
    assert!(got.iter().all(|got| *got > 3), "{got:?}");
}
