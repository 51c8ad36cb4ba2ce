//! Reserved group addresses and impossible sources, on the fast path and on the slow one.

use postern_nic_client::policy::port::Source;
use postern_switch::fdb::Station;
use postern_switch::state::Cause;
use postern_switch::tenant::mac_word;

use crate::ports::packet::{frame, payload};
use crate::ports::{BROADCAST, Guest, Net, mac};

/// The reserved address that ends in this byte, or one of those behind them.
fn group(last: u8) -> [u8; 6] {
    [0x01, 0x80, 0xc2, 0, 0, last]
}

/// A NIC of three ports, whose frames take the slow path if they are to.
fn net(slow: bool) -> Net {
    let net = Net::new(3);
    if slow {
        net.set(0, |policy| policy.source = Source::Any);
        net.set(2, |policy| policy.mirror = Some(1));
        net.set(2, |policy| policy.blocked = vec![1]);
        assert!(net.minds(0));
    }
    assert_eq!(net.minds(0), slow);
    net
}

/// Numbers of frames that ports 1 and 2 get.
fn counts(guests: &mut [Guest<'_>]) -> [usize; 2] {
    [1, 2].map(|port| guests[port].receive().len())
}

#[test]
fn reserved_addresses_are_filtered() {
    for slow in [false, true] {
        let net = net(slow);
        let mut guests = net.guests();
        let mut filtered = 0;
        // Twice, so that routes that are cached would count.
        for _ in 0..2 {
            for last in 0..=0x2f {
                guests[0].send(&frame(group(last), mac(0), 60, 1));
                filtered += u64::from(last < 16);
                let expected = usize::from(last >= 16);
                assert_eq!(counts(&mut guests), [expected; 2], "{last:x} {slow}");
                assert_eq!(net.drops(0, Cause::Reserved), filtered);
            }
        }
        assert_eq!(net.drops(0, Cause::NoDestination), 0);
    }
}

/// With one other port, where frames to groups have one destination, and routes of them are cached.
#[test]
fn reserved_addresses_are_filtered_on_a_nic_of_two_ports() {
    let net = Net::new(2);
    let mut guests = net.guests();
    for last in (0..=0x1f).chain(0..=0x1f) {
        let sent = frame(group(last), mac(0), 60, 1);
        // Frames of one call, and a call with one frame.
        for _ in 0..3 {
            guests[0].put(&sent);
        }
        guests[0].call();
        guests[0].send(&sent);
        let expected = if last < 16 { 0 } else { 4 };
        assert_eq!(guests[1].receive().len(), expected, "{last:x}");
    }
}

#[test]
fn a_port_forwards_what_it_is_told_to_and_never_mac_control() {
    for slow in [false, true] {
        let net = net(slow);
        let mut guests = net.guests();
        let told = ["00", "0e"].map(|text| text.parse().unwrap());
        let all = (0..16).filter(|number| *number != 1);
        let all = all.map(|number| format!("{number:02x}").parse().unwrap());
        for (addresses, numbers) in [
            (told.to_vec(), vec![0u8, 14]),
            (
                all.collect(),
                (0..16).filter(|number| *number != 1).collect(),
            ),
            (vec![], vec![]),
        ] {
            net.set(0, |policy| policy.reserved = addresses);
            assert_eq!(net.minds(0), slow, "it costs no slow path");
            for last in 0..16 {
                guests[0].send(&frame(group(last), mac(0), 60, 1));
                let expected = usize::from(numbers.contains(&last));
                assert_eq!(counts(&mut guests), [expected; 2], "{last:x}");
                // It is what this port may send. Others may not.
                guests[1].send(&frame(group(last), mac(1), 60, 1));
                assert_eq!(guests[0].receive().len(), 0);
                counts(&mut guests);
            }
        }
    }
}

/// A station whose frames are filtered is known all the same, but nobody by MAC control.
#[test]
fn senders_of_filtered_frames_are_learned() {
    for slow in [false, true] {
        let net = net(slow);
        let mut guests = net.guests();
        let known = |station| {
            let switch = net.memory.switch();
            let station = Station::new(0, mac_word(station));
            switch.state().fdb.find(switch.key(), station)
        };
        guests[0].send(&frame(group(1), mac(70), 60, 1));
        assert_eq!(known(mac(70)), None);
        guests[0].send(&frame(group(2), mac(70), 60, 1));
        assert_eq!(known(mac(70)), Some(0));
        assert_eq!(net.drops(0, Cause::Reserved), 2);
    }
}

#[test]
fn sources_that_are_no_stations_are_refused() {
    for slow in [false, true] {
        let net = net(slow);
        let mut guests = net.guests();
        let learned = || {
            let switch = net.memory.switch();
            switch.state().fdb.entries(switch.key()).count()
        };
        let before = learned();
        let mut refused = 0;
        for source in [[0; 6], BROADCAST, [1, 0, 0x5e, 0, 0, 1], [3, 0, 0, 0, 0, 0]] {
            for to in [mac(1), mac(99), BROADCAST, group(2), [0; 6]] {
                // Frames of one call, between others.
                guests[0].put(&frame(mac(1), mac(0), 60, 1));
                guests[0].put(&frame(to, source, 60, 2));
                guests[0].put(&frame(to, source, 60, 3));
                guests[0].put(&frame(mac(1), mac(0), 60, 4));
                guests[0].call();
                refused += 2;
                assert_eq!(
                    net.drops(0, Cause::BadSource),
                    refused,
                    "{source:x?} {to:x?}"
                );
                assert_eq!(guests[1].receive().len(), 2);
                guests[2].receive();
            }
        }
        assert_eq!((learned(), net.drops(0, Cause::Reserved)), (before, 0));
        // Nobody has the address zero, so frames to it are flooded.
        guests[0].send(&frame([0; 6], mac(0), 60, 1));
        assert_eq!(counts(&mut guests), [1, 1]);
        // What is refused counts once, whatever its length.
        guests[0].send(&[&BROADCAST[..], &[0; 6], &[0x88, 0xb5], &payload(3000, 1)].concat());
        assert_eq!(net.drops(0, Cause::BadSource), refused + 1);
    }
}
