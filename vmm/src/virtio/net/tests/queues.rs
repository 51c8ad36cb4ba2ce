//! Receive, transmit and control queues, without threads.

use std::io::{Read, Write};
use std::os::unix::net::UnixDatagram;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::driver::{Driver, INDIRECT, NEXT, WRITE, memory};
use crate::virtio::buffers::Buffers;
use crate::virtio::chain::BrokenQueue;
use crate::virtio::net::control::{self, Commands};
use crate::virtio::net::fault::Fault;
use crate::virtio::net::header::HEADER;
use crate::virtio::net::receive::{BURST, LONGEST, Receive, Received};
use crate::virtio::net::ring::Ring;
use crate::virtio::net::transmit::{Sent, Transmit};

const RINGS: u64 = 0;
const DATA: u64 = 0x10_0000;

struct Bench {
    memory: GuestMemoryMmap,
    driver: Driver,
    /// The device's end, and the network's.
    tap: (UnixDatagram, UnixDatagram),
}

impl Bench {
    fn new(size: u16) -> Bench {
        let memory = memory();
        let driver = Driver::new(&memory, RINGS, size);
        let tap = UnixDatagram::pair().unwrap();
        tap.0.set_nonblocking(true).unwrap();
        tap.1.set_nonblocking(true).unwrap();
        Bench {
            memory,
            driver,
            tap,
        }
    }

    fn ring(&self, event_idx: bool) -> Ring {
        Ring::new(&self.memory, self.driver.active(event_idx))
    }

    fn receive(&self, mergeable: bool) -> Receive {
        let buffers = Buffers::new(self.memory.clone());
        Receive::new(self.ring(true), buffers, mergeable)
    }

    fn transmit(&self) -> Transmit {
        Transmit::new(self.ring(true), Buffers::new(self.memory.clone()))
    }

    fn bytes(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let address = GuestAddress(address);
        self.memory.read_slice(&mut bytes, address).unwrap();
        bytes
    }
}

/// A frame with its header; no two parts are alike.
fn frame(len: usize, seed: u8) -> Vec<u8> {
    let body = (0..len).map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed));
    [vec![0; HEADER], body.collect()].concat()
}

#[test]
fn frames_longer_than_any_do_not_reach_the_tap() {
    let bench = Bench::new(16);
    let mut transmit = bench.transmit();
    // The same memory twice.
    let half = (LONGEST / 2 + 1) as u32;
    bench.driver.post(&[(DATA, half, 0), (DATA, half, 0)]);
    let len = HEADER + 60;
    bench.driver.post(&[(DATA, len as u32, 0)]);
    let sent = transmit.burst(&bench.tap.0).unwrap();
    assert_eq!((sent, transmit.refused), (Sent::NoFrame, 1));
    assert_eq!(bench.driver.take_used().len(), 2);
    let mut frame = vec![0; 2 * LONGEST];
    assert_eq!(bench.tap.1.recv(&mut frame).unwrap(), len);
    assert!(bench.tap.1.recv(&mut frame).is_err(), "the other was sent");
}

#[test]
fn frames_are_sent_from_chains_of_any_form() {
    let bench = Bench::new(16);
    let mut transmit = bench.transmit();
    let wanted = frame(1500, 1);
    bench
        .memory
        .write_slice(&wanted, GuestAddress(DATA))
        .unwrap();
    let len = wanted.len() as u32;
    bench.driver.post(&[(DATA, len, 0)]);
    bench
        .driver
        .post(&[(DATA, 12, 0), (DATA + 12, len - 12, 0)]);
    // The header in two descriptors, one without bytes, and the rest.
    bench
        .driver
        .post(&[(DATA, 5, 0), (DATA, 0, 0), (DATA + 5, len - 5, 0)]);
    // A table of two descriptors elsewhere.
    for (number, (at, len, flags)) in [(DATA, 100, NEXT), (DATA + 100, len - 100, 0)]
        .into_iter()
        .enumerate()
    {
        let table = GuestAddress(0x8_0000 + 16 * number as u64);
        bench.memory.write_obj(at, table).unwrap();
        let rest = u64::from(len) | u64::from(flags) << 32 | 1 << 48;
        let address = GuestAddress(table.0 + 8);
        bench.memory.write_obj(rest, address).unwrap();
    }
    bench.driver.post(&[(0x8_0000, 32, INDIRECT)]);
    assert_eq!(transmit.burst(&bench.tap.0).unwrap(), Sent::NoFrame);
    let mut received = vec![0; LONGEST];
    for number in 0..4 {
        let size = bench.tap.1.recv(&mut received).unwrap();
        assert_eq!(received[..size], wanted, "chain {number}");
    }
    let used: Vec<u32> = bench.driver.take_used().iter().map(|used| used.0).collect();
    assert_eq!(used, [0, 1, 3, 6]);
}

#[test]
fn a_full_tap_keeps_the_frame_for_later() {
    let bench = Bench::new(256);
    let mut transmit = bench.transmit();
    for _ in 0..200 {
        bench.driver.post(&[(DATA, 4000, 0)]);
    }
    let mut sent = 0;
    loop {
        match transmit.burst(&bench.tap.0).unwrap() {
            Sent::Burst => {}
            Sent::Full => break,
            Sent::NoFrame => panic!("the socket took all frames"),
        }
    }
    let mut buffer = vec![0; LONGEST];
    loop {
        while bench.tap.1.recv(&mut buffer).is_ok() {
            sent += 1;
        }
        match transmit.burst(&bench.tap.0).unwrap() {
            Sent::NoFrame => break,
            Sent::Full | Sent::Burst => {}
        }
    }
    while bench.tap.1.recv(&mut buffer).is_ok() {
        sent += 1;
    }
    assert_eq!(sent, 200);
    assert_eq!(bench.driver.take_used().len(), 200);
}

#[test]
fn bursts_are_bounded_both_ways() {
    let bench = Bench::new(256);
    for _ in 0..2 * BURST {
        bench.driver.post(&[(DATA, 60, 0)]);
    }
    // Frames are read as they are sent: the socket takes few.
    let mut transmit = bench.transmit();
    let mut taken = 0;
    let mut buffer = vec![0; LONGEST];
    let ended = loop {
        let ended = transmit.burst(&bench.tap.0).unwrap();
        let mut now = 0;
        while bench.tap.1.recv(&mut buffer).is_ok() {
            now += 1;
        }
        assert!(now <= BURST);
        taken += now;
        if ended == Sent::NoFrame {
            break ended;
        }
    };
    assert_eq!((ended, taken), (Sent::NoFrame, 2 * BURST));
}

#[test]
fn what_a_driver_breaks_is_a_fault_of_its_own() {
    type Break = fn(&Driver);
    let transmit: [(&str, Break); 10] = [
        ("shorter than its header", |driver| {
            driver.post(&[(DATA, 11, 0)]);
        }),
        ("shorter than its header", |driver| {
            driver.post(&[(DATA, 0, 0)]);
        }),
        ("to be written where", |driver| {
            driver.post(&[(DATA, 60, WRITE)]);
        }),
        ("to be written where", |driver| {
            driver.post(&[(DATA, 60, 0), (DATA, 1, WRITE)]);
        }),
        ("not in RAM", |driver| {
            driver.post(&[(1 << 40, 60, 0)]);
        }),
        ("not in RAM", |driver| {
            driver.post(&[(u64::MAX - 5, 60, 0)]);
        }),
        ("does not exist", |driver| {
            // It goes round.
            driver.descriptor(0, DATA, 60, NEXT, 0);
            driver.offer(0);
        }),
        ("does not exist", |driver| {
            // The next descriptor is beyond the table.
            driver.descriptor(0, DATA, 60, NEXT, 16);
            driver.offer(0);
        }),
        ("does not exist", |driver| driver.offer(16)),
        ("broke a queue", |driver| driver.set_available(17)),
    ];
    for (number, (words, break_it)) in transmit.into_iter().enumerate() {
        let bench = Bench::new(16);
        break_it(&bench.driver);
        let error = bench.transmit().burst(&bench.tap.0).unwrap_err();
        assert!(error.to_string().contains(words), "{number}: {error}");
    }
    let receive: [(&str, Break); 5] = [
        ("to be written where", |driver| {
            driver.post(&[(DATA, 2000, 0)]);
        }),
        ("to be written where", |driver| {
            driver.post(&[(DATA, 2000, WRITE), (DATA, 1, 0)]);
        }),
        ("not in RAM", |driver| {
            driver.post(&[(1 << 40, 2000, WRITE)]);
        }),
        ("does not exist", |driver| driver.offer(u16::MAX)),
        ("broke a queue", |driver| driver.set_available(u16::MAX)),
    ];
    for (number, (words, break_it)) in receive.into_iter().enumerate() {
        for mergeable in [false, true] {
            let bench = Bench::new(16);
            break_it(&bench.driver);
            bench.tap.1.send(&frame(60, 0)).unwrap();
            let error = bench.receive(mergeable).burst(&bench.tap.0).unwrap_err();
            assert!(error.to_string().contains(words), "{number}: {error}");
        }
    }
}

#[test]
fn a_table_of_many_descriptors_is_a_fault() {
    let bench = Bench::new(16);
    // 1000 descriptors of one byte each: more than the queue has.
    for number in 0..1000u64 {
        let table = 0x8_0000 + 16 * number;
        bench.memory.write_obj(DATA, GuestAddress(table)).unwrap();
        let rest = 1 | u64::from(NEXT) << 32 | (number + 1) << 48;
        let address = GuestAddress(table + 8);
        bench.memory.write_obj(rest, address).unwrap();
    }
    bench.driver.post(&[(0x8_0000, 16000, INDIRECT)]);
    let error = bench.transmit().burst(&bench.tap.0).unwrap_err();
    assert!(
        matches!(error, Fault::Queue(BrokenQueue::Chain(_))),
        "{error}"
    );
}

#[test]
fn frames_are_received_into_merged_buffers() {
    let bench = Bench::new(64);
    let mut receive = bench.receive(true);
    let sizes = [60, 1500, 9000, 40000, 14];
    for number in 0..64 {
        bench.driver.post(&[(DATA + 1536 * number, 1536, WRITE)]);
    }
    for (seed, size) in sizes.into_iter().enumerate() {
        bench.tap.1.send(&frame(size, seed as u8)).unwrap();
    }
    assert_eq!(receive.burst(&bench.tap.0).unwrap(), Received::NoFrame);
    let mut used = bench.driver.take_used().into_iter();
    let mut address = DATA;
    for (seed, size) in sizes.into_iter().enumerate() {
        let wanted = frame(size, seed as u8);
        let count = wanted.len().div_ceil(1536);
        let header = bench.bytes(address, HEADER);
        assert_eq!(header[10..], (count as u16).to_le_bytes(), "{size} bytes");
        let got = bench.bytes(address, wanted.len());
        assert_eq!(got[HEADER..], wanted[HEADER..], "{size} bytes");
        let total: u32 = used.by_ref().take(count).map(|(_, len)| len).sum();
        assert_eq!(total as usize, wanted.len());
        address += 1536 * count as u64;
    }
    assert_eq!(used.next(), None);
}

#[test]
fn a_long_frame_waits_for_more_buffers() {
    let bench = Bench::new(64);
    let mut receive = bench.receive(true);
    let wanted = frame(9000, 7);
    bench.driver.post(&[(DATA, 1000, WRITE)]);
    bench.tap.1.send(&wanted).unwrap();
    assert_eq!(receive.burst(&bench.tap.0).unwrap(), Received::NoBuffers);
    for number in 1..9 {
        bench.driver.post(&[(DATA + 1000 * number, 1000, WRITE)]);
        assert_eq!(receive.burst(&bench.tap.0).unwrap(), Received::NoBuffers);
        assert!(bench.driver.take_used().is_empty());
    }
    bench.driver.post(&[(DATA + 9000, 1000, WRITE)]);
    assert_eq!(receive.burst(&bench.tap.0).unwrap(), Received::NoBuffers);
    assert_eq!(bench.driver.take_used().len(), 10);
    let got = bench.bytes(DATA, wanted.len());
    assert_eq!(got[HEADER..], wanted[HEADER..]);
    assert_eq!(got[10], 10);
    assert_eq!(receive.dropped, 0);
}

#[test]
fn a_frame_that_no_buffers_can_take_is_dropped() {
    // All buffers of a small ring are too few.
    let bench = Bench::new(4);
    let mut receive = bench.receive(true);
    for number in 0..4 {
        bench.driver.post(&[(DATA + 100 * number, 100, WRITE)]);
    }
    bench.tap.1.send(&frame(1000, 0)).unwrap();
    bench.tap.1.send(&frame(60, 1)).unwrap();
    assert_eq!(receive.burst(&bench.tap.0).unwrap(), Received::NoFrame);
    assert_eq!(receive.dropped, 1);
    assert_eq!(bench.driver.take_used(), [(0, 72)]);
    assert_eq!(bench.bytes(DATA, 72)[HEADER..], frame(60, 1)[HEADER..]);

    // Without merged buffers, a frame has one chain.
    let bench = Bench::new(16);
    let mut receive = bench.receive(false);
    bench
        .driver
        .post(&[(DATA, 12, WRITE), (DATA + 12, 1000, WRITE)]);
    bench.driver.post(&[(DATA + 4096, 4000, WRITE)]);
    bench.tap.1.send(&frame(1001, 0)).unwrap();
    bench.tap.1.send(&frame(1000, 1)).unwrap();
    assert_eq!(receive.burst(&bench.tap.0).unwrap(), Received::NoFrame);
    assert_eq!(receive.dropped, 1);
    assert_eq!(bench.driver.take_used(), [(0, 1012)]);
    let got = bench.bytes(DATA, 1012);
    assert_eq!(got[HEADER..], frame(1000, 1)[HEADER..]);
    assert_eq!(got[10..12], [1, 0]);
}

#[test]
fn chains_without_bytes_do_not_pile_up() {
    let bench = Bench::new(16);
    let mut receive = bench.receive(true);
    for _ in 0..16 {
        bench.driver.post(&[(DATA, 0, WRITE)]);
    }
    bench.tap.1.send(&frame(60, 0)).unwrap();
    receive.burst(&bench.tap.0).unwrap();
    assert_eq!(receive.dropped, 1);
}

#[test]
fn the_driver_is_interrupted_when_it_wants_to_be() {
    let bench = Bench::new(16);
    let mut transmit = bench.transmit();
    bench.driver.set_used_event(2);
    for wanted in [0, 0, 1, 1] {
        bench.driver.post(&[(DATA, 60, 0)]);
        transmit.burst(&bench.tap.0).unwrap();
        assert_eq!(bench.driver.calls(), wanted);
    }
    // Several at once, across the one that it waits for.
    bench.driver.set_used_event(5);
    for _ in 0..4 {
        bench.driver.post(&[(DATA, 60, 0)]);
    }
    transmit.burst(&bench.tap.0).unwrap();
    assert_eq!(bench.driver.calls(), 2);

    // Without VIRTIO_F_RING_EVENT_IDX there is a flag.
    let bench = Bench::new(16);
    let buffers = Buffers::new(bench.memory.clone());
    let mut transmit = Transmit::new(bench.ring(false), buffers);
    for (flags, wanted) in [(1, 0), (0, 1), (1, 1)] {
        bench.driver.set_flags(flags);
        bench.driver.post(&[(DATA, 60, 0)]);
        transmit.burst(&bench.tap.0).unwrap();
        assert_eq!(bench.driver.calls(), wanted);
    }
}

#[test]
fn indexes_wrap_around() {
    let mut bench = Bench::new(4);
    let mut transmit = bench.transmit();
    let mut buffer = [0; 100];
    for round in 0..70_000u32 {
        bench.driver.post(&[(DATA, 60, 0)]);
        assert_eq!(transmit.burst(&bench.tap.0).unwrap(), Sent::NoFrame);
        assert_eq!(bench.tap.1.recv(&mut buffer).unwrap(), 60);
        assert_eq!(bench.driver.take_used(), [(round % 4, 0)]);
    }
    // A file refuses what a TAP refuses: the frame is gone, the queue goes on.
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    bench.driver.post(&[(DATA, 60, 0)]);
    transmit.burst(&writer).unwrap();
    let mut bytes = [0; 60];
    reader.read_exact(&mut bytes).unwrap();
    writer.flush().unwrap();
    drop(reader);
    bench.driver.post(&[(DATA, 60, 0)]);
    assert_eq!(transmit.burst(&writer).unwrap(), Sent::NoFrame);
    assert_eq!(transmit.refused, 1);
    bench.tap.1 = UnixDatagram::unbound().unwrap();
}

struct Pairs(Vec<u16>);

impl Commands for Pairs {
    fn set_pairs(&mut self, pairs: u16) -> bool {
        self.0.push(pairs);
        pairs < 3
    }

    fn set_mac(&mut self, _: [u8; 6]) -> bool {
        false
    }

    fn set_offloads(&mut self, _: u64) -> bool {
        false
    }
}

#[test]
fn commands_are_answered() {
    let bench = Bench::new(16);
    let mut ring = bench.ring(true);
    let mut commands = Pairs(Vec::new());
    let ask = |data: &[u8]| {
        bench.memory.write_slice(data, GuestAddress(DATA)).unwrap();
        let answer = GuestAddress(DATA + 0x1000);
        bench.memory.write_obj(0xffu8, answer).unwrap();
        let rest = data.len() as u32 - 2;
        let parts = [(DATA, 2, 0), (DATA + 2, rest, 0), (answer.0, 1, WRITE)];
        bench.driver.post(&parts);
    };
    for (data, answer) in [(&[4, 0, 2, 0], 0u8), (&[4, 0, 3, 0], 1), (&[7, 7, 0, 0], 1)] {
        ask(data);
        let more = control::burst(&mut ring, &bench.memory, &mut commands).unwrap();
        assert!(!more);
        assert_eq!(bench.bytes(DATA + 0x1000, 1), [answer]);
        assert_eq!(bench.driver.take_used().len(), 1);
    }
    assert_eq!(commands.0, [2, 3]);

    // A command that is longer than any is refused, and costs no memory.
    let long = [(DATA, 2, 0), (DATA, 1 << 20, 0), (DATA + 0x1000, 1, WRITE)];
    bench.driver.post(&long);
    control::burst(&mut ring, &bench.memory, &mut commands).unwrap();
    assert_eq!(bench.bytes(DATA + 0x1000, 1), [1]);

    for parts in [
        &[(DATA, 4, 0)][..],
        &[(DATA, 4, 0), (DATA, 0, WRITE)],
        &[(DATA, 1, WRITE), (DATA, 4, 0)],
        &[(1 << 40, 4, 0), (DATA, 1, WRITE)],
        &[(DATA, 4, 0), (1 << 40, 1, WRITE)],
    ] {
        let bench = Bench::new(16);
        bench.driver.post(parts);
        let mut ring = bench.ring(true);
        assert!(control::burst(&mut ring, &bench.memory, &mut commands).is_err());
    }
}
