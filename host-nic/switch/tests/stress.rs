//! Guests on threads of their own, with every byte checked.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod common;

use std::sync::atomic::{AtomicBool, Ordering::*};
use std::thread;

use common::{Guest, SMALL, Stop, TestNic, frame, geometry, mac};
use postern_nic_client::counters::NicCounters;

const FRAMES: u64 = 10_000;

/// The `n`th frame of a sender, whose length and content follow from its number.
fn nth(from: u32, to: u32, n: u64) -> Vec<u8> {
    let length = 20 + (n * 37 % 1495) as usize;
    frame(
        mac(to as u8),
        mac(from as u8),
        length,
        n << 8 | u64::from(from),
    )
}

/// Sends frames to the next port and takes those of the port before, lossless, until both are done.
fn exchange(guest: &mut Guest<'_>, stop: &AtomicBool) {
    let ports = guest.geometry().ports();
    let me = guest.number();
    let (next, last) = ((me + 1) % ports, (me + ports - 1) % ports);
    let (mut sent, mut received) = (0, 0);
    while sent < FRAMES || received < FRAMES || guest.room(0) < SMALL {
        assert!(!stop.load(Relaxed), "another one failed");
        while sent < FRAMES && guest.try_send(&nth(me, next, sent)) {
            sent += 1;
        }
        guest.call(32, true);
        for bytes in guest.receive(last, 32) {
            if bytes != nth(last, me, received) {
                stop.store(true, Relaxed);
                panic!("frame {received}");
            }
            received += 1;
        }
        // There may be fewer processors than guests.
        thread::yield_now();
    }
}

fn everybody_sends(ports: u32) {
    let nic = TestNic::native(geometry(ports, 1, SMALL, SMALL));
    let guests: Vec<_> = (0..ports)
        .map(|port| Guest::attach(&nic, port, 1))
        .collect();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for mut guest in guests {
            let stop = &stop;
            scope.spawn(move || exchange(&mut guest, stop));
        }
    });
    let counters = NicCounters::read(&nic.switch());
    for port in &counters.ports {
        assert_eq!((port.tx_frames, port.rx_frames), (FRAMES, FRAMES));
        assert!(port.drops.values().all(|drops| *drops == 0), "{counters}");
    }
}

#[test]
fn two_ports_send_to_each_other() {
    everybody_sends(2);
}

#[test]
fn four_ports_send_in_a_ring() {
    everybody_sends(4);
}

/// A port's tenants come and go while others send to it and to each other. The others' own frames
/// arrive, and a tenant sees only whole frames, meant for its port.
#[test]
fn tenants_come_and_go_under_load() {
    let nic = TestNic::native(geometry(3, 1, SMALL, SMALL));
    let mut guests: Vec<_> = (0..3).map(|port| Guest::attach(&nic, port, 1)).collect();
    let stop = AtomicBool::new(false);
    let (mut sender, mut receiver) = (guests.remove(0), guests.remove(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut sent, mut received) = (0, 0);
            while !stop.load(Relaxed) {
                // Frames to everybody, to the receiver and to the port whose tenants change.
                for _ in 0..8 {
                    let to = [[0xff; 6], mac(1), mac(2)][sent as usize % 3];
                    if sender.try_send(&frame(to, mac(0), 60 + sent as usize % 300, sent)) {
                        sent += 1;
                    }
                }
                sender.call(32, false);
                for bytes in receiver.receive(0, usize::MAX) {
                    // While the station is not known, its frames are flooded and come here too.
                    let other = bytes[..6] == mac(2);
                    received += u64::from(received % 3 == 2 && !other);
                    let to = [[0xff; 6], mac(1), mac(2)][received as usize % 3];
                    let expected = frame(to, mac(0), 60 + received as usize % 300, received);
                    if bytes != expected {
                        stop.store(true, Relaxed);
                        panic!("frame {received}");
                    }
                    received += 1;
                }
            }
        });
        let _stop = Stop(&stop);
        let mut frames = 0;
        for tenancy in 2..400 {
            let mut guest = Guest::attach(&nic, 2, tenancy);
            for _ in 0..tenancy % 7 * 10 {
                assert!(!stop.load(Relaxed), "the others failed");
                for bytes in guest.receive(0, usize::MAX) {
                    assert!(bytes[..6] == mac(2) || bytes[..6] == [0xff; 6]);
                    frames += 1;
                }
                thread::yield_now();
            }
        }
        assert!(frames > 100, "{frames}");
    });
}
