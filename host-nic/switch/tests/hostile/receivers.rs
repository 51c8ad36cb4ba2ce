//! Receivers that do not read their lanes.

use postern_switch::state::Cause;

use super::{attach_all, attacks, exchange};
use crate::common::build::Build;
use crate::common::{BROADCAST, LARGE, SMALL, TestNic, frame, geometry, mac};

attacks!(
    a_receiver_that_never_drains,
    a_full_lane_refuses_by_size_and_in_order,
    a_full_lane_of_a_broadcast,
);

fn a_receiver_that_never_drains(build: Build) {
    let nic = TestNic::new(build, geometry(4, 1, SMALL, SMALL));
    let mut guests = attach_all(&nic);
    let [sender, deaf, good, other] = &mut guests[..] else {
        unreachable!()
    };
    let fits = 51; // records of 80 bytes in a lane of 4096
    let mut sent = 0;
    for round in 0..20 {
        for i in 0..8 {
            sender.send(&frame(mac(1), mac(0), 60, i));
            sender.send(&frame(mac(2), mac(0), 60, i));
            sent += 1;
        }
        assert_eq!(sender.call(u64::MAX, false), 16, "{round}");
        assert_eq!(good.receive(0, 99).len(), 8, "{round}");
        let lost = u64::max(sent, fits) - fits;
        assert_eq!(sender.drops(Cause::Full), lost);
        // Other senders reach everybody.
        exchange(other, good, round);
        other.send(&frame(mac(1), mac(3), 60, round));
        assert_eq!(other.call(1, true), 1);
    }
    assert_eq!(deaf.receive(3, 99).len(), 20, "has a lane of its own");
    // A sender that has its frames held waits at the first one, and nothing is lost.
    let lost = sender.drops(Cause::Full);
    sender.send(&frame(mac(1), mac(0), 60, 100));
    sender.send(&frame(mac(2), mac(0), 60, 101));
    assert_eq!(sender.call(2, true), 0);
    assert_eq!(sender.call(2, true), 0);
    assert_eq!(deaf.receive(0, 2).len(), 2);
    assert_eq!(sender.call(2, true), 2);
    assert_eq!(good.receive(0, 9), [frame(mac(2), mac(0), 60, 101)]);
    assert_eq!(sender.drops(Cause::Full), lost);
    // Broadcast is not held back for one deaf receiver.
    deaf.receive(0, usize::MAX);
    sender.send(&frame(BROADCAST, mac(0), 60, 102));
    assert_eq!(sender.call(1, true), 1);
    assert_eq!(good.receive(0, 9).len(), 1);
}

/// A frame that has no room is passed by its own size, not by that of another frame of its run.
fn a_full_lane_refuses_by_size_and_in_order(build: Build) {
    let nic = TestNic::new(build, geometry(3, 1, 4 * LARGE, LARGE));
    let mut guests = attach_all(&nic);
    let [sender, deaf, good] = &mut guests[..] else {
        unreachable!()
    };
    for n in 0..6 {
        sender.send(&frame(mac(1), mac(0), 9000, n));
    }
    assert_eq!(sender.call(9, false), 6);
    let lengths = [5000, 60, 5000, 60, 1000, 300, 9000, 14];
    for (seed, length) in (0..).zip(lengths) {
        sender.send(&frame(mac(1), mac(0), length, seed));
    }
    sender.send(&frame(mac(2), mac(0), 99, 5));
    assert_eq!(sender.call(u64::MAX, false), 9);
    assert_eq!(good.receive(0, 9), [frame(mac(2), mac(0), 99, 5)]);
    let received = deaf.receive(0, 99);
    let mut at = 0;
    for bytes in &received[6..] {
        let offset = lengths[at..].iter().zip(at as u64..);
        let (_, seed) = offset
            .map(|(length, seed)| (frame(mac(1), mac(0), *length, seed), seed))
            .find(|(expected, _)| expected == bytes)
            .expect("a frame that was sent, in order");
        at = seed as usize + 1;
    }
    let lost = sender.drops(Cause::Full);
    assert_eq!(lost as usize, lengths.len() + 6 - received.len());
    assert!(lost > 0);
}

/// One of several receivers has no room for a large frame of a run, and has room for the small
/// frame behind it.
fn a_full_lane_of_a_broadcast(build: Build) {
    let nic = TestNic::new(build, geometry(3, 1, SMALL * 4, SMALL));
    let mut guests = attach_all(&nic);
    let [sender, deaf, good] = &mut guests[..] else {
        unreachable!()
    };
    for skew in (0..64).map(|n| n * 16) {
        let mut sent = Vec::new();
        for (seed, length) in (0..).zip([1000, 1000, 400 + skew, 60, 1500, 60, 200, 900, 14]) {
            let bytes = frame(BROADCAST, mac(0), length, seed);
            sender.send(&bytes);
            sent.push(bytes);
        }
        assert_eq!(sender.call(u64::MAX, false), 9);
        for guest in [&mut *deaf, &mut *good] {
            let mut left = sent.iter();
            for bytes in guest.receive(0, usize::MAX) {
                assert!(left.any(|expected| *expected == bytes), "{skew}");
            }
        }
    }
    assert!(sender.drops(Cause::Full) > 0);
}
