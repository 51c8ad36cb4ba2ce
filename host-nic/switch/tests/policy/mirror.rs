//! Mirrors: copies of frames for a port that listens.

use postern_abi::window::{FEATURES, Geometry};
use postern_nic_client::policy::acl::AclSpec;
use postern_nic_client::policy::port::Source;
use postern_nic_client::policy::vlan::VlanSpec;
use postern_switch::policy::acl::Verdict;
use postern_switch::state::Cause;

use crate::ports::packet::{Flow, Kind, frame, payload, tagged};
use crate::ports::{BROADCAST, LARGE, Net, mac};

#[test]
fn both_directions_are_copied_once() {
    let net = Net::new(4);
    net.set(0, |policy| policy.mirror = Some(3));
    let mut guests = net.guests();
    let hello = frame(BROADCAST, mac(3), 60, 1);
    guests[3].send(&hello);
    for guest in &mut guests {
        guest.receive();
    }
    for length in [14, 60, 128, 129, 1514, 9018] {
        let there = frame(mac(1), mac(0), length, 1);
        guests[0].send(&there);
        assert_eq!(guests[1].receive(), [there.clone()]);
        assert_eq!(guests[3].receive(), [there]);
        let back = frame(mac(0), mac(1), length, 2);
        guests[1].send(&back);
        assert_eq!(guests[0].receive(), [back.clone()]);
        assert_eq!(guests[3].receive(), [back]);
        // Frames between other ports are not copied.
        guests[1].send(&frame(mac(2), mac(1), length, 3));
        assert_eq!(guests[3].receive().len(), 0);
        assert_eq!(guests[2].receive().len(), 1);
    }
}

#[test]
fn ports_that_share_a_mirror_give_it_one_copy() {
    let net = Net::new(4);
    for port in [0, 1, 2] {
        net.set(port, |policy| policy.mirror = Some(3));
    }
    // The mirror is no part of the bridge, so all frames that it gets are copies.
    net.set(3, |policy| policy.bridging = false);
    let mut guests = net.guests();
    for to in [mac(1), BROADCAST] {
        let sent = frame(to, mac(0), 100, 1);
        guests[0].send(&sent);
        assert_eq!(guests[3].receive(), [sent]);
    }
}

/// A mirror that takes part in the bridge gets a frame once that goes to it anyway, in the form in
/// which it goes there; also if the frame does not come through in one call.
#[test]
fn a_mirror_that_bridges_gets_a_frame_once() {
    for mirror in [1, 3] {
        let net = Net::new(5);
        for port in (0..5).filter(|port| *port != mirror) {
            net.set(port, |policy| policy.mirror = Some(mirror));
        }
        let mut guests = net.guests();
        let listens = mirror as usize;
        for to in [BROADCAST, mac(99), mac(mirror), mac(2)] {
            let sent = frame(to, mac(0), 100, 1);
            guests[0].send(&sent);
            assert_eq!(guests[listens].receive(), [sent], "{to:x?}");
        }
        // What it may not receive, or has no room for, as any port, it gets as a mirror.
        net.set(mirror, |policy| {
            policy.acl = AclSpec {
                rules: vec!["deny out ethertype 0x88b5".parse().unwrap()],
                default: Verdict::Permit,
            };
        });
        let sent = frame(BROADCAST, mac(0), 100, 1);
        guests[0].send(&sent);
        assert_eq!(guests[listens].receive(), [sent]);
    }
}

#[test]
fn a_mirror_that_bridges_gets_a_frame_once_that_was_paused() {
    let ports = 16;
    let frames = 200;
    for mirror in [1, 8, 15] {
        let net = Net::sized(Geometry::new(ports, 1, LARGE, LARGE).unwrap());
        for port in (0..ports).filter(|port| *port != mirror) {
            net.set(port, |policy| policy.mirror = Some(mirror));
        }
        let mut guests = net.guests();
        guests[0].agree(FEATURES);
        let flow = Flow::new(Kind::Tcp4, BROADCAST, mac(0));
        let (header, bytes) = flow.large(&payload(100 * frames, 1), 100);
        guests[0].put_on(0, header, &bytes);
        let mut calls = 0;
        while guests[0].pending() != 0 {
            guests[0].call();
            calls += 1;
        }
        assert!(calls > 2);
        for guest in &mut guests[1..] {
            assert_eq!(guest.receive().len(), frames, "mirror {mirror}");
        }
    }
}

#[test]
fn two_mirrors_get_a_copy_each() {
    let net = Net::new(4);
    net.set(0, |policy| policy.mirror = Some(2));
    net.set(1, |policy| policy.mirror = Some(3));
    let mut guests = net.guests();
    let sent = frame(mac(1), mac(0), 100, 1);
    guests[0].send(&sent);
    for port in [1, 2, 3] {
        assert_eq!(guests[port].receive(), [sent.clone()], "port {port}");
    }
    // A mirror's own frames are not copied to it.
    guests[2].send(&frame(mac(0), mac(2), 60, 1));
    assert_eq!(guests[2].receive().len(), 0);
    assert_eq!(guests[0].receive().len(), 1);
}

#[test]
fn what_is_refused_is_not_copied() {
    let net = Net::new(3);
    net.set(2, |policy| policy.bridging = false);
    net.set(0, |policy| {
        policy.mirror = Some(2);
        policy.source = Source::Own;
    });
    net.set(1, |policy| {
        policy.mirror = Some(2);
        policy.acl = AclSpec {
            rules: vec!["deny out ethertype 0x88b5".parse().unwrap()],
            default: Verdict::Permit,
        };
    });
    let mut guests = net.guests();
    guests[0].send(&frame(mac(1), mac(9), 60, 1));
    assert_eq!(guests[2].receive().len(), 0);
    // Port 1 does not get the frame, so the copy is that of a frame which port 0 sends.
    guests[0].send(&frame(mac(1), mac(0), 60, 1));
    assert_eq!(guests[1].receive().len(), 0);
    assert_eq!(guests[2].receive().len(), 1);
    net.set(0, |policy| policy.mirror = None);
    guests[0].send(&frame(mac(1), mac(0), 60, 1));
    assert_eq!(guests[2].receive().len(), 0);
}

#[test]
fn copies_are_of_what_was_sent_and_held_up_by_nobody() {
    let geometry = Geometry::new(3, 1, 64 << 10, 4096).unwrap();
    let net = Net::sized(geometry);
    net.set(0, |policy| {
        policy.mirror = Some(2);
        policy.vlan = Some(VlanSpec::Trunk {
            pvid: None,
            members: vec![10],
            untagged: vec![],
        });
    });
    net.set(1, |policy| {
        policy.vlan = Some(VlanSpec::Access { pvid: 10 })
    });
    let mut guests = net.guests();
    let bare = frame(mac(1), mac(0), 1000, 1);
    let mut got = 0;
    for _ in 0..10 {
        guests[0].put(&tagged(&bare, 10));
        assert_eq!(guests[0].call_hold(), 1);
        got += guests[1].receive().len();
    }
    assert_eq!(got, 10);
    // The mirror did not read; its lane has room for some of the copies.
    let copies = guests[2].receive();
    assert!((3..10).contains(&copies.len()));
    assert!(copies.iter().all(|copy| *copy == tagged(&bare, 10)));
    let dropped = 10 - copies.len() as u64;
    assert_eq!(
        (net.drops(0, Cause::Full), net.lane_drops(2)),
        (dropped, dropped)
    );
}
