//! Positions that are out of range.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use postern_abi::window::{Published, RECORD_ALIGN};
use postern_switch::layout::SLACK;
use postern_switch::state::Cause;

use super::{attach_all, attacks, exchange, three};
use crate::common::build::Build;
use crate::common::{LARGE, frame, mac};

attacks!(
    a_producer_position_that_cannot_be,
    a_producer_position_of_zero_and_one,
    a_tx_consumer_position_overwritten,
    a_consumed_position_that_cannot_be,
    a_published_position_overwritten,
    a_limit_behind_the_lane,
);

fn a_producer_position_that_cannot_be(build: Build) {
    let nic = three(build);
    let mut guests = attach_all(&nic);
    let [sender, receiver, _] = &mut guests[..] else {
        unreachable!()
    };
    for seed in 0..3 {
        exchange(sender, receiver, seed);
        let start = sender.tx[0];
        let past = [
            LARGE + 16,
            LARGE + 1,
            2 * LARGE,
            1 << 31,
            0u32.wrapping_sub(16),
            u32::MAX,
        ];
        let unaligned = (1..RECORD_ALIGN).chain([LARGE - 1, 4097]);
        let before = sender.drops(Cause::BadIndex);
        let mut calls = 0;
        for offset in past.into_iter().chain(unaligned) {
            sender
                .producer(0)
                .store(start.wrapping_add(offset), Release);
            // The guest spoils the consumer as well, and gets it back.
            sender.consumer(0).store(0xdead, Release);
            assert_eq!(sender.call(u64::MAX, false), 0, "{offset:#x}");
            assert_eq!(sender.consumer(0).load(Acquire), start);
            calls += 1;
        }
        assert_eq!(sender.drops(Cause::BadIndex), before + calls);
        sender.producer(0).store(start, Release);
        assert!(receiver.receive(0, 99).is_empty());
    }
}

/// A position that goes back is refused, or the records in the ring are sent again; nothing worse.
fn a_producer_position_of_zero_and_one(build: Build) {
    let nic = three(build);
    let mut guests = attach_all(&nic);
    let [sender, receiver, _] = &mut guests[..] else {
        unreachable!()
    };
    exchange(sender, receiver, 1);
    let start = sender.tx[0];
    for position in [0, 1] {
        sender.producer(0).store(position, Release);
        assert_eq!(sender.call(9, true), 0);
    }
    assert_eq!(sender.drops(Cause::BadIndex), 2);
    assert_eq!(sender.consumer(0).load(Acquire), start);
    sender.producer(0).store(start, Release);
    exchange(sender, receiver, 2);
}

fn a_tx_consumer_position_overwritten(build: Build) {
    let nic = three(build);
    let mut guests = attach_all(&nic);
    let [sender, receiver, _] = &mut guests[..] else {
        unreachable!()
    };
    for value in [0, 1, 16, 17, 0x7fff_fff0, u32::MAX] {
        sender.consumer(0).store(value, Release);
        let bytes = frame(mac(1), mac(0), 77, value.into());
        sender.put(0, (77, 0), &bytes);
        sender.commit(0, 96);
        assert_eq!(sender.call(9, true), 1);
        assert_eq!(sender.consumer(0).load(Acquire), sender.tx[0]);
        assert_eq!(receiver.receive(0, 9), [bytes]);
    }
}

fn a_consumed_position_that_cannot_be(build: Build) {
    let nic = three(build);
    let mut guests = attach_all(&nic);
    let [sender, liar, honest] = &mut guests[..] else {
        unreachable!()
    };
    let mut sent = Vec::new();
    // Fills the liar's lane.
    while sender.drops(Cause::Full) == 0 {
        sent.push(frame(mac(1), mac(0), 1000, sent.len() as u64));
        sender.send(sent.last().unwrap());
        assert_eq!(sender.call(1, false), 1);
    }
    sent.pop();
    let published = Published::from_word(liar.published(0, 0).load(Acquire)).position;
    let wrong = [
        16,
        17,
        1,
        LARGE,
        1 << 31,
        0u32.wrapping_sub(LARGE + 16),
        0u32.wrapping_sub(LARGE + 1),
    ];
    for ahead in wrong {
        liar.consumed(0, 0)
            .store(published.wrapping_add(ahead), Release);
        sender.send(&frame(mac(1), mac(0), 60, 99));
        let before = sender.drops(Cause::BadReceiver);
        assert_eq!(sender.call(1, true), 0, "held");
        assert_eq!(sender.call(1, false), 1, "dropped");
        assert_eq!(sender.drops(Cause::BadReceiver), before + 1, "{ahead:#x}");
        exchange(sender, honest, u64::from(ahead));
    }
    // The frames that had been delivered before are untouched.
    let consumed = liar.rx[0];
    liar.consumed(0, 0).store(consumed, Release);
    assert_eq!(liar.receive(0, 999), sent);
    // An unaligned position makes room, rounded to the receiver's loss.
    for unaligned in 1..16 {
        let at = liar.rx[0].wrapping_sub(unaligned);
        liar.consumed(0, 0).store(at, Release);
        exchange(sender, liar, unaligned.into());
        exchange(sender, honest, unaligned.into());
    }
}

/// The NIC has its own copy of the position: a guest that overwrites the one in its window leads
/// only itself astray, until the next frame.
fn a_published_position_overwritten(build: Build) {
    let nic = three(build);
    let mut guests = attach_all(&nic);
    let [sender, receiver, _] = &mut guests[..] else {
        unreachable!()
    };
    for value in [0, 1, u64::MAX, 1 << 32, 0x1_0000_0013, 1 << 63] {
        receiver.published(0, 0).store(value, Release);
        exchange(sender, receiver, value);
    }
}

/// Whatever somebody has written into the state: frames in a row end in the slack behind the lane at
/// the latest.
fn a_limit_behind_the_lane(build: Build) {
    let nic = three(build);
    let mut guests = attach_all(&nic);
    let [sender, receiver, _] = &mut guests[..] else {
        unreachable!()
    };
    exchange(sender, receiver, 1);
    exchange(sender, receiver, 2);
    let lane = nic.switch().lane(1, 0).unwrap();
    for (published, limit) in [
        (LARGE - 2048, 0xffff_fff0),
        (LARGE - 16, 0xffff_fff0),
        (LARGE - 4096, 0x7fff_fff0),
    ] {
        lane.published
            .store(1 << 32 | u64::from(published), Relaxed);
        lane.limit.store(1 << 32 | limit, Relaxed);
        let words = |size: u64| {
            // SAFETY: the lane and what follows it lie in the memory, which is accessed atomically only.
            let behind = unsafe { receiver.lane(0, 0).as_ptr().byte_add(size as usize) };
            let end = nic.memory.base().as_ptr() as usize + nic.memory.size() as usize;
            // SAFETY: likewise.
            let words: &[AtomicU64] =
                unsafe { std::slice::from_raw_parts(behind, (end - behind as usize) / 8) };
            let words = words.iter().map(|word| word.load(Relaxed));
            words.collect::<Vec<_>>()
        };
        let before = words(u64::from(LARGE) + SLACK);
        for seed in 0..40 {
            sender.send(&frame(mac(1), mac(0), 1500, seed));
        }
        assert_eq!(sender.call(u64::MAX, false), 40);
        assert!(words(u64::from(LARGE) + SLACK) == before, "{published:#x}");
    }
}
