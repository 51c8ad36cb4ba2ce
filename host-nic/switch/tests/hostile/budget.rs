//! What one call does is bounded, whatever the frames are and however many ports there are; the
//! rest waits for the next call. Copies, bytes and frames are counted, never time.

use std::sync::atomic::Ordering::Relaxed;

use postern_abi::service::{MAX_TX_BYTES, MAX_TX_COPIES, MAX_TX_FRAMES, TX_MORE};
use postern_abi::window::MAX_FRAME;
use postern_switch::state::LANE_FREE;

use super::{attach_all, attacks};
use crate::common::build::Build;
use crate::common::{BROADCAST, Guest, LARGE, SMALL, TestNic, frame, geometry, mac};

attacks!(
    short_frames_to_255_ports,
    long_frames_to_127_ports,
    long_frames_to_one_port,
    many_short_frames_behind_a_long_one,
    frames_to_ports_without_room,
);

/// Number of frames and of bytes that a port's first sender has delivered.
fn delivered(nic: &TestNic, from: u32) -> (u64, u64) {
    let switch = nic.switch();
    let geometry = switch.geometry();
    let lanes = (0..geometry.senders())
        .flat_map(|to| (0..geometry.lanes()).filter_map(move |lane| switch.lane(to, lane)))
        .filter(|lane| lane.holder.load(Relaxed) & !LANE_FREE == from + 1);
    lanes.fold((0, 0), |(frames, bytes), lane| {
        (
            frames + lane.frames.load(Relaxed),
            bytes + lane.bytes.load(Relaxed),
        )
    })
}

/// Makes calls until no frame is left, and checks each of them. Gives the number of calls.
fn calls(nic: &TestNic, sender: &Guest<'_>, frames: u64, ports: u64, length: u64) -> u64 {
    let mut left = frames;
    let mut calls = 0;
    while left != 0 {
        let before = delivered(nic, sender.number());
        let result = sender.call(u64::MAX, false);
        let after = delivered(nic, sender.number());
        let (copies, bytes) = (after.0 - before.0, after.1 - before.1);
        let taken = result & !TX_MORE;
        assert!(taken != 0 && taken <= left, "{result:#x} of {left}");
        assert_eq!((copies, bytes), (taken * ports, taken * ports * length));
        // One frame may go beyond.
        assert!(copies < u64::from(MAX_TX_COPIES) + ports, "{copies} copies");
        assert!(bytes < MAX_TX_BYTES + ports * length, "{bytes} bytes");
        left -= taken;
        let spent = copies >= u64::from(MAX_TX_COPIES) || bytes >= MAX_TX_BYTES;
        assert_eq!(
            result & TX_MORE != 0,
            left != 0 && taken < MAX_TX_FRAMES.into()
        );
        assert!(
            spent || left == 0 || taken == u64::from(MAX_TX_FRAMES),
            "ended early"
        );
        calls += 1;
    }
    assert_eq!(sender.call(u64::MAX, false), 0);
    calls
}

fn short_frames_to_255_ports(build: Build) {
    let nic = TestNic::new(build, geometry(256, 1, 2 * LARGE, SMALL));
    let mut guests = attach_all(&nic);
    let (sender, receivers) = guests.split_first_mut().unwrap();
    for n in 0..50 {
        sender.send(&frame(BROADCAST, mac(0), 60, n));
    }
    // Five frames are 1275 copies.
    assert_eq!(calls(&nic, sender, 50, 255, 60), 10);
    for receiver in receivers {
        let received = receiver.receive(0, 99);
        assert_eq!(received.len(), 50);
        for (n, bytes) in (0..).zip(received) {
            assert_eq!(bytes, frame(BROADCAST, mac(0), 60, n));
        }
    }
}

fn long_frames_to_127_ports(build: Build) {
    let nic = TestNic::new(build, geometry(128, 1, LARGE, LARGE / 2));
    let mut guests = attach_all(&nic);
    let (sender, receivers) = guests.split_first_mut().unwrap();
    let length = MAX_FRAME;
    for n in 0..3 {
        sender.send(&frame(BROADCAST, mac(0), length as usize, n));
    }
    // One frame is more than a call may copy, and goes whole.
    assert_eq!(calls(&nic, sender, 3, 127, length.into()), 3);
    for receiver in receivers {
        assert_eq!(receiver.receive(0, 9).len(), 3);
    }
}

/// A run of frames to one port, which the fastest loop of the switch copies.
fn long_frames_to_one_port(build: Build) {
    const RING: u32 = 4 << 20;
    let nic = TestNic::new(build, geometry(2, 1, RING, RING));
    let mut guests = attach_all(&nic);
    let length = MAX_FRAME;
    for round in 0..5 {
        let mut sent = 0;
        while sent < 250 && guests[0].try_send(&frame(mac(1), mac(0), length as usize, sent)) {
            sent += 1;
        }
        assert_eq!(sent, 250);
        // 117 frames are above 1 MiB.
        let made = calls(&nic, &guests[0], sent, 1, length.into());
        assert_eq!(made, 3, "round {round}");
        let received = guests[1].receive(0, 999);
        assert_eq!(received.len(), 250);
        for (n, bytes) in (0..).zip(received) {
            assert_eq!(bytes, frame(mac(1), mac(0), length as usize, n));
        }
    }
}

/// To the switch, which looks at the first frame alone, few frames seem to be in the ring.
fn many_short_frames_behind_a_long_one(build: Build) {
    let nic = TestNic::new(build, geometry(2, 1, 2 * LARGE, 2 * LARGE));
    let mut guests = attach_all(&nic);
    let lengths = |n: u32| if n == 0 { MAX_FRAME as usize } else { 60 };
    for round in 0..3 {
        let count = MAX_TX_FRAMES + 44;
        for n in 0..count {
            guests[0].send(&frame(mac(1), mac(0), lengths(n), n.into()));
        }
        let taken = [0; 2].map(|_| guests[0].call(u64::MAX, false));
        assert_eq!(taken, [u64::from(MAX_TX_FRAMES), 44], "round {round}");
        let received = guests[1].receive(0, 999);
        assert_eq!(received.len(), count as usize);
        for (n, bytes) in (0..).zip(received) {
            assert_eq!(bytes, frame(mac(1), mac(0), lengths(n), n.into()));
        }
    }
}

/// Looks at lanes without room count as copies do.
fn frames_to_ports_without_room(build: Build) {
    let nic = TestNic::new(build, geometry(256, 1, 4 * LARGE, SMALL));
    let mut guests = attach_all(&nic);
    let (sender, receivers) = guests.split_first_mut().unwrap();
    let mut refused = 0;
    for n in 0..200 {
        sender.send(&frame(BROADCAST, mac(0), 1000, n));
    }
    loop {
        let taken = sender.call(u64::MAX, false) & !TX_MORE;
        if taken == 0 {
            break;
        }
        assert!(
            taken * 255 < u64::from(MAX_TX_COPIES) + 255,
            "{taken} frames"
        );
        refused += taken;
    }
    assert_eq!(refused, 200);
    for receiver in receivers {
        assert_eq!(
            receiver.receive(0, 999).len(),
            4,
            "a lane holds three or four"
        );
    }
}
