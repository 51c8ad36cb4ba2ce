//! Records whose headers are not true.

use std::sync::atomic::Ordering::{Acquire, Relaxed};

use postern_abi::window::{KIND_FRAME, MAX_FRAME, PAD_WORD, RecordHeader, record_size};
use postern_switch::state::Cause;

use super::{attach_all, attacks, exchange, three};
use crate::common::build::Build;
use crate::common::{BROADCAST, Guest, LARGE, SMALL, TestNic, frame, geometry, mac};

attacks!(
    a_length_of_65535,
    a_length_of_all_ones,
    a_record_that_crosses_the_end_of_the_ring,
    a_record_that_leads_past_the_producer,
    padding_that_leads_outside,
    padding_behind_padding,
    frames_of_no_and_of_one_byte,
    no_length_shows_what_is_behind,
    a_batch_larger_than_the_ring,
    a_call_takes_no_more_than_it_may,
    broadcast_copies_no_more_than_it_may,
    headers_that_ask_for_what_was_not_agreed_on,
);

/// Sends one record with any header, gives `given` bytes of the ring to the NIC, and returns the
/// cause by which it was dropped.
fn refused(build: Build, words: (u64, u64), given: u32) -> Cause {
    let nic = three(build);
    let mut guests = attach_all(&nic);
    let [sender, a, b] = &mut guests[..] else {
        unreachable!()
    };
    let before = nic.switch().sender(0).unwrap().frames.load(Relaxed);
    sender.put(0, words, &frame(mac(1), mac(0), 60, 1));
    sender.commit(0, given);
    assert_eq!(sender.call(9, true), 1);
    assert!(a.receive(0, 9).is_empty() && b.receive(0, 9).is_empty());
    assert_eq!(
        nic.switch().sender(0).unwrap().frames.load(Relaxed),
        before + 1
    );
    let causes = Cause::ALL
        .into_iter()
        .filter(|cause| sender.drops(*cause) != 0);
    let causes: Vec<_> = causes.collect();
    assert_eq!(causes.len(), 1, "{causes:?}");
    assert_eq!(sender.drops(causes[0]), 1);
    // The sender goes on at the NIC's position, which is not behind the producer position.
    assert!(sender.tx[0].wrapping_sub(sender.consumer(0).load(Acquire)) < given);
    sender.resume();
    exchange(sender, a, 7);
    causes[0]
}

fn a_length_of_65535(build: Build) {
    let words = RecordHeader::plain(65535).words();
    assert_eq!(refused(build, words, 80), Cause::BadDescriptor);
    assert_eq!(refused(build, words, 32768), Cause::BadDescriptor);
    // The whole frame is in the ring, and too long.
    let nic = TestNic::new(build, geometry(3, 1, 4 * LARGE, LARGE));
    let mut guests = attach_all(&nic);
    guests[0].put(0, words, &frame(mac(1), mac(0), 65535, 1));
    guests[0].commit(0, record_size(65535) as u32);
    assert_eq!(guests[0].call(9, true), 1);
    assert_eq!(guests[0].drops(Cause::TooLong), 1);
    assert!(guests[1].receive(0, 9).is_empty());
    drop(nic);
    // The frame is one byte longer than the longest.
    let words = RecordHeader::plain(MAX_FRAME + 1).words();
    assert_eq!(
        refused(build, words, record_size(MAX_FRAME + 1) as u32),
        Cause::TooLong
    );
}

fn a_length_of_all_ones(build: Build) {
    for length in [
        u32::MAX,
        u32::MAX - 15,
        u32::MAX - 31,
        0x8000_0000,
        0x8000_0040,
        0xffff_0040,
    ] {
        let words = RecordHeader::plain(length).words();
        assert_eq!(
            refused(build, words, 80),
            Cause::BadDescriptor,
            "{length:#x}"
        );
        assert_eq!(
            refused(build, words, LARGE),
            Cause::BadDescriptor,
            "{length:#x}"
        );
    }
    assert_eq!(
        refused(build, (u64::MAX, u64::MAX), 80),
        Cause::BadDescriptor
    );
}

fn a_record_that_crosses_the_end_of_the_ring(build: Build) {
    let nic = TestNic::new(build, geometry(2, 1, SMALL, SMALL));
    let mut guests = attach_all(&nic);
    let [sender, receiver] = &mut guests[..] else {
        unreachable!()
    };
    // The position is so near to the end that the record does not fit in front of it.
    for left in (16..=112u32).step_by(16) {
        loop {
            let to_end = SMALL - (sender.tx[0] & (SMALL - 1));
            if to_end == left {
                break;
            }
            let length = if to_end < left + 32 { 60 } else { 16 };
            sender.send(&frame(mac(1), mac(0), length, 1));
            assert_eq!(sender.call(9, true), 1);
            receiver.receive(0, 9);
        }
        let before = sender.drops(Cause::BadDescriptor);
        sender.put(
            0,
            RecordHeader::plain(left).words(),
            &frame(mac(1), mac(0), 112, 2),
        );
        sender.commit(0, 512);
        assert_eq!(sender.call(9, true), 1, "{left}");
        assert_eq!(sender.drops(Cause::BadDescriptor), before + 1);
        assert!(receiver.receive(0, 9).is_empty(), "{left}");
        exchange(sender, receiver, u64::from(left));
    }
}

fn a_record_that_leads_past_the_producer(build: Build) {
    for (length, given) in [
        (60, 16),
        (60, 32),
        (60, 64),
        (1514, 1520),
        (9018, 9024),
        (14, 16),
    ] {
        let words = RecordHeader::plain(length).words();
        assert_eq!(
            refused(build, words, given),
            Cause::BadDescriptor,
            "{length} {given}"
        );
    }
}

fn padding_that_leads_outside(build: Build) {
    // The padding claims the rest of the ring, which lies behind the producer position.
    for given in [16, 32, 4096, LARGE - 16] {
        assert_eq!(refused(build, (0, PAD_WORD), given), Cause::BadDescriptor);
        // The other fields of the header mean nothing.
        let words = (u64::MAX, PAD_WORD | 0xffff_ffff_ffff);
        assert_eq!(refused(build, words, given), Cause::BadDescriptor);
    }
}

fn padding_behind_padding(build: Build) {
    let nic = TestNic::new(build, geometry(3, 1, SMALL, SMALL));
    let mut guests = attach_all(&nic);
    let [sender, a, b] = &mut guests[..] else {
        unreachable!()
    };
    for word in sender.ring(0).chunks(2) {
        word[0].store(0, Relaxed);
        word[1].store(PAD_WORD, Relaxed);
    }
    for (round, step) in [SMALL, SMALL, 16, SMALL, SMALL - 16, 32, SMALL]
        .into_iter()
        .enumerate()
    {
        sender.commit(0, step);
        // The call ends, and takes padding for no frame.
        let taken = sender.call(u64::MAX, false);
        assert!(taken <= 1, "{round}");
        let left = sender.tx[0].wrapping_sub(sender.consumer(0).load(Acquire));
        assert_eq!(left, 0, "{round}");
    }
    assert!(a.receive(0, 9).is_empty() && b.receive(0, 9).is_empty());
    exchange(sender, a, 5);
}

fn frames_of_no_and_of_one_byte(build: Build) {
    let nic = three(build);
    let mut guests = attach_all(&nic);
    for to in [mac(1), BROADCAST] {
        for length in 0..14 {
            guests[0].send(&frame(to, mac(0), 64, 1)[..length]);
        }
    }
    // A header alone, at the end of the records.
    guests[0].put(0, (0, 0), &[]);
    guests[0].commit(0, 16);
    assert_eq!(guests[0].call(u64::MAX, true), 29);
    assert_eq!(guests[0].drops(Cause::TooShort), 29);
    for guest in &mut guests[1..] {
        assert!(guest.receive(0, 9).is_empty());
    }
    assert_eq!(nic.switch().sender(0).unwrap().learned.load(Relaxed), 0);
}

/// The bytes behind a frame in its record are zero, as the receiver checks. In the sender's ring
/// they are not.
fn no_length_shows_what_is_behind(build: Build) {
    let nic = three(build);
    let mut guests = attach_all(&nic);
    let lengths = (14..700).chain((700..9000).step_by(61)).chain(8990..=9018);
    for length in lengths {
        for to in [mac(1), BROADCAST] {
            let bytes = frame(to, mac(0), length, length as u64);
            guests[0].send(&bytes);
            assert_eq!(guests[0].call(1, true), 1);
            assert_eq!(guests[1].receive(0, 9), [&*bytes], "{length}");
            let flooded = if to == BROADCAST { vec![bytes] } else { vec![] };
            assert_eq!(guests[2].receive(0, 9), flooded, "{length}");
        }
    }
}

fn a_batch_larger_than_the_ring(build: Build) {
    let nic = TestNic::new(build, geometry(2, 1, SMALL, SMALL));
    let mut guests = attach_all(&nic);
    let [sender, receiver] = &mut guests[..] else {
        unreachable!()
    };
    for (seed, count) in (0..).zip([1 << 32, u64::MAX, u64::MAX - 1, 1 << 63, 0x1_0000_0005]) {
        let bytes = frame(mac(1), mac(0), 60, seed);
        while sender.try_send(&bytes) {}
        let frames = sender.call(count, false);
        assert!((50..=51).contains(&frames), "{frames}");
        assert_eq!(sender.call(count, false), 0);
        assert_eq!(receiver.receive(0, 999), vec![bytes; frames as usize]);
    }
    assert_eq!(sender.call(0, false), 0);
}

fn a_call_takes_no_more_than_it_may(build: Build) {
    let nic = three(build);
    let mut guests = attach_all(&nic);
    let mut sent = 0;
    while guests[0].try_send(&frame(mac(1), mac(0), 14, sent)) {
        sent += 1;
    }
    assert!(sent > 1024);
    for count in [256, 257, 1000, u64::MAX] {
        assert_eq!(guests[0].call(count, true), 256);
    }
    assert_eq!(guests[0].call(3, true), 3);
    let received = guests[1].receive(0, usize::MAX);
    assert_eq!(received.len(), 4 * 256 + 3);
    for (seed, bytes) in (0..).zip(&received) {
        assert_eq!(*bytes, frame(mac(1), mac(0), 14, seed));
    }
}

/// Each call ends after about [`MAX_TX_BYTES`](postern_abi::service::MAX_TX_BYTES), however many
/// ports there are.
fn broadcast_copies_no_more_than_it_may(build: Build) {
    use postern_abi::service::{MAX_TX_BYTES, TX_MORE};
    const PORTS: u32 = 64;
    const LENGTH: usize = 8000;
    let nic = TestNic::new(build, geometry(PORTS, 1, 8 * LARGE, LARGE / 4));
    let mut guests = attach_all(&nic);
    let bytes = frame(BROADCAST, mac(0), LENGTH, 1);
    let mut left = 0;
    while guests[0].try_send(&bytes) {
        left += 1;
    }
    assert!(left > 50);
    while left != 0 {
        let taken = guests[0].call(u64::MAX, false) & !TX_MORE;
        assert!(taken != 0 && taken <= left);
        let most = MAX_TX_BYTES + u64::from(PORTS - 1) * LENGTH as u64;
        let copied = taken * u64::from(PORTS - 1) * LENGTH as u64;
        assert!(copied <= most, "{copied} bytes, {taken} frames");
        left -= taken;
    }
    for guest in &mut guests[1..] {
        let received = guest.receive(0, 9);
        assert_eq!(received.len(), 2, "a lane holds two");
        assert!(received.iter().all(|received| *received == bytes));
    }
}

fn headers_that_ask_for_what_was_not_agreed_on(build: Build) {
    let nic = three(build);
    let mut guests = attach_all(&nic);
    let bytes = frame(mac(1), mac(0), 60, 3);
    let plain = RecordHeader::plain(60).words();
    let mut bad = 0;
    for bit in (32..128u32).filter(|bit| *bit != 112) {
        let (first, second) = match bit {
            ..64 => (plain.0 | 1 << bit, plain.1),
            _ => (plain.0, plain.1 | 1 << (bit - 64)),
        };
        let header = RecordHeader::from_words(first, second);
        assert!(header.kind == KIND_FRAME || header.kind > 1);
        assert!(guests[0].try_put(0, header, &bytes));
        bad += 1;
    }
    assert_eq!(guests[0].call(u64::MAX, true), bad);
    assert_eq!(guests[0].drops(Cause::BadDescriptor), bad);
    assert!(guests[1].receive(0, 9).is_empty());
    let mut guests: Vec<Guest<'_>> = guests;
    let (sender, others) = guests.split_first_mut().unwrap();
    exchange(sender, &mut others[0], 5);
}
