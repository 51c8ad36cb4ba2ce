//! Senders that use the addresses of other stations.

use std::sync::atomic::Ordering::Relaxed;

use postern_switch::state::Cause;

use super::{attach_all, attacks, exchange, station, three};
use crate::common::build::Build;
use crate::common::{BROADCAST, frame, mac};

attacks!(
    the_address_of_another_port_in_one_frame,
    a_flood_of_addresses_evicts_nobody,
    group_sources_are_not_learned,
    broadcast_and_unicast_of_one_batch_keep_their_order,
    a_sender_receives_nothing_of_its_own,
);

const MULTICAST: [u8; 6] = [0x01, 0, 0x5e, 1, 2, 3];

fn the_address_of_another_port_in_one_frame(build: Build) {
    let nic = three(build);
    let mut guests = attach_all(&nic);
    let [attacker, victim, peer] = &mut guests[..] else {
        unreachable!()
    };
    for (seed, to) in (0..).zip([BROADCAST, mac(2), mac(1), mac(0), station(5)]) {
        attacker.send(&frame(to, mac(1), 60, seed));
        assert_eq!(attacker.call(1, true), 1);
        victim.skip(0, 0);
        peer.skip(0, 0);
        exchange(peer, victim, seed);
        assert!(attacker.receive(2, 9).is_empty());
    }
    assert_eq!(nic.switch().sender(0).unwrap().moved.load(Relaxed), 0);
}

fn a_flood_of_addresses_evicts_nobody(build: Build) {
    let nic = three(build);
    let mut guests = attach_all(&nic);
    let [attacker, victim, peer] = &mut guests[..] else {
        unreachable!()
    };
    // Stations behind the victim's port that are learned, not its own.
    for number in 0..8 {
        victim.send(&frame(mac(2), station(number), 60, 0));
    }
    assert_eq!(victim.call(99, true), 8);
    let mut number = 0u32;
    for _ in 0..400 {
        for _ in 0..256 {
            let [a, b, c, d] = number.to_le_bytes();
            attacker.send(&frame(mac(0), [0x06, 0x11, a, b, c, d], 14, 0));
            number += 1;
        }
        assert_eq!(attacker.call(256, true), 256);
    }
    assert_eq!(attacker.drops(Cause::NoDestination), 400 * 256);
    let learned = nic.switch().sender(0).unwrap().learned.load(Relaxed);
    assert!(learned > 16_000, "the database was full: {learned}");
    peer.skip(0, 1);
    for number in 0..8 {
        let bytes = frame(station(number), mac(2), 60, number.into());
        peer.send(&bytes);
        assert_eq!(peer.call(1, true), 1);
        assert_eq!(victim.receive(2, 9), [bytes]);
        assert!(attacker.receive(2, 9).is_empty(), "flooded");
    }
    exchange(peer, victim, 3);
}

fn group_sources_are_not_learned(build: Build) {
    let nic = three(build);
    let mut guests = attach_all(&nic);
    let [attacker, victim, peer] = &mut guests[..] else {
        unreachable!()
    };
    let known = || nic.switch().state().fdb.entries(nic.switch().key()).count();
    let before = known();
    for source in [BROADCAST, MULTICAST, [0x03, 0xaa, 0xbb, 0xcc, 0xdd, 1]] {
        attacker.send(&frame(mac(1), source, 60, 1));
        attacker.send(&frame(BROADCAST, source, 60, 1));
    }
    assert_eq!(attacker.call(9, true), 6);
    assert_eq!(known(), before);
    victim.skip(0, 0);
    peer.skip(0, 0);
    for to in [BROADCAST, MULTICAST] {
        let bytes = frame(to, mac(2), 60, 2);
        peer.send(&bytes);
        assert_eq!(peer.call(1, true), 1);
        assert_eq!(victim.receive(2, 9), [&*bytes]);
        assert_eq!(attacker.receive(2, 9), [&*bytes]);
    }
}

fn broadcast_and_unicast_of_one_batch_keep_their_order(build: Build) {
    let nic = three(build);
    let mut guests = attach_all(&nic);
    let [sender, a, b] = &mut guests[..] else {
        unreachable!()
    };
    let (mut to_a, mut to_b) = (Vec::new(), Vec::new());
    let mut word = 12345u64;
    for round in 0..40 {
        let mut sent = 0;
        for n in 0..200u64 {
            word = word.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            // Runs of frames with one destination, and single frames.
            let to = match word >> 40 & 7 {
                0 | 1 => mac(1),
                2 | 3 => mac(2),
                4 | 5 => BROADCAST,
                6 => MULTICAST,
                _ => station(77),
            };
            let from = if word >> 45 & 7 == 0 {
                station(9)
            } else {
                mac(0)
            };
            let bytes = frame(to, from, 14 + (word >> 50) as usize % 80, round * 1000 + n);
            sender.send(&bytes);
            sent += 1;
            if to != mac(2) {
                to_a.push(bytes.clone());
            }
            if to != mac(1) {
                to_b.push(bytes);
            }
        }
        assert_eq!(sender.call(u64::MAX, true), sent);
        assert_eq!(a.receive(0, usize::MAX), std::mem::take(&mut to_a));
        assert_eq!(b.receive(0, usize::MAX), std::mem::take(&mut to_b));
    }
}

fn a_sender_receives_nothing_of_its_own(build: Build) {
    let nic = three(build);
    let mut guests = attach_all(&nic);
    guests[0].send(&frame(BROADCAST, mac(0), 64, 1));
    guests[0].send(&frame(mac(0), mac(0), 64, 2));
    guests[0].send(&frame(station(3), station(3), 64, 2));
    assert_eq!(guests[0].call(9, true), 3);
    assert!(guests[0].receive(0, 9).is_empty());
    assert_eq!(guests[1].receive(0, 9).len(), 1);
    assert_eq!(guests[2].receive(0, 9).len(), 1);
    assert_eq!(guests[0].drops(Cause::NoDestination), 2);
}
