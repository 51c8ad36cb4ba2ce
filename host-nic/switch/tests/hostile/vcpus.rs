//! Calls of several vCPUs, and NICs with as many ports and queues as there can be.

use std::sync::atomic::Ordering::{Relaxed, Release};

use postern_abi::service::{ERR_BAD_REQUEST, OP_TX, TX_BELL, TX_MORE, tx_flags};

use super::{attach_all, attacks};
use crate::common::build::Build;
use crate::common::child::Child;
use crate::common::{BROADCAST, SMALL, TestNic, frame, geometry, mac};

attacks!(
    vcpus_that_do_not_exist,
    queues_that_do_not_exist,
    two_vcpus_of_one_port_at_the_same_time,
    ports_256,
    queues_8,
);

fn vcpus_that_do_not_exist(build: Build) {
    let nic = TestNic::new(build, geometry(3, 2, SMALL, SMALL));
    let mut guests = attach_all(&nic);
    guests[0].send(&frame(mac(1), mac(0), 60, 1));
    for vcpu in (2..20).chain([255, 256, 1 << 16, 1 << 31, u32::MAX - 1, u32::MAX]) {
        assert_eq!(
            guests[0].call_on(vcpu, 0, 1, true),
            ERR_BAD_REQUEST,
            "{vcpu}"
        );
    }
    assert_eq!(guests[0].call_on(1, 0, 1, true), 1);
    assert_eq!(guests[1].receive_from(1, 9).len(), 1);
}

fn queues_that_do_not_exist(build: Build) {
    let nic = TestNic::new(build, geometry(3, 2, SMALL, SMALL));
    let mut guests = attach_all(&nic);
    guests[0].send(&frame(mac(1), mac(0), 60, 1));
    let caller = guests[0].caller;
    let flags = (2..20)
        .chain([255, 256, 1 << 31, u32::MAX])
        .map(|queue| tx_flags(queue, true));
    for flags in flags.chain([u64::MAX, 1 << 63, 1 << 33]) {
        assert_eq!(
            nic.serve(&caller, 0, [caller.secret().request(OP_TX), 1, flags]),
            ERR_BAD_REQUEST,
            "{flags:#x}"
        );
    }
    assert_eq!(guests[0].call(1, true), 1);
    assert_eq!(guests[1].receive(0, 9).len(), 1);
}

/// Each vCPU is a process of its own. Frames of their port may be garbled, but are whole records.
/// Frames of the port beside it arrive.
fn two_vcpus_of_one_port_at_the_same_time(build: Build) {
    let nic = TestNic::new(build, geometry(3, 2, SMALL, SMALL));
    let mut guests = attach_all(&nic);
    let hostile = guests.remove(0);
    let [good, receiver] = &mut guests[..] else {
        unreachable!()
    };
    let frames = [60, 300, 1500].map(|length| frame(mac(2), mac(0), length, 5));
    let vcpu = |number: u32| {
        let (nic, caller, frames) = (&nic, hostile.caller, &frames);
        Child::spawn(move || {
            let mut guest = crate::common::Guest::alias(nic, caller);
            for n in 0u32.. {
                // Fills one of the rings without regard to the other vCPU, and calls.
                let queue = n / 64 % 2;
                let bytes = &frames[(n.wrapping_mul(7 + number) % 3) as usize];
                guest.put(queue, (bytes.len() as u64, 0), bytes);
                let size = (16 + bytes.len() as u32).next_multiple_of(16);
                guest.tx[queue as usize] = guest
                    .consumer(queue)
                    .load(Relaxed)
                    .wrapping_add(n % 5 * size);
                guest
                    .producer(queue)
                    .store(guest.tx[queue as usize], Relaxed);
                guest.call_on(number, queue, 64, n.is_multiple_of(2));
            }
            0
        })
    };
    let vcpus = [vcpu(0), vcpu(1)];
    let (mut sent, mut received, mut garbled) = (0, 0, [0; 2]);
    while received < 3000 || garbled.iter().any(|frames| *frames < 300) {
        let length = 14 + sent as usize * 37 % 1500;
        if good.try_send(&frame(mac(2), mac(1), length, sent)) {
            sent += 1;
        }
        good.call(32, true);
        for bytes in receiver.receive(1, 32) {
            let length = 14 + received as usize * 37 % 1500;
            assert!(
                bytes == frame(mac(2), mac(1), length, received),
                "{received}"
            );
            received += 1;
        }
        for (sender, garbled) in garbled.iter_mut().enumerate() {
            *garbled += receiver.receive_from(sender as u32, 32).len();
        }
    }
    drop(vcpus);
}

fn ports_256(build: Build) {
    let nic = TestNic::new(build, geometry(256, 1, SMALL, SMALL));
    let mut guests = attach_all(&nic);
    for from in 0..256u32 {
        for to in [(from + 1) % 256, from ^ 128, 255 - from] {
            let bytes = frame(
                mac(to as u8),
                mac(from as u8),
                100,
                u64::from(from * 1000 + to),
            );
            guests[from as usize].send(&bytes);
            assert_eq!(guests[from as usize].call(1, true), 1);
            assert_eq!(
                guests[to as usize].receive(from, 9),
                [bytes],
                "{from} to {to}"
            );
        }
    }
    for from in [0, 63, 64, 255] {
        for n in 0..40 {
            guests[from].send(&frame(BROADCAST, mac(from as u8), 60, n));
        }
        // So many copies take several calls.
        let calls = [(); 10].map(|()| guests[from].call(u64::MAX, true) & !(TX_MORE | TX_BELL));
        assert_eq!(calls.iter().sum::<u64>(), 40, "{calls:?}");
        for (to, guest) in guests.iter_mut().enumerate() {
            let received = guest.receive(from as u32, usize::MAX);
            assert_eq!(received.len(), if to == from { 0 } else { 40 });
            for (n, bytes) in (0..).zip(received) {
                assert_eq!(bytes, frame(BROADCAST, mac(from as u8), 60, n));
            }
        }
    }
    // One port loses its tenant; the others keep theirs.
    nic.switch().evict(crate::common::port(255));
    guests[0].send(&frame(mac(255), mac(0), 60, 1));
    assert_eq!(guests[0].call(1, true), 1);
    assert_eq!(guests[254].receive(0, 9).len(), 1, "unknown: flooded");
}

/// Any vCPU sends from any TX queue, and the receiver has a lane for each vCPU.
fn queues_8(build: Build) {
    let nic = TestNic::new(build, geometry(32, 8, SMALL, SMALL));
    let mut guests = attach_all(&nic);
    for from in [0u32, 17, 31] {
        let to = (from + 9) % 32;
        for vcpu in 0..8 {
            for queue in 0..8 {
                let seed = u64::from(from << 8 | vcpu << 4 | queue);
                let bytes = frame(mac(to as u8), mac(from as u8), 60, seed);
                let header = postern_abi::window::RecordHeader::plain(60);
                assert!(guests[from as usize].try_put(queue, header, &bytes));
                assert_eq!(guests[from as usize].call_on(vcpu, queue, 1, true), 1);
                let guest = &mut guests[to as usize];
                let mut received = Vec::new();
                for rx in 0..8 {
                    received.extend(guest.receive_on(rx, from * 8 + vcpu, 9));
                }
                assert_eq!(received, [bytes], "{from} {vcpu} {queue}");
            }
        }
    }
    // A queue whose positions are broken stops no other queue.
    guests[0].producer(3).store(5, Release);
    for queue in 0..8 {
        let bytes = frame(mac(1), mac(0), 60, 1);
        let header = postern_abi::window::RecordHeader::plain(60);
        if queue != 3 {
            assert!(guests[0].try_put(queue, header, &bytes));
        }
        assert_eq!(guests[0].call_on(0, queue, 1, true), u64::from(queue != 3));
    }
}
