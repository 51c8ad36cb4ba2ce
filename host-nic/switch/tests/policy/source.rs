//! The source addresses and VLANs that a port may use.

use postern_nic_client::mac::Mac;
use postern_nic_client::policy::port::Source;
use postern_nic_client::policy::vlan::VlanSpec;
use postern_switch::state::Cause;

use crate::ports::packet::{frame, tagged};
use crate::ports::{BROADCAST, Net, mac, port, secret};

#[test]
fn only_the_own_address_passes() {
    let net = Net::new(3);
    let (mut sender, mut other) = (net.guest(0), net.guest(1));
    net.set(0, |policy| policy.source = Source::Own);
    let mut refused = 0;
    for length in [14, 60, 127, 128, 129, 1514] {
        let honest = frame(mac(1), mac(0), length, 1);
        sender.send(&honest);
        assert_eq!(other.receive(), [honest]);
        // Each bit counts, that of group addresses too.
        for bit in 0..48 {
            let mut address = mac(0);
            address[bit / 8] ^= 1 << (bit % 8);
            for to in [mac(1), BROADCAST] {
                sender.send(&frame(to, address, length, 1));
                refused += 1;
            }
        }
        assert_eq!(other.receive(), [] as [Vec<u8>; 0]);
        let causes = [Cause::Spoofed, Cause::BadSource];
        let drops = causes.map(|cause| net.drops(0, cause));
        // One of the 48 bits makes it the address of a group, which is no source at all.
        assert_eq!(drops, [refused * 47 / 48, refused / 48]);
    }
    // The sources of refused frames were not learned: the frame goes to port 1 alone.
    let to = mac(1);
    let mut third = net.guest(2);
    sender.send(&frame(to, mac(0), 60, 2));
    assert_eq!(other.receive().len(), 1);
    assert_eq!(third.receive().len(), 0);
    // Other ports may send from any address.
    other.send(&frame(mac(0), mac(77), 60, 2));
    assert_eq!(sender.receive().len(), 1);
}

#[test]
fn a_given_address_passes_alone() {
    let net = Net::new(2);
    let (mut sender, mut other) = (net.guest(0), net.guest(1));
    net.set(0, |policy| policy.source = Source::Address(Mac(mac(9))));
    sender.send(&frame(mac(1), mac(0), 60, 1));
    sender.send(&frame(mac(1), mac(9), 60, 2));
    assert_eq!(other.receive(), [frame(mac(1), mac(9), 60, 2)]);
}

#[test]
fn the_own_address_is_the_tenants() {
    let net = Net::new(2);
    net.set(0, |policy| policy.source = Source::Own);
    let mut other = net.guest(1);
    net.memory.switch().admit(port(0), 50, secret(50), mac(40));
    let mut sender = net.guest(0);
    sender.send(&frame(mac(1), mac(0), 60, 1));
    sender.send(&frame(mac(1), mac(40), 60, 2));
    assert_eq!(other.receive(), [frame(mac(1), mac(40), 60, 2)]);
    // This holds too if the policy was set while the port had no tenant.
    net.set(0, |policy| policy.source = Source::Any);
    net.memory.switch().evict(port(0));
    net.set(0, |policy| policy.source = Source::Own);
    net.memory.switch().admit(port(0), 51, secret(51), mac(41));
    let mut sender = net.guest(0);
    for address in [40, 41, 0] {
        sender.send(&frame(mac(1), mac(address), 60, 3));
    }
    assert_eq!(other.receive(), [frame(mac(1), mac(41), 60, 3)]);
}

#[test]
fn vlans_that_the_port_is_not_in_are_spoofed() {
    let net = Net::new(3);
    let access = VlanSpec::Access { pvid: 10 };
    let trunk = |pvid| VlanSpec::Trunk {
        pvid,
        members: vec![10, 20],
        untagged: vec![],
    };
    net.set(0, |policy| policy.vlan = Some(access.clone()));
    net.set(1, |policy| policy.vlan = Some(trunk(None)));
    let mut guests = net.guests();
    let plain = frame(BROADCAST, mac(0), 60, 1);
    // An access port sends no tag but that of a priority, not even its own.
    for tci in [10, 20, 0x2000 | 10, 4095, 4094, 1] {
        guests[0].send(&tagged(&plain, tci));
    }
    assert_eq!(net.drops(0, Cause::Spoofed), 6);
    // A trunk without a VLAN for them sends no untagged frames, nor others' VLANs.
    guests[1].send(&plain);
    for tci in [0, 30, 4095, 0xe000] {
        guests[1].send(&tagged(&plain, tci));
    }
    assert_eq!(net.drops(1, Cause::Spoofed), 5);
    for guest in &mut guests {
        assert_eq!(guest.receive(), [] as [Vec<u8>; 0]);
    }
    // A trunk with such a VLAN sends untagged frames.
    net.set(1, |policy| policy.vlan = Some(trunk(Some(10))));
    guests[1].send(&plain);
    guests[1].send(&tagged(&plain, 0x6000));
    assert_eq!(guests[0].receive(), [plain.clone(), plain]);
}
