//! Requests without the secret of the tenancy, as any process of a guest can make them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use postern_abi::service::{ERR_BAD_REQUEST, ERR_NO_SECRET, OP_FEATURES, OP_NOP, OP_TX, tx_flags};
use postern_abi::window::{FEATURES, WindowHeader};
use postern_switch::credentials::Credentials;
use postern_switch::layout;
use postern_switch::state::PortState;
use proptest::prelude::*;

use super::{attach_all, attacks, exchange, three};
use crate::common::build::Build;
use crate::common::{Guest, SMALL, TestNic, frame, geometry, mac, port, secret};

attacks!(
    a_wrong_secret_is_refused_and_counted_and_changes_nothing,
    a_guest_that_overwrites_its_secret_locks_out_itself,
    the_secret_of_a_former_tenancy_is_refused,
    nothing_without_the_secret_is_served_with_it_elsewhere,
);

/// All words of a NIC's memory.
fn words(nic: &TestNic) -> Vec<u64> {
    let memory = &nic.memory;
    // SAFETY: the mapping is page aligned, has that size, and is only accessed atomically.
    let words = unsafe {
        let base = memory.base().as_ptr().cast::<AtomicU64>();
        std::slice::from_raw_parts(base, memory.size() as usize / 8)
    };
    words.iter().map(|word| word.load(Relaxed)).collect()
}

/// Index in [`words`] of a port's counter of refused requests.
fn counter(number: u32) -> usize {
    let offset = layout::port_offset(number) as usize;
    (offset + std::mem::offset_of!(PortState, refused)) / 8
}

/// Checks that a request is refused, counted, and changes nothing else in all of the memory.
fn is_refused(nic: &TestNic, caller: &Credentials, vcpu: u32, request: [u64; 3]) {
    let mut before = words(nic);
    let result = nic.serve(caller, vcpu, request);
    assert_eq!(result, ERR_NO_SECRET, "{request:#x?}");
    before[counter(caller.port().number())] += 1;
    let after = words(nic);
    let changed = (0..before.len()).find(|index| before[*index] != after[*index]);
    assert_eq!(changed, None, "word changed by {request:#x?}");
}

fn a_wrong_secret_is_refused_and_counted_and_changes_nothing(build: Build) {
    let nic = three(build);
    let mut guests = attach_all(&nic);
    let word = secret(1).word();
    // A driver holds frames, and has agreed on offloads.
    let agreed = [secret(1).request(OP_FEATURES), FEATURES.into(), 0];
    assert_eq!(nic.serve(&guests[0].caller, 0, agreed), u64::from(FEATURES));
    for seed in 0..3 {
        guests[0].send(&frame(mac(1), mac(0), 60, seed));
    }
    let caller = guests[0].caller;
    let others = [0, 1, 2, 31, 63].map(|bit| word ^ 1 << bit);
    let others = others.into_iter().chain([
        word.wrapping_neg(),
        word.swap_bytes(),
        word << 32,
        secret(2).word(),
    ]);
    let mut tried = 0;
    for other in others.chain([0]) {
        for op in [OP_TX, OP_FEATURES, 3, 255] {
            let request = other.wrapping_add(op);
            // The number of a request of this tenancy is none by chance.
            if request.wrapping_sub(word) > OP_FEATURES {
                for vcpu in [0, 1, 7, u32::MAX] {
                    is_refused(&nic, &caller, vcpu, [request, u64::MAX, tx_flags(0, false)]);
                    is_refused(&nic, &caller, vcpu, [request, 0, 0]);
                    tried += 2;
                }
            }
        }
    }
    for op in [3, 4, 255, 1 << 32, u64::MAX] {
        is_refused(&nic, &caller, 0, [secret(1).request(op), 1, 0]);
        tried += 1;
    }
    let refused = |number| {
        nic.switch()
            .port(port(number))
            .unwrap()
            .refused
            .load(Relaxed)
    };
    assert_eq!([0, 1, 2].map(refused), [tried, 0, 0]);
    // The request that does nothing does nothing, and counts for nothing.
    let before = words(&nic);
    assert_eq!(nic.serve(&caller, 0, [OP_NOP, u64::MAX, u64::MAX]), 0);
    assert_eq!(nic.serve(&caller, 0, [secret(1).request(OP_NOP), 1, 1]), 0);
    assert_eq!(before, words(&nic));
    // What the driver held is still there.
    assert_eq!(guests[0].call(9, true), 3);
    assert_eq!(guests[1].receive(0, 9).len(), 3);
}

fn header(guest: &Guest<'_>) -> WindowHeader {
    // SAFETY: the window begins with a header; nobody writes it meanwhile.
    unsafe { guest.window().cast::<WindowHeader>().read() }
}

/// The NIC never reads the secret in the window: whatever a guest writes there is its own loss,
/// which ends with the tenancy.
fn a_guest_that_overwrites_its_secret_locks_out_itself(build: Build) {
    let nic = three(build);
    let mut guests = attach_all(&nic);
    assert_eq!(header(&guests[0]).secret, secret(1));
    let offset = std::mem::offset_of!(WindowHeader, secret);
    // SAFETY: the secret is an aligned word of the window.
    let place = unsafe { AtomicU64::from_ptr(guests[0].window().add(offset).cast()) };
    for other in [0, secret(9).word(), u64::MAX - 9] {
        place.store(other, Relaxed);
        let request = header(&guests[0]).secret.request(OP_TX);
        is_refused(&nic, &guests[0].caller, 0, [request, 1, 0]);
        // Programs that know the secret go on.
        let (sender, others) = guests.split_first_mut().unwrap();
        exchange(sender, &mut others[0], other % 1000);
        let (receiver, others) = others.split_first_mut().unwrap();
        exchange(&mut others[0], receiver, other % 1000);
    }
    let mut new = Guest::attach(&nic, 0, 2);
    assert_eq!(header(&new).secret, secret(2));
    exchange(&mut new, &mut guests[1], 5);
}

fn the_secret_of_a_former_tenancy_is_refused(build: Build) {
    let nic = three(build);
    let mut guests = attach_all(&nic);
    let old = guests[0].caller;
    let mut new = Guest::attach(&nic, 0, 2);
    // The former tenant, by its own words: it has no port, and counts for nothing.
    let before = words(&nic);
    for op in [OP_TX, OP_FEATURES, 77] {
        let result = nic.serve(&old, 0, [old.secret().request(op), 1, 0]);
        assert_eq!(result, ERR_BAD_REQUEST);
        assert_eq!(nic.serve(&old, 0, [op, 1, 0]), ERR_BAD_REQUEST);
    }
    assert_eq!(before, words(&nic));
    // A process of the new tenant that has seen the former one's secret.
    for op in [OP_NOP, OP_TX, OP_FEATURES] {
        is_refused(&nic, &new.caller, 0, [secret(1).request(op), 1, 0]);
    }
    exchange(&mut new, &mut guests[1], 7);
    // The counter is the tenancy's.
    Guest::attach(&nic, 0, 3);
    let refused = &nic.switch().port(port(0)).unwrap().refused;
    assert_eq!(refused.load(Relaxed), 0);
}

/// Ports of one NIC have secrets of their own.
fn nothing_without_the_secret_is_served_with_it_elsewhere(build: Build) {
    let nic = TestNic::new(build, geometry(4, 1, SMALL, SMALL));
    let guests: Vec<_> = (0..4)
        .map(|number| Guest::attach(&nic, number, 10 + number))
        .collect();
    for one in &guests {
        for other in guests.iter().filter(|other| other.number() != one.number()) {
            let request = other.caller.secret().request(OP_TX);
            is_refused(&nic, &one.caller, 0, [request, 1, 0]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]
    /// Whatever the word and the arguments are, a request without the secret changes a counter.
    #[test]
    fn any_word(
        build in prop::sample::select(&Build::ALL[..]),
        secret in (1u64 << 16..u64::MAX - (1 << 16)),
        request in prop_oneof![1u64..5, any::<u64>()],
        vcpu in prop_oneof![0u32..3, any::<u32>()],
        a: u64,
        b in prop_oneof![0u64..16, any::<u64>()],
    ) {
        prop_assume!(request.wrapping_sub(secret) > OP_FEATURES);
        let nic = TestNic::new(build, geometry(2, 2, SMALL, SMALL));
        let secret = postern_abi::service::Secret::from_word(secret);
        nic.switch().admit(port(1), 5, secret, mac(1));
        let mut guest = Guest::alias(&nic, Credentials::new(nic.geometry(), port(1), 5, secret));
        guest.send(&frame(mac(0), mac(1), 60, 1));
        is_refused(&nic, &guest.caller, vcpu, [request, a, b]);
    }
}
