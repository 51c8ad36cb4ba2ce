//! Frames that are held, on the slow path.

use postern_abi::window::{FEATURES, Geometry};
use postern_nic_client::policy::acl::AclSpec;
use postern_nic_client::policy::port::Source;
use postern_nic_client::policy::vlan::VlanSpec;
use postern_switch::policy::acl::Verdict;
use postern_switch::state::Cause;
use proptest::prelude::*;

use crate::ports::packet::{Flow, Kind, frame, payload, tagged};
use crate::ports::{BROADCAST, LARGE, Net, mac};

#[test]
fn a_frame_with_several_destinations_waits_for_nobody() {
    let net = Net::sized(Geometry::new(3, 1, 64 << 10, 4096).unwrap());
    net.set(0, |policy| policy.source = Source::Own);
    let mut guests = net.guests();
    for seed in 0..10 {
        guests[0].put(&frame(BROADCAST, mac(0), 1000, seed));
    }
    assert_eq!(guests[0].call_hold(), 10);
    let got = guests[1].receive().len() as u64;
    assert!((3..10).contains(&got));
    assert_eq!(net.drops(0, Cause::Full), 2 * (10 - got));
}

#[test]
fn the_only_port_of_a_vlan_is_waited_for() {
    let net = Net::sized(Geometry::new(4, 1, 64 << 10, 4096).unwrap());
    for port in [0, 1] {
        net.set(port, |policy| {
            policy.vlan = Some(VlanSpec::Access { pvid: 10 })
        });
    }
    let mut guests = net.guests();
    let frames: Vec<_> = (0..10)
        .map(|seed| frame(BROADCAST, mac(0), 1000, seed))
        .collect();
    frames.iter().for_each(|frame| guests[0].put(frame));
    let mut got = Vec::new();
    while got.len() < 10 {
        guests[0].call_hold();
        let more = guests[1].receive();
        assert!(!more.is_empty());
        got.extend(more);
    }
    assert_eq!(got, frames);
}

/// A frame that waits is decided on by each call, and is a hit of each list once, when it is sent.
#[test]
fn rules_count_a_frame_that_waits_once() {
    let net = Net::sized(Geometry::new(2, 1, 64 << 10, 4096).unwrap());
    let list = |rule: &str| AclSpec {
        rules: vec![rule.parse().unwrap()],
        default: Verdict::Deny,
    };
    net.set(0, |policy| policy.acl = list("permit in"));
    net.set(1, |policy| policy.acl = list("permit out"));
    let mut guests = net.guests();
    for seed in 0..12 {
        guests[0].put(&frame(mac(1), mac(0), 1000, seed));
    }
    let mut got = 0;
    while got < 12 {
        for _ in 0..50 {
            guests[0].call_hold();
        }
        let sent = u64::from(12 - guests[0].pending());
        assert_eq!((net.hits(0), net.hits(1)), (vec![sent], vec![sent]));
        got += guests[1].receive().len();
    }
    // What is lost is a hit as well.
    for seed in 0..12 {
        guests[0].put(&frame(mac(1), mac(0), 1000, seed));
    }
    guests[0].call();
    assert!(guests[1].receive().len() < 12);
    assert_eq!((net.hits(0), net.hits(1)), (vec![24], vec![24]));
}

/// One that is paused between destinations, too.
#[test]
fn rules_count_a_frame_that_is_paused_once() {
    // More copies of one frame than a call makes: those of its segments.
    let ports = 16;
    let net = Net::sized(Geometry::new(ports, 1, LARGE, LARGE).unwrap());
    let list = |rule: &str| AclSpec {
        rules: vec![rule.parse().unwrap()],
        default: Verdict::Deny,
    };
    net.set(0, |policy| policy.acl = list("permit in"));
    for port in 1..ports {
        net.set(port, |policy| policy.acl = list("permit out"));
    }
    let mut guests = net.guests();
    guests[0].agree(FEATURES);
    let flow = Flow::new(Kind::Tcp4, BROADCAST, mac(0));
    let (header, bytes) = flow.large(&payload(20_000, 1), 100);
    guests[0].put_on(0, header, &bytes);
    let mut calls = 0;
    while guests[0].pending() != 0 {
        guests[0].call();
        calls += 1;
        assert_eq!(net.hits(0), [1]);
    }
    assert!(calls > 1);
    for port in 1..ports {
        assert_eq!(net.hits(port), [1]);
        assert_eq!(guests[port as usize].receive().len(), 200);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    /// Two ports that hold frames are a queue with a bound. A tag is put in on the way.
    #[test]
    fn nothing_is_lost_and_nothing_comes_twice(
        steps in prop::collection::vec((0usize..3, 14usize..1500, any::<bool>()), 1..120),
    ) {
        let net = Net::sized(Geometry::new(2, 1, 16 << 10, 4096).unwrap());
        let trunk = VlanSpec::Trunk { pvid: None, members: vec![10], untagged: vec![] };
        net.set(0, |policy| policy.vlan = Some(VlanSpec::Access { pvid: 10 }));
        net.set(1, |policy| policy.vlan = Some(trunk));
        let mut guests = net.guests();
        let (mut sent, mut got) = (Vec::new(), Vec::new());
        for (seed, (count, length, take)) in (0u64..).zip(steps) {
            for _ in 0..count {
                if guests[0].pending() < 5 {
                    let frame = frame(mac(1), mac(0), length, seed);
                    guests[0].put(&frame);
                    sent.push(tagged(&frame, 10));
                }
            }
            guests[0].call_hold();
            if take {
                got.extend(guests[1].receive());
            }
        }
        while guests[0].pending() != 0 {
            guests[0].call_hold();
            got.extend(guests[1].receive());
        }
        got.extend(guests[1].receive());
        prop_assert_eq!(got, sent);
        prop_assert_eq!((net.lane_drops(1), net.drops(0, Cause::Full)), (0, 0));
    }
}
