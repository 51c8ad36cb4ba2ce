//! Rate limits, by a clock that the test moves.

use postern_abi::window::{FEATURES, Geometry};
use postern_nic_client::policy::rate::RateLimit;
use postern_nic_client::policy::vlan::VlanSpec;
use postern_switch::state::Cause;

use crate::ports::packet::{Flow, KINDS, Kind, frame, payload};
use crate::ports::{BROADCAST, LARGE, Net, mac};

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
    let geometry = Geometry::new(2, 1, 64 << 10, 4096).unwrap();
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

const SECOND: u64 = 1_000_000_000;

/// 10 Mbit/s, with a burst of some frames.
const SLOW: RateLimit = RateLimit {
    bits_per_second: 10_000_000,
    burst_bytes: 15_220,
};

/// A large segment passes a limit whose burst is smaller, and what follows waits until all of its
/// frames are paid for. They cost the same whether it is cut or not.
#[test]
fn large_segments_pass_and_are_paid_for() {
    for kind in KINDS {
        for (ingress, able) in [(true, true), (true, false), (false, true), (false, false)] {
            let net = Net::new(2);
            net.set(0, |policy| policy.ingress = ingress.then_some(SLOW));
            net.set(1, |policy| policy.egress = (!ingress).then_some(SLOW));
            let mut guests = net.guests();
            guests[0].agree(FEATURES);
            guests[1].agree(if able { FEATURES } else { 0 });
            let flow = Flow::new(kind, mac(1), mac(0));
            let mut now = START;
            for (seed, length) in (0..).zip([2_000, 15_000, 15_300, 40_000, 64_000]) {
                // The port is idle for a while.
                now += SECOND;
                net.set_clock(now);
                let body = payload(length, seed);
                let (header, bytes) = flow.large(&body, 1448);
                guests[0].send_with(header, &bytes);
                let frames = flow.cut(&body, 1448);
                let got = guests[1].take();
                assert_eq!(got.len(), if able { 1 } else { frames.len() }, "{length}");
                // Of a frame of 1000 bytes that follows, the time at which it passes tells what has
                // been paid.
                let paid: usize = frames.iter().map(Vec::len).sum();
                let owed = (paid + 1000).saturating_sub(SLOW.burst_bytes as usize) as u64;
                // A byte takes 800 ns.
                let next = frame(mac(1), mac(0), 1000, seed);
                if owed != 0 {
                    net.set_clock(now + owed * 800 - 1);
                    guests[0].send(&next);
                    assert_eq!(guests[1].receive().len(), 0, "{kind:?} {ingress} {length}");
                }
                net.set_clock(now + owed * 800 + 1);
                guests[0].send(&next);
                assert_eq!(guests[1].receive().len(), 1, "{kind:?} {ingress} {length}");
            }
        }
    }
}

/// So does a long frame: when the bucket is full.
#[test]
fn frames_longer_than_the_burst_pass_a_full_bucket() {
    let net = Net::new(2);
    net.set_clock(START);
    let limit = RateLimit {
        burst_bytes: 2000,
        ..SLOW
    };
    net.set(0, |policy| policy.ingress = Some(limit));
    let mut guests = net.guests();
    let mut passes = |now: u64, length: usize| {
        net.set_clock(now);
        guests[0].send(&frame(mac(1), mac(0), length, 1));
        guests[1].receive().len() == 1
    };
    assert!(passes(START, 9000));
    assert!(!passes(START + 7000 * 800 + 60 * 800 - 1, 60));
    assert!(passes(START + 7000 * 800 + 60 * 800 + 1, 60));
    assert!(!passes(START + 9060 * 800 - 1000, 9000), "it is not full");
    assert!(passes(START + 9060 * 800 + 1000, 9000));
}

/// Over a long time, a sender that offers more passes the rate and no more, whatever it sends.
#[test]
fn large_segments_do_not_pass_the_rate() {
    let net = Net::new(2);
    net.set(1, |policy| policy.egress = Some(SLOW));
    let mut guests = net.guests();
    guests[0].agree(FEATURES);
    let flow = Flow::new(Kind::Tcp4, mac(1), mac(0));
    let (header, bytes) = flow.large(&payload(60_000, 1), 1448);
    let mut passed = 0;
    for step in 0..20_000 {
        net.set_clock(START + step * 1_000_000);
        guests[0].send_with(header, &bytes);
        guests[0].send(&frame(mac(1), mac(0), 200, 1));
        passed += guests[1]
            .take()
            .iter()
            .map(|one| one.bytes.len())
            .sum::<usize>();
    }
    // 20 seconds.
    let allowed = 25_000_000;
    let more = SLOW.burst_bytes as usize + 65_536;
    assert!(
        (allowed - more..allowed + more).contains(&passed),
        "{passed}"
    );
}

/// Frames that do not fit into a receiver's lane cost it nothing, whoever else they go to.
#[test]
fn what_does_not_fit_is_not_paid_for() {
    for (ports, to) in [(2, mac(1)), (3, BROADCAST)] {
        let net = Net::sized(Geometry::new(ports, 1, 64 << 10, 4096).unwrap());
        net.set_clock(START);
        let limit = RateLimit {
            burst_bytes: 40_000,
            ..SLOW
        };
        net.set(1, |policy| policy.egress = Some(limit));
        let mut guests = net.guests();
        let mut got = 0;
        for _ in 0..20 {
            for seed in 0..10 {
                guests[0].send(&frame(to, mac(0), 1000, seed));
            }
            got += guests[1].receive().len();
        }
        assert_eq!(got, 40, "{ports} ports");
        assert!(net.lane_drops(1) >= 40);
    }
}

/// So do the last frames of a segment that is cut.
#[test]
fn segments_that_fit_in_part_are_paid_for_in_part() {
    let net = Net::sized(Geometry::new(2, 1, LARGE, 16 << 10).unwrap());
    net.set(1, |policy| policy.egress = Some(SLOW));
    let mut guests = net.guests();
    guests[0].agree(FEATURES);
    let flow = Flow::new(Kind::Tcp4, mac(1), mac(0));
    // One fills most of the lane.
    let (header, bytes) = flow.large(&payload(7_800, 1), 100);
    for round in 1..=10 {
        let now = START + round * SECOND;
        net.set_clock(now);
        guests[0].send_with(header, &bytes);
        guests[0].send_with(header, &bytes);
        let got = guests[1].receive();
        assert!((78..2 * 78).contains(&got.len()), "{}", got.len());
        let paid: usize = got.iter().map(Vec::len).sum();
        let next = frame(mac(1), mac(0), 4000, 1);
        let owed = (paid + next.len()) as u64 - u64::from(SLOW.burst_bytes);
        net.set_clock(now + owed * 800 - 1);
        guests[0].send(&next);
        assert_eq!(guests[1].receive().len(), 0);
        net.set_clock(now + owed * 800 + 1);
        guests[0].send(&next);
        assert_eq!(guests[1].receive().len(), 1);
    }
}

/// A frame counts for a receiver as it leaves there: with its tag, or without.
#[test]
fn a_tag_that_is_put_in_is_paid_for() {
    let trunk = VlanSpec::Trunk {
        pvid: None,
        members: vec![1],
        untagged: vec![],
    };
    for (vlan, bytes) in [(VlanSpec::Access { pvid: 1 }, 100), (trunk, 104)] {
        let net = Net::new(2);
        net.set_clock(START);
        let limit = RateLimit {
            burst_bytes: 100 * bytes,
            ..SLOW
        };
        net.set(1, |policy| {
            policy.egress = Some(limit);
            policy.vlan = Some(vlan);
        });
        let mut guests = net.guests();
        for _ in 0..150 {
            guests[0].send(&frame(mac(1), mac(0), 100, 1));
        }
        assert_eq!(guests[1].receive().len(), 100);
    }
}
