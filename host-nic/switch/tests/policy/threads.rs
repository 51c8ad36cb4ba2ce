//! All vCPUs of all ports at once, on the slow path.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread;

use postern_abi::window::{FEATURES, Geometry, RecordHeader};
use postern_nic_client::policy::port::Source;
use postern_nic_client::policy::vlan::VlanSpec;
use postern_switch::state::Cause;

use crate::ports::packet::{Flow, Kind, payload};
use crate::ports::{BROADCAST, Guest, Net, mac};

const PORTS: u32 = 3;
const QUEUES: u32 = 2;
/// Number of packets that each vCPU sends. Every fourth one of port 0 is a large segment, which the
/// switch cuts.
const PACKETS: u32 = 1500;
/// Number of bytes of payload of a packet, and of each frame that a large segment is cut into.
const SMALL: usize = 300;
/// Number of frames that a large segment is cut into.
const LARGE: u32 = 5;
/// Number of polls in a row without any progress after which a frame counts as lost.
const MAX_IDLE_POLLS: u32 = 3_000_000;

/// Number of frames that a packet of a port becomes.
fn frames(port: u32, number: u32) -> u32 {
    if port == 0 && number.is_multiple_of(4) {
        LARGE
    } else {
        1
    }
}

/// Number of frames that all ports receive together.
fn total() -> u32 {
    let of = |port| (0..PACKETS).map(|number| frames(port, number)).sum::<u32>();
    (0..PORTS).map(of).sum::<u32>() * QUEUES
}

/// A vCPU: sends to the next port, and receives from its own queue. Returns how many frames came.
fn vcpu(mut guest: Guest<'_>, vcpu: u32, received: &AtomicU32) -> u32 {
    let (port, to) = (guest.number(), (guest.number() + 1) % PORTS);
    let mut flow = Flow::new(Kind::Udp4, mac(to), mac(port));
    flow.ports = (port as u16, vcpu as u16);
    let (mut number, mut sequence) = (0, 0u32);
    let mut expected = [[0u32; QUEUES as usize]; PORTS as usize];
    let (mut got, mut idle, mut last) = (0, 0, 0);
    while received.load(Relaxed) < total() {
        if number < PACKETS {
            // Each segment begins with its number.
            let data: Vec<u8> = (sequence..sequence + frames(port, number))
                .flat_map(|sequence| {
                    let rest = payload(SMALL - 4, sequence.into());
                    [&sequence.to_le_bytes()[..], &rest].concat()
                })
                .collect();
            let (header, bytes) = match frames(port, number) {
                1 => (RecordHeader::default(), flow.whole(&data)),
                _ => flow.large(&data, SMALL),
            };
            if guest.try_put_on(vcpu, header, &bytes) {
                sequence += frames(port, number);
                number += 1;
            }
        }
        guest.call_on(vcpu, vcpu, true);
        for delivered in guest.take_on(vcpu) {
            let bytes = delivered.bytes;
            let number = u32::from_le_bytes(bytes[42..46].try_into().unwrap());
            let (from, sender) = (bytes[35] as usize, bytes[37] as usize);
            let next = &mut expected[from][sender];
            assert_eq!(number, *next, "from vCPU {sender} of {from}");
            assert_eq!(bytes[46..], payload(SMALL - 4, number.into()));
            *next += 1;
            got += 1;
            received.fetch_add(1, Relaxed);
        }
        let now = received.load(Relaxed);
        idle = if now == last { idle + 1 } else { 0 };
        last = now;
        assert!(idle < MAX_IDLE_POLLS, "{now} frames of {} came", total());
        if idle != 0 {
            thread::yield_now();
        }
    }
    got
}

#[test]
fn nothing_is_lost_or_doubled_or_out_of_order() {
    let net = Net::sized(Geometry::new(PORTS, QUEUES, 16 << 10, 8 << 10).unwrap());
    for port in 0..PORTS {
        net.set(port, |policy| {
            policy.source = Source::Own;
            policy.vlan = Some(VlanSpec::Access { pvid: 3 });
        });
    }
    let mut guests = net.guests();
    for (port, guest) in guests.iter_mut().enumerate() {
        guest.agree(if port == 0 { FEATURES } else { 0 });
        let hello = Flow::new(Kind::Udp4, BROADCAST, mac(port as u32));
        guest.send(&hello.whole(&[]));
    }
    for guest in &mut guests {
        guest.take();
    }
    let received = AtomicU32::new(0);
    let guests: Vec<_> = (0..PORTS)
        .flat_map(|port| (0..QUEUES).map(move |queue| (port, queue)))
        .map(|(port, queue)| (net.guest(port), queue))
        .collect();
    let got: u32 = thread::scope(|scope| {
        let received = &received;
        let threads: Vec<_> = guests
            .into_iter()
            .map(|(guest, queue)| scope.spawn(move || vcpu(guest, queue, received)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    assert_eq!(got, total());
    for port in 0..PORTS {
        for cause in Cause::ALL {
            assert_eq!(net.drops(port, cause), 0, "{} of {port}", cause.name());
        }
    }
}
