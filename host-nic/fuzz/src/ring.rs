//! Two guests that do anything to their windows and make any calls, and a third one that does
//! nothing wrong.
//!
//! Input: a byte of configuration, then steps, each a byte and its arguments.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering::Relaxed;

use postern_abi::service::{ERR_BAD_REQUEST, ERR_NO_SECRET, OP_FEATURES, OP_TX, TX_MORE};
use postern_abi::window::{FEATURES, Geometry, MIN_RING, RecordHeader, record_size};
use postern_fuzz_input::Bytes;
use postern_guest::ring::RxQueue;
use postern_switch::state::MODE_POLICY;

use super::nic::{FuzzNic, mac, port, secret};

/// Most steps of an input.
const STEPS: usize = 96;
/// The guest that does nothing wrong.
const HONEST: u32 = 2;

/// Runs an input.
pub fn run(data: &[u8]) {
    let mut input = Bytes(data);
    let config = input.u8();
    let queues = 1 + u32::from(config & 1);
    let mut nic = FuzzNic::new(3, queues, MIN_RING, MIN_RING << (config >> 1 & 1));
    if config & 4 != 0 {
        for mode in &nic.switch().state().mode[..3] {
            mode.store(MODE_POLICY, Relaxed);
        }
    }
    let mut receivers: Vec<_> = (0..queues)
        .filter_map(|queue| nic.receiver(HONEST, queue))
        .collect();
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        step(&mut nic, &mut input, &mut receivers, queues);
    }
    drain(&mut receivers, usize::MAX, nic.geometry);
}

/// An offset in a window: near words that mean something, or anywhere.
fn offset(geometry: Geometry, input: &mut Bytes) -> u64 {
    let (kind, number) = (input.u8(), u64::from(input.u16()));
    let queue = number as u32 & 1;
    let lane = (number >> 1) as u32 % geometry.lanes();
    match kind & 15 {
        0 => geometry.tx_producer_offset(queue),
        1 => geometry.tx_consumer_offset(queue),
        2 => geometry.published_offset(queue, lane),
        3 => geometry.consumed_offset(queue, lane),
        4 => geometry.tx_ring_offset(queue) + number % u64::from(geometry.ring()),
        5 => geometry.lane_offset(queue, lane) + number % u64::from(geometry.lane()),
        6 => geometry.latest_offset(queue),
        7 => geometry.used_offset(queue),
        _ => number * 8,
    }
}

fn step(nic: &mut FuzzNic, input: &mut Bytes, receivers: &mut Vec<RxQueue>, queues: u32) {
    let geometry = nic.geometry;
    let kind = input.u8();
    let (number, queue) = (u32::from(kind >> 4 & 1), u32::from(kind >> 5 & 1) % queues);
    match kind & 15 {
        0 => nic
            .long(number, offset(geometry, input))
            .store(input.u64(), Relaxed),
        1 => nic
            .word(number, offset(geometry, input))
            .store(input.u32(), Relaxed),
        2 => {
            // A position near the one that is there.
            let at = nic.word(number, offset(geometry, input));
            at.store(
                at.load(Relaxed)
                    .wrapping_add_signed(input.u16() as i16 as i32 * 4),
                Relaxed,
            );
        }
        3 | 4 => {
            // A record that is as it should be, but for the header in the second case.
            let length = u32::from(input.u16()) % 2200;
            let mut header = RecordHeader::plain(length);
            if kind & 15 == 4 {
                header = RecordHeader::from_words(input.u64(), input.u64());
            }
            let to = input.u8();
            let mut words = vec![header.words().0, header.words().1];
            let addresses = [mac(to & 3), mac(to >> 2 & 3)].concat();
            let mut frame = [
                if to & 0x80 == 0 {
                    &addresses[..]
                } else {
                    &[0xff; 6]
                },
                input.take(64),
            ]
            .concat();
            frame.resize(frame.len().next_multiple_of(8), to);
            words.extend(
                frame
                    .chunks_exact(8)
                    .map(|word| u64::from_le_bytes(word.try_into().unwrap())),
            );
            let moved = record_size(length) as u32;
            words.truncate(moved as usize / 8);
            nic.append(number, queue, &words, moved);
        }
        5..=8 => {
            let flags = input.u8();
            let (count, b) = (
                u64::from(flags >> 3),
                u64::from(flags & 1) | u64::from(queue) << 1,
            );
            let taken = nic.call(number, u32::from(flags >> 1 & 1) % queues, OP_TX, count, b);
            match nic.switch().state().tenancy(port(number)) {
                0 => assert_eq!(taken, ERR_BAD_REQUEST),
                _ => assert!(taken & !TX_MORE <= count),
            }
        }
        9 => {
            let [op, vcpu] = [input.u8(), input.u8()];
            let (a, b) = (input.u64(), input.u64());
            let result = nic.call_with(number, vcpu.into(), op.into(), a, b);
            // A byte is no request with a secret.
            assert!(op == 0 && result == 0 || op != 0 && result >= ERR_NO_SECRET);
            nic.call(number, vcpu.into(), op.into(), a, b);
        }
        10 => drain(receivers, input.u8().into(), geometry),
        11 => {
            // Its own end of the rings, whatever is in them.
            if let Some(mut receiver) = nic.receiver(number, queue) {
                receiver.receive(99, |frame| frame.copy_to(&mut vec![0; frame.len()]));
            }
        }
        12 => {
            nic.call(
                number,
                0,
                OP_FEATURES,
                u64::from(input.u8()) & u64::from(FEATURES),
                0,
            );
        }
        13 => {
            let tenancy = nic.switch().state().tenancy(port(number)) + 1;
            nic.switch()
                .admit(port(number), tenancy, secret(tenancy), mac(number as u8));
        }
        14 => {
            let tenancy = nic.switch().state().tenancy(port(HONEST)) + 1;
            nic.switch()
                .admit(port(HONEST), tenancy, secret(tenancy), mac(HONEST as u8));
            *receivers = (0..queues)
                .filter_map(|queue| nic.receiver(HONEST, queue))
                .collect();
        }
        _ => nic.switch().evict(port(number)),
    }
}

/// Nobody can make the NIC give an honest guest what is no frame.
fn drain(receivers: &mut [RxQueue], most: usize, geometry: Geometry) {
    for receiver in receivers {
        let received = receiver.receive(most, |frame| {
            assert!(frame.len() <= geometry.lane() as usize);
            frame.copy_to(&mut vec![0; frame.len()]);
            let header = RecordHeader {
                length: 0,
                ..frame.header()
            };
            assert_eq!(header, RecordHeader::default(), "it agreed on nothing");
        });
        assert_eq!(received.malformed, 0);
    }
}
