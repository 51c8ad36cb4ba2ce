//! A port gets a new tenant while a call delivers to it, stopped anywhere or not at all.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod common;

use std::sync::atomic::{AtomicBool, Ordering as Real};

use common::{Guest, ModelNic, check, frame, mac, port, secret};
use loom::thread;
use postern_nic_models::sync::modelled::{Mutation, share, stop_after};

/// Two frames for the former tenant were published and not read, and a third one is being sent.
/// Returns whether the call came to its end.
fn change(nic: ModelNic, stop: u32, known: bool) -> bool {
    nic.reset();
    let geometry = nic.geometry;
    let mut sender = Guest::new(nic, 0, 1, 1);
    for tag in [1, 2] {
        sender.send(frame(1, 0, tag));
        assert_eq!(nic.call(0, 1, true), 1);
    }
    // The frame has a cached route, or is flooded.
    sender.send(frame(if known { 1 } else { 7 }, 0, 3));
    let state = nic.state();
    nic.share_lane(0, 1);
    nic.share_longs(1, geometry.lane_offset(0, 0), 4 * 32);
    share((&raw const state.generation).cast(), 8);
    share((&raw const state.tenancy[1]).cast(), 4);
    share((&raw const state.attached[0]).cast(), 8);
    let host = thread::spawn(move || {
        nic.switch().admit(port(1), 2, secret(2), mac(1));
        let mut guest = Guest::new(nic, 1, 0, 2);
        let frames = guest.receive(0);
        (guest, frames)
    });
    let done = stop_after(stop, || nic.call(0, 1, true)).is_some();
    let (mut guest, mut frames) = host.join().unwrap();
    frames.extend(guest.receive(0));
    // The next calls of the sender deliver again.
    sender.producer = nic
        .switch()
        .sender(0)
        .unwrap()
        .tx_next
        .load(postern_nic_models::sync::Ordering::Relaxed);
    for tag in [4, 5] {
        sender.send(frame(1, 0, tag));
        assert_eq!(nic.call(0, 1, true), 1);
    }
    frames.extend(guest.receive(0));
    let late: Vec<_> = frames.iter().copied().filter(|tag| *tag > 3).collect();
    assert_eq!(late, [4, 5], "the next frames arrive");
    let early = frames.iter().filter(|tag| **tag < 3).count();
    assert_eq!(early, 0, "nothing of the former tenant's");
    done
}

/// Checks a call that is stopped in front of each of its accesses, and one that is not stopped. What a
/// stopped call has done is what the other one has done so far, so that one preemption more says
/// little there, and takes ten times as long.
fn check_change(known: bool) {
    let nic = ModelNic::new(2);
    for stop in 0.. {
        let all = std::sync::Arc::new(AtomicBool::new(true));
        let seen = std::sync::Arc::clone(&all);
        check(Mutation::None, 1, move || {
            if !change(nic, stop, known) {
                seen.store(false, Real::Relaxed);
            }
        });
        if all.load(Real::Relaxed) {
            break;
        }
    }
    check_whole(Mutation::None, known);
}

/// Checks a call that is not stopped.
fn check_whole(mutation: Mutation, known: bool) {
    let nic = ModelNic::new(2);
    check(mutation, 2, move || {
        change(nic, u32::MAX, known);
    });
}

#[test]
fn a_new_tenant_gets_its_own_frames_whatever_a_call_by_a_cached_route_does() {
    check_change(true);
}

#[test]
fn a_new_tenant_gets_its_own_frames_whatever_a_call_without_a_cached_route_does() {
    check_change(false);
}

/// A call that is not stopped, with weaker stores, delivers to the wrong tenant or not at all.
#[test]
#[should_panic]
fn a_change_of_tenants_needs_release() {
    check_whole(Mutation::RelaxedStores, false);
}

#[test]
#[should_panic]
fn a_change_of_tenants_needs_acquire() {
    check_whole(Mutation::RelaxedLoads, false);
}

/// Without a new generation the cached route leads to the former tenant for ever.
#[test]
#[should_panic(expected = "the next frames arrive")]
fn a_change_of_tenants_needs_the_generation() {
    let nic = ModelNic::new(2);
    let generation = (&raw const nic.state().generation) as usize;
    check(Mutation::Lost(generation), 2, move || {
        change(nic, u32::MAX, true);
    });
}
