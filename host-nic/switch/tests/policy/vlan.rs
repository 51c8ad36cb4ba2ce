//! VLANs: the ports through which frames leave, and their tags there.

use postern_nic_client::policy::vlan::VlanSpec;
use postern_switch::state::Cause;

use crate::ports::packet::{frame, tagged, with_tag};
use crate::ports::{BROADCAST, Guest, LARGE, Net, mac};

fn access(pvid: u16) -> Option<VlanSpec> {
    Some(VlanSpec::Access { pvid })
}

fn trunk(pvid: Option<u16>, members: &[u16], untagged: &[u16]) -> Option<VlanSpec> {
    Some(VlanSpec::Trunk {
        pvid,
        members: members.into(),
        untagged: untagged.into(),
    })
}

/// The frames that each guest got.
fn received(guests: &mut [Guest<'_>]) -> Vec<Vec<Vec<u8>>> {
    guests.iter_mut().map(Guest::receive).collect()
}

const NOTHING: [Vec<u8>; 0] = [];

/// Lengths of frames, around those of a snapshot and of a record's blocks.
fn lengths() -> impl Iterator<Item = usize> {
    (14..40).chain(108..150).chain([1000, 1514, 8999, 9014])
}

#[test]
fn tags_are_put_in_and_taken_out() {
    let net = Net::new(4);
    net.set(0, |policy| policy.vlan = access(10));
    net.set(1, |policy| policy.vlan = trunk(None, &[10, 20], &[]));
    net.set(2, |policy| policy.vlan = trunk(Some(10), &[10, 20], &[20]));
    net.set(3, |policy| policy.vlan = access(20));
    let mut guests = net.guests();
    for length in lengths() {
        // A frame from the access port of VLAN 10, and the tags with which it leaves elsewhere.
        let bare = frame(BROADCAST, mac(0), length, length as u64);
        guests[0].send(&bare);
        let got = received(&mut guests);
        assert_eq!(got[1], [tagged(&bare, 10)], "length {length}");
        assert_eq!(got[2], [bare.clone()]);
        assert_eq!(got[3], NOTHING);
        // A priority is kept where there is a tag.
        guests[0].send(&tagged(&bare, 0xa000));
        let got = received(&mut guests);
        assert_eq!(got[1], [tagged(&bare, 0xa000 | 10)]);
        assert_eq!(got[2], [bare.clone()]);
        assert_eq!(got[3], NOTHING);
        // Frames from the trunk, in each VLAN.
        let bare = frame(BROADCAST, mac(1), length, length as u64);
        guests[1].send(&tagged(&bare, 10));
        let got = received(&mut guests);
        assert_eq!(
            (&got[0], &got[2]),
            (&vec![bare.clone()], &vec![bare.clone()])
        );
        assert_eq!(got[3], NOTHING);
        guests[1].send(&tagged(&bare, 0x7000 | 20));
        let got = received(&mut guests);
        assert_eq!(
            (&got[3], &got[2]),
            (&vec![bare.clone()], &vec![bare.clone()])
        );
        assert_eq!(got[0], NOTHING);
        // Frames from the trunk that has a VLAN for untagged ones.
        let bare = frame(BROADCAST, mac(2), length, length as u64);
        guests[2].send(&bare);
        guests[2].send(&tagged(&bare, 20));
        let got = received(&mut guests);
        assert_eq!(got[0], [bare.clone()]);
        assert_eq!(got[1], [tagged(&bare, 10), tagged(&bare, 20)]);
        assert_eq!(got[3], [bare]);
    }
    // No frame was refused: ports of other VLANs are no destinations.
    for port in 0..4 {
        assert_eq!(net.drops(port, Cause::Policy), 0);
    }
}

#[test]
fn a_second_tag_leads_nowhere() {
    let net = Net::new(4);
    net.set(0, |policy| policy.vlan = access(10));
    net.set(1, |policy| policy.vlan = trunk(None, &[10, 20], &[10]));
    net.set(2, |policy| policy.vlan = access(20));
    net.set(3, |policy| policy.vlan = access(10));
    let mut guests = net.guests();
    let bare = frame(BROADCAST, mac(0), 100, 1);
    // The first tag names the port's VLAN and would be taken out on the way, so that the second one
    // would count at the next bridge.
    guests[0].send(&tagged(&tagged(&bare, 20), 10));
    assert_eq!(net.drops(0, Cause::Spoofed), 1);
    assert_eq!(received(&mut guests).concat(), NOTHING);
    // Behind a priority tag or a service tag, the second tag is payload of VLAN 10.
    let hidden = tagged(&bare, 20);
    guests[0].send(&tagged(&hidden, 0x4000));
    let got = received(&mut guests);
    assert_eq!(got[2], NOTHING);
    assert_eq!(
        (&got[1], &got[3]),
        (&vec![hidden.clone()], &vec![hidden.clone()])
    );
    let service = with_tag(&hidden, 0x88a8, 20);
    guests[0].send(&service);
    let got = received(&mut guests);
    assert_eq!(got[2], NOTHING);
    assert_eq!(got[3], [service]);
    // Of a double tag from a trunk, the first one counts.
    let mut double = tagged(&tagged(&bare, 10), 20);
    double[6..12].copy_from_slice(&mac(1));
    guests[1].send(&double);
    let got = received(&mut guests);
    assert_eq!((&got[0], &got[3]), (&vec![], &vec![]));
    assert_eq!(got[2].len(), 1);
    assert_eq!(got[2][0][12..16], [0x81, 0x00, 0, 10]);
}

#[test]
fn unknown_stations_are_looked_for_in_the_vlan_alone() {
    let net = Net::new(5);
    for (port, vid) in [(0, 10), (1, 10), (2, 20), (3, 20), (4, 10)] {
        net.set(port, |policy| policy.vlan = access(vid));
    }
    let mut guests = net.guests();
    for to in [mac(99), BROADCAST, [1, 0, 0x5e, 0, 0, 1]] {
        let frame = frame(to, mac(0), 60, 1);
        guests[0].send(&frame);
        let got = received(&mut guests);
        let one = vec![frame];
        assert_eq!(got, [vec![], one.clone(), vec![], vec![], one]);
    }
    // A station that is known in another VLAN is unknown in this one.
    guests[2].send(&frame(BROADCAST, mac(2), 60, 1));
    received(&mut guests);
    guests[0].send(&frame(mac(2), mac(0), 60, 1));
    let got = received(&mut guests);
    let counts: Vec<usize> = got.iter().map(Vec::len).collect();
    assert_eq!(counts, [0, 1, 0, 0, 1]);
}

#[test]
fn an_address_may_be_in_two_vlans_at_two_ports() {
    let net = Net::new(5);
    for (port, vid) in [(0, 10), (1, 10), (2, 20), (3, 20), (4, 30)] {
        net.set(port, |policy| policy.vlan = access(vid));
    }
    let mut guests = net.guests();
    let twin = [2, 7, 7, 7, 7, 7];
    for port in [1, 3] {
        guests[port].send(&frame(BROADCAST, twin, 60, 1));
    }
    received(&mut guests);
    for _ in 0..3 {
        let frames = [0, 2].map(|from| frame(twin, mac(from), 60, 2));
        guests[0].send(&frames[0]);
        guests[2].send(&frames[1]);
        let got = received(&mut guests);
        let [first, second] = frames.map(|frame| vec![frame]);
        assert_eq!(got, [vec![], first, vec![], second, vec![]]);
    }
    let moved = |port| {
        let sender = net.memory.switch().sender(port).unwrap();
        sender.moved.load(std::sync::atomic::Ordering::Relaxed)
    };
    assert_eq!((moved(1), moved(3)), (0, 0));
}

#[test]
fn a_vlan_of_nobody_else_has_no_destination() {
    let net = Net::new(3);
    net.set(0, |policy| policy.vlan = access(10));
    let mut guests = net.guests();
    guests[0].send(&frame(BROADCAST, mac(0), 60, 1));
    assert_eq!(net.drops(0, Cause::NoDestination), 1);
    assert_eq!(net.drops(0, Cause::Policy), 0);
    // The other ports are in VLAN 1, by default.
    guests[1].send(&frame(BROADCAST, mac(1), 60, 1));
    let got = received(&mut guests);
    assert_eq!((got[0].len(), got[2].len()), (0, 1));
}

/// A station is known behind a port that has left its VLAN since.
#[test]
fn a_port_that_left_the_vlan_receives_nothing_of_it() {
    let net = Net::new(2);
    net.set(0, |policy| policy.vlan = access(10));
    net.set(1, |policy| policy.vlan = access(10));
    let mut guests = net.guests();
    guests[1].send(&frame(BROADCAST, mac(1), 60, 1));
    net.set(1, |policy| policy.vlan = access(11));
    received(&mut guests);
    guests[0].send(&frame(mac(1), mac(0), 60, 1));
    assert_eq!(received(&mut guests).concat(), NOTHING);
    assert_eq!(net.drops(0, Cause::Policy), 1);
}

#[test]
fn a_tag_makes_no_frame_too_long() {
    for ring in [4096, LARGE] {
        let geometry = postern_abi::window::Geometry::new(2, 1, LARGE, ring).unwrap();
        let net = Net::sized(geometry);
        net.set(0, |policy| policy.vlan = access(10));
        net.set(1, |policy| policy.vlan = trunk(None, &[10], &[]));
        let mut guests = net.guests();
        let longest = geometry.max_frame() as usize;
        let fits = frame(BROADCAST, mac(0), longest - 4, 1);
        guests[0].send(&fits);
        assert_eq!(guests[1].receive(), [tagged(&fits, 10)]);
        for more in 1..=4 {
            guests[0].send(&frame(BROADCAST, mac(0), longest - 4 + more, 1));
            assert_eq!(guests[1].receive(), NOTHING);
            assert_eq!(net.drops(0, Cause::TooLong), more as u64);
        }
        // In the other direction, where the tag is taken out, the longest frame fits.
        let mut longest = frame(BROADCAST, mac(1), longest - 4, 2);
        longest = tagged(&longest, 10);
        guests[1].send(&longest);
        assert_eq!(guests[0].receive().len(), 1);
    }
}

#[test]
fn a_port_that_lost_its_vlans_is_where_the_others_are() {
    let net = Net::new(3);
    net.set(0, |policy| policy.vlan = trunk(None, &[10, 20], &[]));
    net.set(1, |policy| policy.vlan = access(10));
    net.set(0, |policy| policy.vlan = None);
    let mut guests = net.guests();
    let sent = frame(BROADCAST, mac(0), 60, 1);
    guests[0].send(&sent);
    assert_eq!(received(&mut guests), [vec![], vec![], vec![sent.clone()]]);
    guests[0].send(&tagged(&sent, 10));
    assert_eq!(received(&mut guests).concat(), NOTHING);
    // Without VLANs, tags are bytes like others.
    net.set(1, |policy| policy.vlan = None);
    guests[0].send(&tagged(&sent, 10));
    let tagged = vec![tagged(&sent, 10)];
    assert_eq!(received(&mut guests), [vec![], tagged.clone(), tagged]);
}
