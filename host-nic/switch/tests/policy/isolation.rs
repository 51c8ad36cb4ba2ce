//! Port isolation: ports whose frames do not reach each other.

use postern_nic_client::policy::port::Isolation;
use postern_switch::state::Cause;

use crate::ports::packet::frame;
use crate::ports::{BROADCAST, Guest, Net, mac};

/// The ports that each port reaches, by frames to their addresses and by broadcast alike.
fn reached(guests: &mut [Guest<'_>]) -> Vec<Vec<u32>> {
    let ports = 0..guests.len();
    let mut all = Vec::new();
    for from in ports.clone() {
        let mut reached = Vec::new();
        for to in ports.clone().filter(|to| *to != from) {
            guests[from].send(&frame(mac(to as u32), mac(from as u32), 60, 1));
            for (port, guest) in guests.iter_mut().enumerate() {
                let got = guest.receive().len();
                assert!(got == 0 || port == to, "{from} to {to} reached {port}");
                if got != 0 {
                    reached.push(to as u32);
                }
            }
        }
        guests[from].send(&frame(BROADCAST, mac(from as u32), 60, 1));
        let flooded: Vec<u32> = ports
            .clone()
            .filter(|port| !guests[*port].receive().is_empty())
            .map(|port| port as u32)
            .collect();
        assert_eq!(flooded, reached, "from {from}");
        all.push(reached);
    }
    all
}

#[test]
fn isolated_ports_reach_promiscuous_ones_alone() {
    let net = Net::new(6);
    let roles = [
        Isolation::Promiscuous,
        Isolation::Isolated,
        Isolation::Isolated,
        Isolation::Community(1),
        Isolation::Community(1),
        Isolation::Community(2),
    ];
    for (port, role) in (0..).zip(roles) {
        net.set(port, |policy| policy.isolation = role);
    }
    let mut guests = net.guests();
    let expected = [&[1, 2, 3, 4, 5][..], &[0], &[0], &[0, 4], &[0, 3], &[0]];
    assert_eq!(reached(&mut guests), expected);
    // A frame to a known station that is kept apart is dropped by policy; a flooded one just does
    // not go there.
    assert_eq!(net.drops(1, Cause::Policy), 4);
    assert_eq!(net.drops(0, Cause::Policy), 0);
    net.reset();
    assert_eq!(reached(&mut guests)[1], [0, 2, 3, 4, 5]);
}

#[test]
fn a_blocked_port_is_not_reached_in_that_direction() {
    let net = Net::new(3);
    net.set(0, |policy| policy.blocked = vec![2]);
    let mut guests = net.guests();
    let expected = [&[1][..], &[0, 2], &[0, 1]];
    assert_eq!(reached(&mut guests), expected);
}

#[test]
fn without_bridging_a_port_is_alone() {
    let net = Net::new(3);
    net.set(1, |policy| policy.bridging = false);
    let mut guests = net.guests();
    assert_eq!(reached(&mut guests), [&[2][..], &[], &[0]]);
    net.set(1, |policy| policy.bridging = true);
    assert_eq!(reached(&mut guests), [[1, 2], [0, 2], [0, 1]]);
}

#[test]
fn ports_beyond_the_first_word_are_kept_apart() {
    let geometry = postern_abi::window::Geometry::new(200, 1, 4096, 4096).unwrap();
    let net = Net::sized(geometry);
    for port in [3, 67, 130, 199] {
        net.set(port, |policy| policy.isolation = Isolation::Isolated);
    }
    net.set(66, |policy| policy.blocked = vec![199, 64]);
    let mut guests = net.guests();
    for (from, missing) in [(3usize, 3), (199, 3), (66, 2), (4, 0)] {
        guests[from].send(&frame(BROADCAST, mac(from as u32), 60, 1));
        let got = guests.iter_mut().filter(|_| true);
        let got: usize = got.map(|guest| guest.receive().len()).sum();
        assert_eq!(got, 199 - missing, "from {from}");
    }
    guests[66].send(&frame(mac(199), mac(66), 60, 1));
    assert_eq!(guests[199].receive().len(), 0);
}

#[test]
fn a_policy_that_names_no_port_is_refused() {
    let net = Net::new(3);
    let wrong = |port, change: fn(&mut postern_nic_client::policy::port::PortPolicy)| {
        net.try_set(port, change).unwrap_err().to_string()
    };
    let said = wrong(0, |policy| policy.mirror = Some(3));
    assert_eq!(said, "the mirror is port 3, but the NIC has ports 0 to 2");
    let said = wrong(0, |policy| policy.blocked = vec![1, 9]);
    assert_eq!(
        said,
        "the blocked port is port 9, but the NIC has ports 0 to 2"
    );
    let said = wrong(2, |policy| policy.mirror = Some(2));
    assert_eq!(said, "port 2 cannot be its own mirror: name another one");
    let said = wrong(7, |policy| policy.bridging = false);
    assert!(said.contains("port 7"), "{said}");
    assert!((0..3).all(|port| !net.minds(port)));
}
