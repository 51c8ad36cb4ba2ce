//! Tenants that follow each other at one port.

use std::sync::atomic::Ordering::{Relaxed, Release};

use postern_abi::service::{ERR_BAD_REQUEST, OP_FEATURES};
use postern_abi::window::{FEATURES, Published, record_size};

use super::{attach_all, attacks, exchange, station, three};
use crate::common::build::Build;
use crate::common::{BROADCAST, Guest, LARGE, SMALL, TestNic, frame, geometry, mac, port, secret};

attacks!(
    a_new_tenant_inherits_nothing,
    a_call_stopped_before_it_publishes_for_a_former_tenant,
    any_position_is_a_beginning,
    the_first_frame_is_told_at_any_position,
    features_end_with_the_tenant,
);

fn a_new_tenant_inherits_nothing(build: Build) {
    let nic = three(build);
    let mut guests = attach_all(&nic);
    let [_, other, third] = &mut guests[..] else {
        unreachable!()
    };
    let mut old = Guest::alias(&nic, guest_caller(&nic, 0, 1));
    // A station behind the port, frames in its lanes and in its TX ring.
    old.send(&frame(mac(1), station(5), 64, 1));
    assert_eq!(old.call(1, true), 1);
    other.receive(0, 9);
    for n in 0..5 {
        other.send(&frame(station(5), mac(1), 64, n));
        old.send(&frame(mac(2), mac(0), 64, n));
    }
    assert_eq!(other.call(9, true), 5);
    assert!(third.receive(1, 9).is_empty());
    // The former tenant breaks its positions before it goes.
    old.consumed(0, 1).store(0x7777_7777, Release);
    old.producer(0).store(0x7777_7777, Release);

    nic.switch().evict(port(0));
    assert_eq!(old.call(1, false), ERR_BAD_REQUEST);
    let key = nic.switch().key();
    assert!(
        nic.switch()
            .state()
            .fdb
            .entries(key)
            .all(|entry| entry.port != 0)
    );
    // The port has no tenant: not even broadcast reaches it.
    third.send(&frame(BROADCAST, mac(2), 64, 1));
    assert_eq!(third.call(1, true), 1);
    assert_eq!(other.receive(2, 9).len(), 1);

    let mut new = Guest::attach(&nic, 0, 2);
    assert_eq!(old.call(1, false), ERR_BAD_REQUEST, "still");
    // Ring and lanes are empty.
    let rings = new
        .ring(0)
        .iter()
        .chain((0..3).flat_map(|sender| new.lane(0, sender)));
    assert!(rings.into_iter().all(|word| word.load(Relaxed) == 0));
    assert_eq!(new.call(9, false), 0);
    for from in 0..3 {
        assert!(new.receive(from, 9).is_empty());
    }
    // The station is not known any more: its frames are flooded, to the new tenant too.
    other.send(&frame(station(5), mac(1), 64, 7));
    assert_eq!(other.call(9, true), 1);
    assert_eq!(new.receive(1, 9), [frame(station(5), mac(1), 64, 7)]);
    assert_eq!(third.receive(1, 9).len(), 1);
    exchange(&mut new, other, 8);
    exchange(other, &mut new, 9);
    exchange(third, &mut new, 9);
}

fn guest_caller(
    nic: &TestNic,
    number: u32,
    tenancy: u32,
) -> postern_switch::credentials::Credentials {
    postern_switch::credentials::Credentials::new(
        nic.geometry(),
        port(number),
        tenancy,
        secret(tenancy),
    )
}

/// A call that was stopped between the look at the tenancy and the publication goes on when another
/// tenant is there. It has written records, and stores its position with the former tenancy.
fn a_call_stopped_before_it_publishes_for_a_former_tenant(build: Build) {
    let nic = three(build);
    let mut guests = attach_all(&nic);
    let [sender, former, _] = &mut guests[..] else {
        unreachable!()
    };
    for tenancy in 2..40 {
        exchange(sender, former, tenancy.into());
        let secret = frame(mac(1), mac(0), 60 * (tenancy as usize % 3 + 1), 1234);
        let lane = nic.switch().lane(1, 0).unwrap();
        let position = lane.published.load(Relaxed) as u32;
        let mut new = Guest::attach(&nic, 1, tenancy);
        // The call writes its records before the new tenant's window is cleared, or after that.
        let at = (position & (LARGE - 1)) as usize / 8;
        let size = record_size(secret.len() as u32);
        if at + size as usize / 8 <= LARGE as usize / 8 {
            new.lane(0, 0)[at].store(secret.len() as u64, Relaxed);
            for (word, bytes) in new.lane(0, 0)[at + 2..].iter().zip(secret.chunks_exact(8)) {
                word.store(u64::from_le_bytes(bytes.try_into().unwrap()), Relaxed);
            }
        }
        let position = position.wrapping_add(size as u32);
        lane.position.store(position, Relaxed);
        let word = Published {
            position,
            tenancy: tenancy - 1,
        };
        lane.published.store(word.word(), Relaxed);
        new.published(0, 0).store(word.word(), Release);
        assert!(new.receive(0, 9).is_empty());
        exchange(sender, &mut new, tenancy.into());
        exchange(sender, &mut new, tenancy.into());
        *former = new;
    }
}

/// Whatever positions the former tenants left, the next one can send and receive.
fn any_position_is_a_beginning(build: Build) {
    let nic = TestNic::new(build, geometry(2, 2, SMALL, SMALL));
    let ends = [0x8000_0000u32, 4096, u32::MAX - 15, u32::MAX - 1023, 16];
    for (tenancy, position) in (1..).zip(ends) {
        for from in 0..4 {
            let sender = nic.switch().sender(from).unwrap();
            sender.tx_next.store(position, Relaxed);
            for to in 0..4 {
                let lane = nic.switch().lane(to, from).unwrap();
                let position = u64::from(position.wrapping_mul(3));
                lane.published.store(position, Relaxed);
            }
        }
        let mut a = Guest::attach(&nic, 0, tenancy);
        let mut b = Guest::attach(&nic, 1, tenancy);
        for seed in 0..40 {
            exchange(&mut a, &mut b, seed);
            exchange(&mut b, &mut a, seed);
        }
    }
}

/// A tenant that has found its queue empty looks at it again when the first frame is there, even if
/// that is published at position 0.
fn the_first_frame_is_told_at_any_position(build: Build) {
    let nic = TestNic::new(build, geometry(2, 1, SMALL, SMALL));
    for (tenancy, position) in (1..).zip([0, 16, 80, 160]) {
        let lane = nic.switch().lane(1, 0).unwrap();
        lane.published
            .store(u64::from(0u32.wrapping_sub(position)), Relaxed);
        let mut from = Guest::attach(&nic, 0, tenancy);
        let mut to = Guest::attach(&nic, 1, tenancy);
        let latest = nic.switch().latest(port(1), 0).unwrap();
        for seed in 0..4 {
            let seen = latest.load(Relaxed);
            let bytes = frame(to.mac(), from.mac(), 64, seed);
            from.send(&bytes);
            assert_eq!(from.call(1, true), 1);
            assert_ne!(latest.load(Relaxed), seen, "{position} {seed}");
            assert_eq!(to.receive(0, 9), [bytes]);
        }
    }
}

fn features_end_with_the_tenant(build: Build) {
    let nic = three(build);
    let guest = Guest::attach(&nic, 0, 1);
    let agree = |guest: &Guest<'_>, features, zero| {
        let request = guest.caller.secret().request(OP_FEATURES);
        nic.serve(&guest.caller, 0, [request, features, zero])
    };
    let all = u64::from(FEATURES);
    assert_eq!(agree(&guest, all, 0), all);
    for (features, zero) in [(1 << 63, 0), (all + 1, 0), (0, 1), (1 << 32, 0)] {
        assert_eq!(agree(&guest, features, zero), ERR_BAD_REQUEST);
    }
    let features = || nic.switch().port(port(0)).unwrap().features.load(Relaxed);
    assert_eq!(features(), FEATURES);
    let new = Guest::attach(&nic, 0, 2);
    assert_eq!(features(), 0);
    assert_eq!(agree(&guest, 1, 0), ERR_BAD_REQUEST, "by the former tenant");
    assert_eq!(features(), 0);
    drop(new);
}
