//! Sleeping: a receiver that arms its queue and finds nothing is woken by the first sender that has a
//! frame for it, and by no other. The switch is the real one; the receiver follows `RxQueue::arm`.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod common;

use common::{Guest, ModelNic, check, frame, port};
use loom::thread;
use postern_abi::service::TX_BELL;
use postern_abi::window::{ARMED, Published};
use postern_nic_models::sync::Ordering::{AcqRel, Acquire, Relaxed};
use postern_nic_models::sync::modelled::{Mutation, share};

/// The port whose guest sleeps.
const SLEEPER: u32 = 1;

/// Frames from two ports to a third one, whose guest looks for them once and then sleeps.
fn sleep(nic: ModelNic) {
    nic.reset();
    let geometry = nic.geometry;
    let mut senders = [0, 2].map(|number| Guest::new(nic, number, SLEEPER, 1));
    // The routes are cached, and the lanes are there.
    for (sender, number) in senders.iter_mut().zip([0, 2]) {
        sender.send(frame(SLEEPER as u8, number, 1));
        assert_eq!(nic.call(number.into(), 1, true), 1);
    }
    let lane_of = |number: u8| {
        let used = (0..geometry.lanes()).find(|&lane| {
            let state = nic.switch().lane(SLEEPER, lane).unwrap();
            state.holder.load(Relaxed) == u32::from(number) + 1
        });
        nic.long(SLEEPER, geometry.published_offset(0, used.unwrap()))
    };
    let published = [0, 2].map(lane_of);
    let latest = nic.long(SLEEPER, geometry.latest_offset(0));
    let positions = move || published.map(|word| Published::from_word(word.load(Acquire)).position);
    let before = positions();
    for word in [latest, published[0], published[1]] {
        share((&raw const *word).cast(), 8);
    }
    for (sender, number) in senders.iter_mut().zip([0, 2]) {
        sender.send(frame(SLEEPER as u8, number, 2));
    }
    let sleeper = thread::spawn(move || {
        let seen = latest.load(Acquire);
        let got = positions();
        let armed = latest.compare_exchange(seen, seen | ARMED, AcqRel, Relaxed);
        (got, armed.is_ok())
    });
    let other = thread::spawn(move || nic.call(2, 1, true));
    let results = [nic.call(0, 1, true), other.join().unwrap()];
    let (got, armed) = sleeper.join().unwrap();

    assert!(results.iter().all(|result| result & !TX_BELL == 1));
    let rings = results.map(|result| result & TX_BELL != 0);
    let rung = rings.iter().filter(|&&ring| ring).count();
    let missed = positions() != got;
    assert!(before != positions());
    // A lane's position is there before it is told: a bell may be rung for a frame that was seen.
    let still = latest.load(Relaxed) & ARMED != 0;
    assert_eq!(
        (rung, still),
        (usize::from(armed && !still), armed && rung == 0)
    );
    assert!(rung == 1 || !(armed && missed), "a frame without a bell");
    for (number, ring) in [0, 2].into_iter().zip(rings) {
        let bells = nic.switch().take_bells(port(number), 0);
        assert_eq!(bells, [u64::from(ring) << SLEEPER, 0, 0, 0]);
    }
}

#[test]
fn one_sender_wakes_the_sleeper() {
    let nic = ModelNic::new(3);
    check(Mutation::None, 3, move || sleep(nic));
}

#[test]
#[should_panic]
fn waking_needs_an_exchange() {
    let nic = ModelNic::new(3);
    check(Mutation::TornExchange, 3, move || sleep(nic));
}
