//! Rate limits, by a clock that the test moves.

use postern_nic_client::policy::rate::RateLimit;
use postern_switch::state::Cause;

use crate::ports::packet::frame;
use crate::ports::{BROADCAST, Net, mac};

/// A limit of one frame of 1000 bytes a microsecond, and two at once.
const LIMIT: RateLimit = RateLimit {
    bits_per_second: 8_000_000_000,
    burst_bytes: 2000,
};

const START: u64 = 1 << 40;

#[test]
fn exactly_what_the_clock_allows_is_sent() {
    let net = Net::new(2);
    net.set_clock(START);
    net.set(0, |policy| policy.ingress = Some(LIMIT));
    let mut guests = net.guests();
    let mut passing = |now: u64, offered: u32| {
        net.set_clock(now);
        for _ in 0..offered {
            guests[0].send(&frame(mac(1), mac(0), 1000, 1));
        }
        guests[1].receive().len()
    };
    assert_eq!(passing(START, 10), 2);
    // While the clock stands still, nothing passes.
    assert_eq!(passing(START, 10), 0);
    assert_eq!(passing(START + 999, 1), 0);
    assert_eq!(passing(START + 1000, 5), 1);
    assert_eq!(passing(START + 2500, 5), 1);
    // Half a frame was left, and half a frame has flowed in.
    assert_eq!(passing(START + 3000, 5), 1);
    // The bytes of a long pause pass, but no more than the burst.
    assert_eq!(passing(START + 1_000_000, 100), 2);
    let mut total = 0;
    for step in 1..=100 {
        total += passing(START + 1_000_000 + step * 700, 3);
    }
    assert_eq!(total, 70);
    let refused = 10 - 2 + 10 + 1 + 4 + 4 + 4 + 98 + 230;
    assert_eq!(net.drops(0, Cause::Rate), refused);
    // In the other direction there is no limit.
    for _ in 0..10 {
        guests[1].send(&frame(mac(0), mac(1), 1000, 1));
    }
    assert_eq!(guests[0].receive().len(), 10);
}

#[test]
fn what_a_port_receives_is_limited_whoever_sends() {
    let net = Net::new(4);
    net.set_clock(START);
    net.set(2, |policy| policy.egress = Some(LIMIT));
    let mut guests = net.guests();
    for from in [0, 1, 3] {
        guests[from].send(&frame(mac(2), mac(from as u32), 1000, 1));
    }
    assert_eq!(guests[2].receive().len(), 2);
    assert_eq!(net.drops(3, Cause::Rate), 1);
    // The limit is that of one port: other ports get the broadcast.
    guests[0].send(&frame(BROADCAST, mac(0), 1000, 1));
    assert_eq!(guests[2].receive().len(), 0);
    assert_eq!(
        (guests[1].receive().len(), guests[3].receive().len()),
        (1, 1)
    );
    net.set_clock(START + 1000);
    guests[0].send(&frame(BROADCAST, mac(0), 1000, 1));
    assert_eq!(guests[2].receive().len(), 1);
}

#[test]
fn without_its_limit_a_port_sends_what_it_likes() {
    let net = Net::new(2);
    net.set_clock(START);
    net.set(0, |policy| policy.ingress = Some(LIMIT));
    net.set(0, |policy| policy.ingress = None);
    assert!(!net.minds(0));
    let mut guests = net.guests();
    for _ in 0..50 {
        guests[0].send(&frame(mac(1), mac(0), 1000, 1));
    }
    assert_eq!(guests[1].receive().len(), 50);
}

/// A limit counts a held frame once, when it is sent, however often the switch has read it.
#[test]
fn frames_that_are_held_pay_once() {
    let geometry = postern_abi::window::Geometry::new(2, 1, 64 << 10, 4096).unwrap();
    let net = Net::sized(geometry);
    net.set_clock(START);
    let limit = RateLimit {
        burst_bytes: 10_000,
        ..LIMIT
    };
    net.set(0, |policy| policy.ingress = Some(limit));
    net.set(1, |policy| policy.egress = Some(limit));
    let mut guests = net.guests();
    for seed in 0..12 {
        guests[0].put(&frame(mac(1), mac(0), 1000, seed));
    }
    let mut got = Vec::new();
    for _ in 0..20 {
        for _ in 0..50 {
            guests[0].call_hold();
        }
        got.extend(guests[1].receive());
    }
    let expected: Vec<_> = (0..10)
        .map(|seed| frame(mac(1), mac(0), 1000, seed))
        .collect();
    assert_eq!(got, expected);
    assert_eq!(net.drops(0, Cause::Rate), 2);
    assert_eq!((net.drops(0, Cause::Full), net.lane_drops(1)), (0, 0));
}
