//! Words that change all the time, even between two reads of one call.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::thread;

use postern_abi::window::{PAD_WORD, Published};

use super::{attach_all, attacks, three};
use crate::common::build::Build;
use crate::common::{BROADCAST, Guest, SMALL, Stop, TestNic, frame, geometry, mac};

attacks!(
    everything_of_a_sender_changes,
    everything_of_a_receiver_changes,
    a_header_that_changes_after_the_look,
);

const FRAMES: u64 = 1000;

struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

fn nth(n: u64, to: [u8; 6], from: [u8; 6]) -> Vec<u8> {
    frame(to, from, 14 + (n * 37 % 1500) as usize, n)
}

/// Lossless traffic between two ports that nobody disturbs, a few frames at a time.
struct Undisturbed {
    sent: u64,
    received: u64,
}

impl Undisturbed {
    fn step(&mut self, from: &mut Guest<'_>, to: &mut Guest<'_>) {
        if from.try_send(&nth(self.sent, to.mac(), from.mac())) {
            self.sent += 1;
        }
        assert!(from.call(9, true) <= 9);
        for bytes in to.receive(from.number(), 9) {
            assert!(
                bytes == nth(self.received, to.mac(), from.mac()),
                "{}",
                self.received
            );
            self.received += 1;
        }
    }
}

/// A second thread changes positions, headers and frames of the sender's ring.
fn everything_of_a_sender_changes(build: Build) {
    let nic = TestNic::new(build, geometry(4, 1, SMALL, SMALL));
    let mut guests = attach_all(&nic);
    let [hostile, good, receiver, other] = &mut guests[..] else {
        unreachable!()
    };
    let (producer, consumer, ring) = (hostile.producer(0), hostile.consumer(0), hostile.ring(0));
    let stop = AtomicBool::new(false);
    let changes = AtomicU64::new(0);
    let headers: Vec<u64> = [mac(2), mac(3), BROADCAST, mac(0)]
        .map(|to| {
            let bytes = frame(to, mac(0), 16, 0);
            u64::from_le_bytes(bytes[..8].try_into().unwrap())
        })
        .into();
    let mut undisturbed = Undisturbed {
        sent: 0,
        received: 0,
    };
    let mut arrived = 0;
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut noise = Noise(0x1234_5678_9abc_def1);
            while !stop.load(Relaxed) {
                let word = noise.next();
                let at = ((word >> 20) as usize % ring.len()) & !1;
                match word % 16 {
                    0 => producer.store(
                        consumer
                            .load(Relaxed)
                            .wrapping_add((word >> 40) as u32 % 257 * 16),
                        Relaxed,
                    ),
                    1 if word >> 8 & 15 == 0 => producer.store((word >> 32) as u32, Relaxed),
                    2 if word >> 8 & 15 == 0 => consumer.store((word >> 32) as u32, Relaxed),
                    3 => ring[at + 1].store(PAD_WORD, Relaxed),
                    4 => ring[at].store(word, Relaxed),
                    5 | 6 => ring[at].store(headers[(word >> 8) as usize % 4], Relaxed),
                    7..10 => ring[at].store(
                        [60, 14, 1514, 65535, 13, 100][(word >> 8) as usize % 6],
                        Relaxed,
                    ),
                    _ => {
                        // An ordinary frame, mostly.
                        ring[at].store(60, Relaxed);
                        ring[at + 1].store(0, Relaxed);
                        if let Some(word) = ring.get(at + 2) {
                            word.store(headers[(noise.next() >> 8) as usize % 4], Relaxed);
                        }
                    }
                }
                changes.fetch_add(1, Relaxed);
            }
        });
        let _stop = Stop(&stop);
        while undisturbed.received < FRAMES || arrived < FRAMES || changes.load(Relaxed) < 50_000 {
            let taken = hostile.call(u64::MAX, changes.load(Relaxed).is_multiple_of(2));
            assert!(taken <= 256);
            undisturbed.step(good, receiver);
            for guest in [&mut *receiver, &mut *other] {
                let own = guest.mac();
                for bytes in guest.receive(0, 99) {
                    let to = &bytes[..6];
                    assert!(to == own || to[0] & 1 != 0 || to[..] != mac(2) && to[..] != mac(3));
                    arrived += 1;
                }
            }
        }
    });
}

/// A second thread changes `consumed`, `published`, headers and frames of the receiver's lanes,
/// even the length of a record that is being filled.
fn everything_of_a_receiver_changes(build: Build) {
    let nic = TestNic::new(build, geometry(4, 1, SMALL, SMALL));
    let mut guests = attach_all(&nic);
    let [sender, good, receiver, hostile] = &mut guests[..] else {
        unreachable!()
    };
    let lanes = [0, 1].map(|sender| {
        (
            hostile.consumed(0, sender),
            hostile.published(0, sender),
            hostile.lane(0, sender),
        )
    });
    let stop = AtomicBool::new(false);
    let changes = AtomicU64::new(0);
    let mut undisturbed = Undisturbed {
        sent: 0,
        received: 0,
    };
    let (mut sent, mut received) = (0u64, 0u64);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut noise = Noise(0x9999_5678_9abc_def1);
            while !stop.load(Relaxed) {
                let word = noise.next();
                let (consumed, published, lane) = lanes[(word >> 60) as usize & 1];
                let at = ((word >> 20) as usize % lane.len()) & !1;
                let position = Published::from_word(published.load(Relaxed)).position;
                match word % 8 {
                    0 | 1 => consumed.store(position, Relaxed),
                    2 => consumed.store(position.wrapping_sub((word >> 40) as u32 % 4200), Relaxed),
                    3 => consumed.store((word >> 32) as u32, Relaxed),
                    4 => published.store(word, Relaxed),
                    5 => {
                        lane[at].store([0, 65535, u64::MAX, 64][(word >> 8) as usize % 4], Relaxed)
                    }
                    6 => lane[at + 1].store(PAD_WORD, Relaxed),
                    _ => lane[at].store(word, Relaxed),
                }
                changes.fetch_add(1, Relaxed);
            }
        });
        let _stop = Stop(&stop);
        while undisturbed.received < FRAMES || received < FRAMES || changes.load(Relaxed) < 50_000 {
            // Frames go to the hostile receiver, to everybody and to the good receiver. The last
            // two arrive in order.
            let before = sent;
            while sent < before + 6 {
                let to = [mac(3), BROADCAST, mac(2)][(sent % 3) as usize];
                if !sender.try_send(&frame(to, mac(0), 14 + (sent % 400) as usize, sent)) {
                    break;
                }
                sent += 1;
            }
            sender.call(u64::MAX, false);
            for bytes in receiver.receive(0, 99) {
                received += u64::from(received % 3 == 0);
                let to = [mac(3), BROADCAST, mac(2)][(received % 3) as usize];
                let expected = frame(to, mac(0), 14 + (received % 400) as usize, received);
                assert!(bytes == expected, "{received}");
                received += 1;
            }
            undisturbed.step(good, receiver);
        }
    });
    assert_eq!(sender.drops(postern_switch::state::Cause::BadDescriptor), 0);
}

/// The sender changes the destination all the time. Each frame arrives with the destination by
/// which it was switched.
fn a_header_that_changes_after_the_look(build: Build) {
    let nic = three(build);
    let mut guests = attach_all(&nic);
    let [sender, a, b] = &mut guests[..] else {
        unreachable!()
    };
    let first_words = [mac(1), mac(2)].map(|to| {
        let bytes = frame(to, mac(0), 64, 0);
        u64::from_le_bytes(bytes[..8].try_into().unwrap())
    });
    let (ring, slots) = (sender.ring(0), 80);
    let (stop, start) = (AtomicBool::new(false), sender.tx[0]);
    let mut counts = [0u32; 2];
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut turn = 0usize;
            while !stop.load(Relaxed) {
                turn += 1;
                // Records of 80 bytes from the beginning of the ring.
                let at = turn % slots * 10;
                ring[at + 2].store(first_words[turn / slots % 2], Relaxed);
            }
        });
        let _stop = Stop(&stop);
        while counts.iter().any(|count| u64::from(*count) < FRAMES) {
            // The records are sent again from the beginning of the ring, one round later.
            let position = sender.tx[0];
            assert_eq!(position.wrapping_sub(start) % sender.geometry().ring(), 0);
            for _ in 0..slots {
                sender.send(&frame(mac(1), mac(0), 64, 0));
            }
            sender.call(u64::MAX, false);
            let rest = position
                .wrapping_add(sender.geometry().ring())
                .wrapping_sub(sender.tx[0]);
            sender.put(0, (0, PAD_WORD), &[]);
            sender.commit(0, rest);
            assert_eq!(sender.call(u64::MAX, false), 0);
            for (guest, count) in [&mut *a, &mut *b].into_iter().zip(&mut counts) {
                for bytes in guest.receive(0, 999) {
                    assert_eq!(bytes[..6], guest.mac(), "switched by another header");
                    *count += 1;
                }
            }
        }
    });
}
