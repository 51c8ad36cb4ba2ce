//! Guests on threads of their own, every byte checked.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod common;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::*};
use std::thread;

use common::{Guest, Stop, frame, geometry, mac};
use postern_abi::window::Ring;
use postern_nic::memory::Memory;

const FRAMES: u64 = 20_000;

/// Length and content of a sender's frame, from its number.
fn nth(from: u32, to: u32, n: u64) -> Vec<u8> {
    let length = 20 + (n * 37 % 1495) as usize;
    let mut bytes = frame(
        mac(to as u8),
        mac(from as u8),
        length,
        n << 8 | u64::from(from),
    );
    bytes[12..20].copy_from_slice(&n.to_le_bytes());
    bytes
}

/// Two senders, which are each other's receivers, at full rate, lossless.
#[test]
fn two_ports_send_to_each_other() {
    let memory = Memory::create(geometry(2, 64)).unwrap();
    let guests = [0, 1].map(|port| Guest::attach(&memory, port, 1));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for (me, mut guest) in guests.into_iter().enumerate() {
            let (me, peer) = (me as u32, 1 - me as u32);
            let stop = &stop;
            scope.spawn(move || {
                let (mut sent, mut received) = (0, 0);
                while sent < FRAMES || received < FRAMES || guest.room() < 64 {
                    assert!(!stop.load(Relaxed), "the other side failed");
                    while guest.room() > 0 && sent < FRAMES {
                        guest.send(&nth(me, peer, sent));
                        sent += 1;
                    }
                    guest.call(32, true);
                    for bytes in guest.receive(peer, 32) {
                        if bytes != nth(peer, me, received) {
                            stop.store(true, Relaxed);
                            panic!("frame {received}");
                        }
                        received += 1;
                    }
                }
            });
        }
    });
    let counters = postern_nic::counters::Counters::read(&memory.switch());
    for port in &counters.ports {
        assert_eq!((port.tx_frames, port.rx_frames), (FRAMES, FRAMES));
        assert!(port.drops.values().all(|drops| *drops == 0), "{counters}");
    }
}

/// Two vCPUs of one VM call on one port at a time, as a hostile guest would. Its own frames may come
/// to harm; those of the port beside it, at the same receiver, arrive all the same.
#[test]
fn concurrent_calls_on_one_port_harm_nobody_else() {
    let memory = Memory::create(geometry(3, 64)).unwrap();
    let bad = [(); 2].map(|()| AtomicU32::new(0));
    let stop = AtomicBool::new(false);
    let mut receiver = Guest::attach(&memory, 2, 1);
    let mut good = Guest::attach(&memory, 1, 1);
    // Known, so that what goes to it is not flooded to the others.
    receiver.send(&frame(common::BROADCAST, mac(2), 64, 0));
    assert_eq!(receiver.call(1, false), 1);
    let hostile = Guest::attach(&memory, 0, 1).caller;
    let hostile = |calls: &AtomicU32| {
        let mut guest = Guest::alias(&memory, hostile);
        for n in 0.. {
            if stop.load(Relaxed) {
                break;
            }
            // Fills the ring without regard to anybody, and calls.
            guest.send(&nth(0, 2, n));
            guest.tx = guest
                .consumer(Ring::TX)
                .load(Relaxed)
                .wrapping_add(n as u32 % 64);
            guest.producer(Ring::TX).store(guest.tx, Relaxed);
            guest.call(64, n % 2 == 0);
            calls.fetch_add(1, Relaxed);
        }
    };
    thread::scope(|scope| {
        for calls in &bad {
            scope.spawn(|| hostile(calls));
        }
        let _stop = Stop(&stop);
        let (mut sent, mut received) = (0, 0);
        while received < FRAMES {
            while good.room() > 0 && sent < FRAMES {
                good.send(&nth(1, 2, sent));
                sent += 1;
            }
            good.call(32, true);
            for bytes in receiver.receive(1, 32) {
                assert!(bytes == nth(1, 2, received), "frame {received}");
                received += 1;
            }
            // What the hostile port sends is taken blindly, to make room for more.
            let lane = Ring::lane(common::port(0));
            let producer = receiver.producer(lane).load(Acquire);
            receiver.consumer(lane).store(producer, Release);
        }
    });
    assert!(bad.iter().all(|calls| calls.load(Relaxed) > 100), "{bad:?}");
}
