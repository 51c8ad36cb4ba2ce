//! Frames that are held, on the slow path.

use postern_abi::window::Geometry;
use postern_nic_client::policy::port::Source;
use postern_nic_client::policy::vlan::VlanSpec;
use postern_switch::state::Cause;
use proptest::prelude::*;

use crate::ports::packet::{frame, tagged};
use crate::ports::{BROADCAST, Net, mac};

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
