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

/// Whatever a port sends without a tag of its own VLANs in front, no second tag gets into the VLAN
/// of the PVID, from where it could leave in front.
#[test]
fn a_second_tag_leads_nowhere() {
    let net = Net::new(4);
    net.set(0, |policy| policy.vlan = access(10));
    net.set(1, |policy| policy.vlan = trunk(Some(10), &[20], &[]));
    net.set(2, |policy| policy.vlan = access(20));
    net.set(3, |policy| policy.vlan = access(10));
    let mut guests = net.guests();
    let bare = frame(BROADCAST, mac(0), 100, 1);
    let other_tags = [0x88a8, 0x9100, 0x9200, 0x9300, 0x88e7, 0x893f, 0x8926];
    let mut frames = Vec::new();
    for kind in [&[0x8100][..], &other_tags].concat() {
        let hidden = with_tag(&bare, kind, 20);
        // Behind a priority tag, behind several, and behind one that is not parsed.
        frames.push(tagged(&hidden, 0));
        frames.push(tagged(&hidden, 0xa000));
        frames.push(tagged(&tagged(&hidden, 0), 0));
        frames.push(with_tag(&hidden, 0x9100, 0));
    }
    for kind in other_tags {
        frames.push(with_tag(&bare, kind, 20));
        frames.push(with_tag(&bare, kind, 0));
        // Cut off behind the EtherType.
        frames.push(with_tag(&bare, kind, 0)[..14].to_vec());
    }
    frames.push(tagged(&bare, 20)[..14].to_vec());
    frames.push(tagged(&bare, 20)[..16].to_vec());
    for from in [0, 1] {
        for (count, sent) in (1..).zip(&frames) {
            guests[from].send(sent);
            assert_eq!(
                received(&mut guests).concat(),
                NOTHING,
                "{:x?}",
                &sent[12..]
            );
            assert_eq!(net.drops(from as u32, Cause::Spoofed), count);
        }
    }
    // On an access port, also behind the tag of its own VLAN, which would be taken out.
    guests[0].send(&tagged(&tagged(&bare, 20), 10));
    assert_eq!(net.drops(0, Cause::Spoofed), frames.len() as u64 + 1);
    assert_eq!(received(&mut guests).concat(), NOTHING);
    // One priority tag is none.
    guests[0].send(&tagged(&bare, 0xa000));
    let got = received(&mut guests);
    assert_eq!((&got[1], &got[3]), (&vec![bare.clone()], &vec![bare]));
}

/// Of a double tag from a trunk, the first one counts, and a frame does not leave without it.
#[test]
fn a_second_tag_stays_the_second() {
    let net = Net::new(4);
    net.set(0, |policy| policy.vlan = trunk(None, &[10, 20], &[]));
    net.set(1, |policy| policy.vlan = trunk(None, &[10], &[]));
    net.set(2, |policy| policy.vlan = access(10));
    net.set(3, |policy| policy.vlan = trunk(None, &[10, 20], &[10]));
    let mut guests = net.guests();
    for kind in [0x8100, 0x88a8, 0x9100] {
        let double = tagged(&with_tag(&frame(BROADCAST, mac(0), 100, 1), kind, 20), 10);
        guests[0].send(&double);
        let got = received(&mut guests);
        assert_eq!(got, [vec![], vec![double], vec![], vec![]]);
        assert_eq!(net.drops(0, Cause::Policy), 0);
    }
    // A station that is known is not reached either.
    guests[2].send(&frame(BROADCAST, mac(2), 60, 1));
    received(&mut guests);
    let double = tagged(&tagged(&frame(mac(2), mac(0), 100, 1), 20), 10);
    guests[0].send(&double);
    assert_eq!(received(&mut guests).concat(), NOTHING);
    assert_eq!(net.drops(0, Cause::Policy), 1);
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

/// A station was known behind a port that has left its VLAN since.
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
    assert_eq!(net.drops(0, Cause::NoDestination), 1);
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
