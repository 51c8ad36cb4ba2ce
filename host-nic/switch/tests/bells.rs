//! Bells: who is told to wake a receiver that sleeps, whatever way its frame takes.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod common;

use std::sync::atomic::Ordering::Relaxed;

use common::build::Build;
use common::{BROADCAST, Guest, LARGE, SMALL, TestNic, frame, geometry, mac, port};
use postern_abi::service::{TX_BELL, TX_MORE, tx_flags};
use postern_abi::window::ARMED;

const BUILDS: [Build; 3] = [Build::Native, Build::Image, Build::KernelObject];

/// Has the guest of a port's RX queue sleep.
fn arm(nic: &TestNic, number: u32, queue: u32) {
    let latest = nic.switch().latest(port(number), queue).unwrap();
    latest.fetch_or(ARMED, Relaxed);
    let asleep = nic.switch().asleep(port(number), queue).unwrap();
    asleep.store(1, Relaxed);
}

fn is_armed(nic: &TestNic, number: u32) -> bool {
    let latest = nic.switch().latest(port(number), 0).unwrap();
    latest.load(Relaxed) & ARMED != 0
}

#[test]
fn a_sleeper_is_named_once() {
    for build in BUILDS {
        let nic = TestNic::new(build, geometry(3, 1, LARGE, LARGE));
        let mut guests: Vec<_> = (0..3).map(|port| Guest::attach(&nic, port, 1)).collect();
        let [sender, _, receiver] = &mut guests[..] else {
            unreachable!()
        };
        // The first frame has no cached route, those behind it have; runs and single ones.
        for count in [1, 1, 5, 1] {
            arm(&nic, 2, 0);
            for seed in 0..count {
                sender.send(&frame(mac(2), mac(0), 60, seed));
            }
            assert_eq!(sender.call(9, false), count | TX_BELL, "{build:?}");
            assert!(!is_armed(&nic, 2));
            // Until the guest takes them, the bells stay, and nothing more is said of them.
            sender.send(&frame(mac(2), mac(0), 60, 9));
            assert_eq!(sender.call(9, false), 1);
            assert_eq!(nic.switch().take_bells(port(0), 0), [1 << 2, 0, 0, 0]);
            assert_eq!(nic.switch().take_bells(port(0), 0), [0; 4]);
            assert_eq!(receiver.receive(0, 99).len() as u64, count + 1);
        }
    }
}

#[test]
fn a_frame_to_all_names_all_sleepers() {
    let nic = TestNic::native(geometry(130, 1, SMALL, SMALL));
    let mut guests: Vec<_> = (0..130).map(|port| Guest::attach(&nic, port, 1)).collect();
    for number in [1, 63, 64, 129] {
        arm(&nic, number, 0);
    }
    guests[0].send(&frame(BROADCAST, mac(0), 60, 1));
    assert_eq!(guests[0].call(9, false) & !TX_MORE, 1 | TX_BELL);
    let bells = nic.switch().take_bells(port(0), 0);
    assert_eq!(bells, [1 << 1 | 1 << 63, 1 << 0, 1 << 1, 0]);
}

/// On the slow path, with several queues on both sides.
#[test]
fn queues_have_bells_of_their_own() {
    let nic = TestNic::native(geometry(3, 4, SMALL, SMALL));
    let mut guests: Vec<_> = (0..3).map(|port| Guest::attach(&nic, port, 1)).collect();
    for queue in 0..4 {
        arm(&nic, 1, queue);
    }
    let sender = &mut guests[0];
    sender.send(&frame(BROADCAST, mac(0), 60, 1));
    assert_eq!(sender.call(9, false), 1 | TX_BELL);
    let bells = nic.switch().take_bells(port(0), 0);
    let queues: Vec<u32> = (4..8).filter(|bit| bells[0] >> bit & 1 != 0).collect();
    assert_eq!((queues.len(), bells[0].count_ones()), (1, 1), "{bells:?}");
    let queue = queues[0] - 4;
    for other in 0..4 {
        assert_eq!(nic.switch().is_overslept(port(1), other), other == queue);
    }
    // Nobody sleeps at the other port, whose guest does not say so.
    assert!(!nic.switch().is_overslept(port(2), 0));
}

/// A lane that is published again, since a call may have been stopped, wakes its receiver, too.
#[test]
fn a_sleeper_is_named_by_who_finds_its_lane_full() {
    let nic = TestNic::native(geometry(3, 1, SMALL, SMALL));
    let mut guests: Vec<_> = (0..3).map(|port| Guest::attach(&nic, port, 1)).collect();
    let full = frame(mac(2), mac(0), SMALL as usize / 4 - 16, 1);
    for _ in 0..4 {
        guests[0].send(&full);
        assert_eq!(guests[0].call(1, true), 1);
    }
    arm(&nic, 2, 0);
    guests[0].send(&full);
    assert_eq!(guests[0].call(1, true), TX_BELL);
    assert_eq!(nic.switch().take_bells(port(0), 0), [1 << 2, 0, 0, 0]);
}

/// The host's kernel takes the bells of the queue that the request was for, and of no other.
#[test]
fn the_kernel_takes_the_bells_of_one_queue() {
    let nic = TestNic::new(Build::KernelObject, geometry(3, 2, SMALL, SMALL));
    let caller = Guest::attach(&nic, 1, 1).caller;
    for number in 0..3 {
        for queue in 0..2 {
            for (word, bits) in (1..).zip(nic.switch().bells(port(number), queue).unwrap()) {
                bits.store(word << (8 * queue), Relaxed);
            }
        }
    }
    let take = |queue, hold| nic.take_bells(&caller, tx_flags(queue, hold));
    // Queues that do not exist.
    for queue in [2, 255, u32::MAX] {
        assert_eq!(take(queue, false), [0; 4]);
    }
    assert_eq!(nic.take_bells(&caller, u64::MAX), [0; 4]);
    assert_eq!(take(1, true), [1 << 8, 2 << 8, 3 << 8, 4 << 8]);
    assert_eq!(take(1, true), [0; 4]);
    assert_eq!(take(0, false), [1, 2, 3, 4]);
    for number in [0, 2] {
        assert_eq!(nic.switch().take_bells(port(number), 0), [1, 2, 3, 4]);
    }
}
