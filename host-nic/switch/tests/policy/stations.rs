//! What is known of stations, on a switch with VLANs: own addresses, stations that people told, and
//! what was learned before.

use postern_nic_client::policy::vlan::VlanSpec;
use postern_switch::fdb::Station;
use postern_switch::state::Cause;
use postern_switch::tenant::mac_word;

use crate::ports::packet::{frame, tagged};
use crate::ports::{BROADCAST, Guest, Net, mac, port};

fn access(pvid: u16) -> Option<VlanSpec> {
    Some(VlanSpec::Access { pvid })
}

fn trunk(members: &[u16]) -> Option<VlanSpec> {
    Some(VlanSpec::Trunk {
        pvid: None,
        members: members.into(),
        untagged: vec![],
    })
}

/// Numbers of the ports that get something.
fn reached(guests: &mut [Guest<'_>]) -> Vec<u32> {
    let numbered = guests
        .iter_mut()
        .map(|guest| (guest.number(), guest.receive()));
    let got = numbered.filter(|(_, frames)| !frames.is_empty());
    got.map(|(number, _)| number).collect()
}

/// Nobody takes over the address of another port's tenant, whichever port has a VLAN, and nobody
/// else hears what is sent to it, even before it has sent anything.
#[test]
fn an_own_address_stays_its_own_in_any_vlan() {
    for (with_vlan, pvid) in [
        (&[][..], 0),
        (&[4], 1),
        (&[4], 10),
        (&[0], 1),
        (&[0], 10),
        (&[0, 1, 2, 3], 1),
        (&[0, 1, 2, 3], 10),
    ] {
        let net = Net::new(5);
        for number in with_vlan {
            net.set(*number, |policy| policy.vlan = access(pvid));
        }
        // Whether port 0 is where ports 1 and 2 are.
        let together = (with_vlan, pvid) != (&[0], 10);
        let mut guests = net.guests();
        for _ in 0..3 {
            guests[2].send(&frame(mac(1), mac(2), 60, 1));
            assert_eq!(reached(&mut guests), [1], "{with_vlan:?} {pvid}");
            guests[0].send(&frame(BROADCAST, mac(1), 60, 2));
            let got = reached(&mut guests);
            assert_eq!(got.contains(&1), together, "{with_vlan:?} {pvid}");
        }
    }
}

/// The address is its port's in each VLAN of the port, and free in others.
#[test]
fn an_own_address_holds_in_the_vlans_of_its_port() {
    let net = Net::new(5);
    net.set(0, |policy| policy.vlan = trunk(&[10, 20, 30]));
    net.set(1, |policy| policy.vlan = trunk(&[10, 20]));
    net.set(2, |policy| policy.vlan = access(10));
    net.set(3, |policy| policy.vlan = access(30));
    net.set(4, |policy| policy.vlan = access(20));
    let mut guests = net.guests();
    let learned = |vlan: u32| {
        let switch = net.memory.switch();
        switch
            .state()
            .fdb
            .find(switch.key(), Station::new(vlan, mac_word(mac(1))))
    };
    for (thief, vlan) in [(2, 10), (4, 20), (3, 30)] {
        guests[thief].send(&frame(BROADCAST, mac(1), 60, 1));
        reached(&mut guests);
        let there = vlan == 30;
        assert_eq!(learned(vlan), there.then_some(thief as u32), "{vlan}");
        guests[0].send(&tagged(&frame(mac(1), mac(0), 60, 2), vlan as u16));
        let owner = if there { thief as u32 } else { 1 };
        assert_eq!(reached(&mut guests), [owner], "{vlan}");
    }
    // A port that enters a VLAN has its address there at once, and what was learned is forgotten.
    net.set(1, |policy| policy.vlan = trunk(&[10, 20, 30]));
    guests[0].send(&tagged(&frame(mac(1), mac(0), 60, 3), 30));
    assert_eq!(reached(&mut guests), [1]);
    net.set(1, |policy| policy.vlan = trunk(&[10, 20]));
    assert_eq!(learned(30), None);
}

/// A station that was told without a VLAN is there in all VLANs of the port; one with a VLAN in that
/// one, whatever is told for all.
#[test]
fn stations_that_were_told_hold_where_they_were_told() {
    let net = Net::new(5);
    for number in 0..3 {
        net.set(number, |policy| policy.vlan = trunk(&[10, 20]));
    }
    net.set(3, |policy| policy.vlan = access(10));
    net.set(4, |policy| policy.vlan = access(20));
    let switch = net.memory.switch();
    let (fdb, key) = (&switch.state().fdb, switch.key());
    let told = mac_word(mac(50));
    fdb.pin(key, Station::new(0, told), port(1));
    fdb.pin(key, Station::new(20, told), port(2));
    let mut guests = net.guests();
    for _ in 0..2 {
        for (vlan, owner) in [(10, 1), (20, 2)] {
            guests[0].send(&tagged(&frame(mac(50), mac(0), 60, 1), vlan));
            assert_eq!(reached(&mut guests), [owner], "{vlan}");
        }
        for thief in [3, 4] {
            guests[thief].send(&frame(BROADCAST, mac(50), 60, 1));
            reached(&mut guests);
        }
    }
    // A frame of VLAN 20 from the port that it is behind goes nowhere.
    guests[2].send(&tagged(&frame(mac(50), mac(2), 60, 1), 20));
    assert_eq!(net.drops(2, Cause::NoDestination), 1);
}

/// What was learned without VLANs is forgotten with the first VLAN, and the other way round; what was
/// learned in a VLAN, when the port leaves it.
#[test]
fn what_was_learned_under_another_key_is_forgotten() {
    let net = Net::new(4);
    let mut guests = net.guests();
    let station = |number: u32| mac(100 + number);
    let learn = |guests: &mut Vec<Guest<'_>>| {
        for number in 0..4 {
            guests[number as usize].send(&frame(BROADCAST, station(number), 60, 1));
        }
        reached(guests);
    };
    let known = || {
        let switch = net.memory.switch();
        let entries = switch.state().fdb.entries(switch.key());
        let learned = entries.filter(|entry| entry.station.mac() >> 40 >= 100);
        let mut known: Vec<_> = learned
            .map(|entry| (entry.port, entry.station.vlan()))
            .collect();
        known.sort_unstable();
        known
    };
    learn(&mut guests);
    assert_eq!(known(), [(0, 0), (1, 0), (2, 0), (3, 0)]);
    net.set(0, |policy| policy.vlan = access(10));
    assert!(known().is_empty());
    learn(&mut guests);
    assert_eq!(known(), [(0, 10), (1, 1), (2, 1), (3, 1)]);
    // A port that leaves one of its VLANs keeps its stations in the others.
    net.set(1, |policy| policy.vlan = trunk(&[1, 10]));
    assert_eq!(known(), [(0, 10), (1, 1), (2, 1), (3, 1)]);
    guests[1].send(&tagged(&frame(BROADCAST, station(1), 60, 1), 10));
    net.set(1, |policy| policy.vlan = trunk(&[1, 20]));
    assert_eq!(known(), [(0, 10), (1, 1), (2, 1), (3, 1)]);
    net.set(1, |policy| policy.vlan = None);
    net.set(0, |policy| policy.vlan = None);
    assert!(known().is_empty());
}
