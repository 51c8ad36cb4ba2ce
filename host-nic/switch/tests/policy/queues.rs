//! RX queues: the frames of a flow go to one of them, and flows are spread over all.

use std::collections::HashMap;

use postern_abi::window::{Geometry, MAX_LANES, RecordHeader};
use postern_nic_client::policy::vlan::VlanSpec;

use crate::ports::packet::{Flow, KINDS, Kind, frame, payload, tagged, udp};
use crate::ports::{BROADCAST, Net, mac};

fn net(ports: u32, queues: u32) -> Net {
    Net::sized(Geometry::new(ports, queues, 64 << 10, 16 << 10).unwrap())
}

#[test]
fn all_frames_of_a_flow_meet_at_one_queue() {
    let net = net(3, 8);
    let mut guests = net.guests();
    let mut queues = HashMap::new();
    for number in 0..40u16 {
        for kind in KINDS {
            let mut flow = Flow::new(kind, mac(1), mac(0));
            flow.ports.0 = number;
            // Frames are long or short, from any queue, by any vCPU.
            for (round, length) in [0usize, 1, 500, 1300].into_iter().enumerate() {
                let bytes = flow.whole(&payload(length, number.into()));
                let vcpu = (u32::from(number) + round as u32) % 8;
                let queue = (u32::from(number) * 3 + round as u32) % 8;
                guests[0].put_on(queue, RecordHeader::default(), &bytes);
                assert_eq!(guests[0].call_on(vcpu, queue, false), 1);
                let got = guests[1].take();
                assert_eq!(got.len(), 1);
                assert_eq!(got[0].bytes, bytes);
                let before = queues.entry((number, kind as u8)).or_insert(got[0].queue);
                assert_eq!(*before, got[0].queue, "{flow:?}");
            }
        }
    }
    // The frames of a flow arrive in order.
    let frames: Vec<_> = (0..10)
        .map(|seed| udp(mac(1), mac(0), (1, 2), 60, seed))
        .collect();
    for bytes in &frames {
        guests[0].put(bytes);
    }
    guests[0].call();
    assert_eq!(guests[1].receive(), frames);
}

#[test]
fn flows_are_spread_over_all_queues() {
    for queues in [2, 3, 8] {
        let net = net(2, queues);
        let mut guests = net.guests();
        for by_address in [false, true] {
            let mut counts = vec![0u32; queues as usize];
            for number in 0..1024u16 {
                let mut from = mac(0);
                let mut ports = (number, 443);
                if by_address {
                    from[3..5].copy_from_slice(&number.to_be_bytes());
                    ports = (1, 2);
                }
                let bytes = match by_address {
                    true => frame(mac(1), from, 60, 1),
                    false => udp(mac(1), from, ports, 20, 1),
                };
                guests[0].send(&bytes);
                for delivered in guests[1].take() {
                    counts[delivered.queue as usize] += 1;
                }
            }
            assert_eq!(counts.iter().sum::<u32>(), 1024);
            // The key is random, so ten standard deviations around the mean are allowed.
            let mean = 1024 / queues;
            let bound = 10 * f64::from(mean).sqrt() as u32;
            let low = mean.saturating_sub(bound).max(1);
            assert!(
                counts.iter().all(|n| (low..mean + bound).contains(n)),
                "{counts:?}"
            );
        }
    }
}

#[test]
fn the_flow_counts_not_the_tag() {
    let net = net(2, 8);
    let mut guests = net.guests();
    for number in 0..50 {
        let bytes = udp(mac(1), mac(0), (number, 443), 20, 1);
        guests[0].send(&bytes);
        guests[0].send(&tagged(&bytes, number));
        let got = guests[1].take();
        assert_eq!(got.len(), 2);
        assert_eq!(got[0].queue, got[1].queue);
    }
}

/// The largest NIC there can be has 256 senders, each of which may have a lane at each of 256 RX
/// queues.
#[test]
fn eight_queues_at_each_of_32_ports() {
    let geometry = Geometry::new(32, 8, 4096, 4096).unwrap();
    let net = Net::sized(geometry.with_lanes(MAX_LANES).unwrap());
    net.set(31, |policy| {
        policy.vlan = Some(VlanSpec::Access { pvid: 1 })
    });
    let mut guests = net.guests();
    for from in [0usize, 7, 31] {
        for vcpu in 0..8u32 {
            let bytes = udp(BROADCAST, mac(from as u32), (vcpu as u16, 9), 30, 1);
            guests[from].put_on(7 - vcpu, RecordHeader::default(), &bytes);
            assert_eq!(guests[from].call_on(vcpu, 7 - vcpu, false), 1);
            let mut queues = Vec::new();
            for (port, guest) in guests.iter_mut().enumerate() {
                let got = guest.take();
                assert_eq!(got.len(), usize::from(port != from), "port {port}");
                for delivered in got {
                    assert_eq!(delivered.bytes, bytes);
                    queues.push(delivered.queue);
                }
            }
            assert!(queues.iter().all(|queue| *queue == queues[0]), "{queues:?}");
        }
    }
    // Several queues of several ports in one call, back and forth.
    let mut sent: HashMap<usize, Vec<Vec<u8>>> = HashMap::new();
    for seed in 0..30u16 {
        let to = usize::from(seed % 3) + 10;
        guests[to].send(&frame(mac(0), mac(to as u32), 60, 1));
        guests[0].take();
        let bytes = udp(mac(to as u32), mac(0), (seed % 5, 9), 10, seed.into());
        guests[0].put(&bytes);
        sent.entry(to).or_default().push(bytes);
    }
    assert_eq!(guests[0].call(), 30);
    for (to, mut expected) in sent {
        let mut got = guests[to].receive();
        got.sort();
        expected.sort();
        assert_eq!(got, expected);
    }
}

#[test]
fn a_queue_that_is_full_leaves_the_others_alone() {
    let net = Net::sized(Geometry::new(2, 4, 64 << 10, 4096).unwrap());
    let mut guests = net.guests();
    let flow = |number: u16| {
        let mut flow = Flow::new(Kind::Udp4, mac(1), mac(0));
        flow.ports = (number, 7);
        flow.whole(&payload(1000, number.into()))
    };
    // The queue of each flow.
    let mut queue_of = HashMap::new();
    for number in 0..64 {
        guests[0].send(&flow(number));
        let got = guests[1].take();
        queue_of.insert(number, got[0].queue);
    }
    let full = queue_of[&0];
    for _ in 0..8 {
        guests[0].send(&flow(0));
    }
    let other = (0..64).find(|number| queue_of[number] != full).unwrap();
    guests[0].send(&flow(other));
    let got = guests[1].take();
    assert_eq!(got.iter().filter(|frame| frame.queue != full).count(), 1);
    assert!((3..8).contains(&(got.len() - 1)));
}
