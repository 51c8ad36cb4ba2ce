//! The guest library's ends of the rings against the switch, in the memory of a NIC.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod common;

use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, Release};

use common::{SMALL, geometry, mac};
use postern_abi::service::{ERR_NO_SECRET, OP_NOP};
use postern_abi::window::{
    MAX_FRAME, MIN_FRAME, PAD_WORD, PortId, Published, RecordHeader, WindowHeader,
};
use postern_guest::direct::{Direct, DirectError};
use postern_guest::nic::{Nic, WhenFull};
use postern_guest::ring::TxError;
use postern_guest::service::{Refused, Service};
use postern_nic_client::memory::{Memory, draw_secret};
use proptest::collection::vec;
use proptest::prelude::*;

/// The memory of a NIC whose ports are all in use.
fn memory(ports: u32, size: u32) -> Memory {
    let memory = Memory::create(geometry(ports, 1, size, size)).unwrap();
    for port in memory.geometry().all_ports() {
        let mac = mac(port.number() as u8);
        memory
            .switch()
            .admit(port, 1 + port.number(), draw_secret().unwrap(), mac);
    }
    memory
}

fn open(memory: &Memory, port: u32) -> Nic<Direct> {
    let port = memory.geometry().port(port).unwrap();
    // SAFETY: the memory has that size, lives as long as the test, and no reference to it exists.
    let opened = unsafe { Direct::new(memory.base(), memory.size(), port) };
    let (direct, window) = opened.unwrap();
    Nic::new(direct, window)
}

/// A frame between two stations that no port has for its own.
fn frame(seed: u8, len: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len).map(|i| seed.wrapping_add(i as u8)).collect();
    frame[0..6].copy_from_slice(&[2, 1, 1, 1, 1, 1]);
    frame[6..12].copy_from_slice(&[2, 2, 2, 2, 2, 2]);
    frame
}

fn receive(nic: &mut Nic<Direct>, max: usize) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let got = nic.rx_burst(max, |frame| {
        let mut copy = vec![0; frame.len()];
        frame.copy_to(&mut copy);
        frames.push(copy);
    });
    assert_eq!(got, frames.len());
    frames
}

#[test]
fn a_port_knows_its_number_and_address() {
    let memory = memory(3, SMALL);
    let mut nic = open(&memory, 2);
    assert_eq!((nic.port().number(), nic.mac()), (2, mac(2)));
    assert_eq!(nic.service().call(OP_NOP, 1, 2), Some(0));
    assert_eq!(nic.service().call(99, 1, 2), Some(ERR_NO_SECRET));
    assert_eq!(nic.check(), Ok(()));
}

#[test]
fn frames_arrive_once_in_order_unchanged() {
    let memory = memory(2, 32 << 10);
    let (mut sender, mut receiver) = (open(&memory, 0), open(&memory, 1));
    assert!(!receiver.rx_ready());
    let sizes = [MIN_FRAME as usize, 60, 61, 1000, MAX_FRAME as usize];
    let frames: Vec<_> = sizes.iter().map(|&len| frame(len as u8, len)).collect();
    for _ in 0..100 {
        assert_eq!(sender.tx_burst(&frames), frames.len());
        assert!(receiver.rx_ready());
        assert_eq!(receive(&mut receiver, 3), frames[..3]);
        assert_eq!(receive(&mut receiver, 3), frames[3..]);
        assert!(receive(&mut receiver, 3).is_empty());
    }
    assert_eq!(sender.stats().calls, 100);
    assert_eq!(sender.stats().sent, 500);
    assert_eq!(receiver.stats().received, 500);
}

#[test]
fn frames_of_no_length_are_counted_alone() {
    let memory = memory(2, SMALL);
    let (mut sender, mut receiver) = (open(&memory, 0), open(&memory, 1));
    let frames = [
        vec![0; 13],
        frame(1, 60),
        vec![0; 4081],
        frame(2, 60),
        vec![],
    ];
    assert_eq!(sender.tx_burst(&frames), 5);
    assert_eq!(sender.stats().bad_length, 3);
    assert_eq!(receive(&mut receiver, 9), [frame(1, 60), frame(2, 60)]);
    assert_eq!(sender.tx_burst(&frames[..1]), 1);
    assert_eq!(sender.stats().calls, 1);
}

#[test]
fn held_frames_wait_and_dropped_ones_do_not() {
    let memory = memory(2, SMALL);
    let (mut sender, mut receiver) = (open(&memory, 0), open(&memory, 1));
    // Records of 80 bytes: 51 in the lane, 51 in the TX ring, the others with the caller.
    let frames: Vec<_> = (0..120).map(|i| frame(i, 60)).collect();
    sender.set_when_full(WhenFull::Hold);
    assert_eq!(sender.tx_burst(&frames), 51);
    let more = sender.tx_burst(&frames[51..]);
    assert!((50..=51).contains(&more), "{more}");
    assert_eq!(sender.tx_burst(&frames[51 + more..]), 0);
    assert_eq!((sender.pending(), sender.stats().sent), (more as u32, 51));
    assert_eq!(receive(&mut receiver, 99), frames[..51]);
    assert_eq!(sender.tx_burst::<&[u8]>(&[]), 0);
    let left = sender.pending() as usize;
    assert!(left <= 1, "padding takes the place of one at most");
    assert_eq!(sender.stats().sent as usize, 51 + more - left);
    assert_eq!(receive(&mut receiver, 99), frames[51..51 + more - left]);
    sender.tx_burst::<&[u8]>(&[]);
    assert_eq!(
        receive(&mut receiver, 99),
        frames[51 + more - left..51 + more]
    );

    sender.set_when_full(WhenFull::Drop);
    for _ in 0..3 {
        assert!(sender.tx_burst(&frames[..40]) == 40);
    }
    assert_eq!(sender.pending(), 0);
    let received = receive(&mut receiver, 199);
    assert!((50..=51).contains(&received.len()));
    assert_eq!(received[..40], frames[..40]);
    assert!(receive(&mut receiver, 99).is_empty());
}

#[test]
fn senders_take_turns() {
    let memory = memory(4, SMALL);
    let mut senders = [open(&memory, 0), open(&memory, 2), open(&memory, 3)];
    let mut receiver = open(&memory, 1);
    let frames: Vec<_> = (0..3).map(|i| [frame(i, 60), frame(100 + i, 60)]).collect();
    // A broadcast from the station lets the switch learn its port.
    let mut hello = frame(0, 60);
    hello[0..6].fill(0xff);
    hello[6..12].copy_from_slice(&[2, 1, 1, 1, 1, 1]);
    receiver.tx_burst(&[hello]);
    for (sender, frames) in senders.iter_mut().zip(&frames) {
        assert_eq!(sender.tx_burst(frames), 2);
    }
    let mut got = Vec::new();
    for _ in 0..3 {
        got.extend(receive(&mut receiver, 2));
    }
    assert_eq!(got, frames.concat());
    assert_eq!(senders[0].rx_discard(), 1);
    assert!(!senders[0].rx_ready());
}

#[test]
fn a_lane_that_cannot_be_is_empty() {
    let memory = memory(2, SMALL);
    let (mut sender, mut receiver) = (open(&memory, 0), open(&memory, 1));
    sender.tx_burst(&[frame(1, 60)]);
    let published = memory
        .switch()
        .published(PortId::new(1).unwrap(), 0, 0)
        .unwrap();
    let latest = latest(&memory, 1);
    let right = published.load(Relaxed);
    let Published { position, tenancy } = Published::from_word(right);
    for wrong in [position + SMALL, !15, 1 << 31] {
        let word = Published {
            position: wrong,
            tenancy,
        };
        published.store(word.word(), Release);
        latest.store(word.latest(0), Release);
        assert!(!receiver.rx_ready(), "{wrong:#x}");
        assert!(receive(&mut receiver, 9).is_empty());
    }
    // A lane that is another tenant's is empty too.
    for other in [0, tenancy - 1, tenancy + 1] {
        let word = Published {
            position,
            tenancy: other,
        };
        published.store(word.word(), Release);
        latest.store(word.latest(other), Release);
        assert!(!receiver.rx_ready());
        assert!(receive(&mut receiver, 9).is_empty());
    }
    published.store(right, Release);
    latest.store(u64::MAX - 1, Release);
    assert_eq!(receive(&mut receiver, 9), [frame(1, 60)]);
}

/// The word `latest` of RX queue 0 of a port.
fn latest(memory: &Memory, port: u32) -> &AtomicU64 {
    let geometry = memory.geometry();
    let window = memory.switch().window(PortId::new(port).unwrap()).unwrap();
    // SAFETY: the word lies in the window, aligned.
    unsafe {
        let word = window.add(geometry.latest_offset(0) as usize);
        AtomicU64::from_ptr(word.cast())
    }
}

/// Whatever is in a lane, the guest does not leave the lane, and goes on behind the record.
#[test]
fn a_record_that_is_none_ends_what_is_there() {
    let memory = memory(2, SMALL);
    let (mut sender, mut receiver) = (open(&memory, 0), open(&memory, 1));
    let to = PortId::new(1).unwrap();
    let lane = memory.switch().lane_ring(to, 0, 0).unwrap();
    let wrong = [0, 13, 65, 4081, 65535, u32::MAX];
    for length in wrong {
        let state = memory
            .switch()
            .lane(memory.geometry().sender(to, 0), 0)
            .unwrap();
        let at = state.published.load(Relaxed) as usize % SMALL as usize;
        sender.tx_burst(&[frame(1, 60), frame(2, 60)]);
        // SAFETY: the position is in the lane, where a record begins.
        unsafe {
            let header = RecordHeader::plain(length).words().0;
            AtomicU64::from_ptr(lane.add(at).cast()).store(header, Relaxed);
        }
        let received = receive(&mut receiver, 9);
        // 65 bytes reach into the next record, whose rest is no header.
        assert!(received.len() <= 2, "{length}");
        sender.tx_burst(&[frame(3, 60)]);
        assert_eq!(receive(&mut receiver, 9), [frame(3, 60)], "{length}");
    }
    assert!(receiver.stats().malformed >= 5);
    assert_ne!(PAD_WORD, 0);
}

/// The longest frame passes, even where padding and the frame together are larger than the ring.
#[test]
fn the_longest_frames_pass_rings_of_their_size() {
    let memory = memory(2, SMALL);
    let (mut sender, mut receiver) = (open(&memory, 0), open(&memory, 1));
    sender.set_when_full(WhenFull::Hold);
    let mut received = 0;
    for round in 0..40u8 {
        let frames = [
            frame(round, 60 + usize::from(round) * 20),
            frame(round, 2032),
        ];
        for frame in &frames {
            let mut sent = 0;
            for _ in 0..6 {
                sent += sender.tx_burst(&[frame][sent..]);
                for bytes in receive(&mut receiver, 9) {
                    assert_eq!(bytes, *frame);
                    received += 1;
                }
            }
            assert_eq!(sent, 1, "{round}");
        }
    }
    assert_eq!(received, 80);
}

#[test]
fn a_position_of_the_switch_that_cannot_be_leaves_no_room() {
    let memory = memory(2, SMALL);
    let mut sender = open(&memory, 0);
    let consumer = memory
        .switch()
        .tx_consumer(PortId::new(0).unwrap(), 0)
        .unwrap();
    let right = consumer.load(Relaxed);
    consumer.store(right.wrapping_add(2 * SMALL), Relaxed);
    let many = vec![frame(1, 60); 60];
    // The guest sends as far as it knew that there was room; the request puts the position right.
    assert_eq!(sender.tx_burst(&many), 51);
    assert_eq!(consumer.load(Relaxed), right.wrapping_add(51 * 80));
    assert_eq!(sender.tx_burst(&many[..9]), 9);
}

#[test]
fn the_next_tenant_goes_on_where_the_last_one_stopped() {
    let memory = memory(2, SMALL);
    for round in 0..20 {
        let (mut sender, mut receiver) = (open(&memory, 0), open(&memory, 1));
        let frames: Vec<_> = (0..7).map(|i| frame(round + i, 60)).collect();
        assert_eq!(sender.tx_burst(&frames), 7);
        assert_eq!(receive(&mut receiver, 9), frames);
    }
}

#[test]
fn memory_that_is_no_nic_is_refused() {
    let memory = memory(2, SMALL);
    let size = memory.size();
    let open = |size, port| {
        let port = PortId::new(port).unwrap();
        // SAFETY: at least that much memory is mapped there, and no reference to it exists.
        unsafe { Direct::new(memory.base(), size, port) }.map(|_| ())
    };
    assert!(open(size, 1).is_ok());
    assert!(matches!(open(size - 1, 1), Err(DirectError::Size { .. })));
    assert!(matches!(open(4096, 1), Err(DirectError::Size { .. })));
    assert!(matches!(open(size, 2), Err(DirectError::State(_))));
    memory.switch().evict(PortId::new(1).unwrap());
    assert!(matches!(open(size, 1), Err(DirectError::State(_))));
    memory.switch().state().magic.store(0, Relaxed);
    assert!(matches!(open(size, 0), Err(DirectError::State(_))));
}

#[derive(Clone, Debug)]
enum Step {
    Send(Vec<(u8, usize)>),
    Flush,
    Receive(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let frame = (
        any::<u8>(),
        prop_oneof![8 => 14usize..200, 1 => 200usize..2033],
    );
    vec(
        prop_oneof![
            vec(frame, 0..25).prop_map(Step::Send),
            Just(Step::Flush),
            (0usize..40).prop_map(Step::Receive),
        ],
        0..80,
    )
}

proptest! {
    /// Two ports that hold frames are a queue with a bound.
    #[test]
    fn two_ports_are_a_queue(steps in steps()) {
        let memory = memory(2, SMALL);
        let (mut sender, mut receiver) = (open(&memory, 0), open(&memory, 1));
        sender.set_when_full(WhenFull::Hold);
        let mut expected = VecDeque::new();
        for step in steps {
            match step {
                Step::Send(frames) => {
                    let frames: Vec<_> =
                        frames.into_iter().map(|(seed, len)| frame(seed, len)).collect();
                    let sent = sender.tx_burst(&frames);
                    expected.extend(frames.into_iter().take(sent));
                }
                Step::Flush => {
                    sender.tx_burst::<&[u8]>(&[]);
                }
                Step::Receive(max) => {
                    let got = receive(&mut receiver, max);
                    prop_assert!(got.len() <= max);
                    prop_assert_eq!(&got, &expected.drain(..got.len()).collect::<Vec<_>>());
                }
            }
            prop_assert!(expected.len() <= 2 * 4096 / 32);
        }
        // A call may take padding alone, so that there are more calls than frames.
        for _ in 0..999 {
            sender.tx_burst::<&[u8]>(&[]);
            let got = receive(&mut receiver, 99);
            if expected.is_empty() {
                break;
            }
            prop_assert_eq!(&got, &expected.drain(..got.len()).collect::<Vec<_>>());
        }
        prop_assert!(expected.is_empty());
        prop_assert_eq!(sender.pending(), 0);
    }
}

/// A burst that is more than one request may do is sent whole, in order, whatever the frames wait
/// for.
#[test]
fn a_burst_takes_as_many_requests_as_it_needs() {
    let memory = memory(256, SMALL);
    let mut sender = open(&memory, 7);
    let mut receivers = [0, 100, 255].map(|port| open(&memory, port));
    let frames: Vec<_> = (0..40).map(|seed| broadcast(seed, 60)).collect();
    for when in [WhenFull::Drop, WhenFull::Hold] {
        sender.set_when_full(when);
        let before = sender.stats();
        assert_eq!(sender.tx_burst(&frames), 40);
        assert_eq!(sender.pending(), 0);
        assert_eq!(sender.stats().sent - before.sent, 40);
        // Five frames are more than 1024 copies.
        assert_eq!(sender.stats().calls - before.calls, 8, "{when:?}");
        for receiver in &mut receivers {
            assert_eq!(receive(receiver, 99), frames);
        }
    }
}

fn broadcast(seed: u8, len: usize) -> Vec<u8> {
    let mut frame = frame(seed, len);
    frame[0..6].fill(0xff);
    frame
}

#[test]
fn long_frames_to_one_port_are_sent_whole_too() {
    let memory = memory(2, 4 << 20);
    let (mut sender, mut receiver) = (open(&memory, 0), open(&memory, 1));
    let frames: Vec<_> = (0..250).map(|seed| frame(seed, 9000)).collect();
    for when in [WhenFull::Drop, WhenFull::Hold] {
        sender.set_when_full(when);
        let before = sender.stats().calls;
        assert_eq!(sender.tx_burst(&frames), 250);
        assert_eq!(sender.pending(), 0);
        assert_eq!(sender.stats().calls - before, 3, "{when:?}");
        assert_eq!(receive(&mut receiver, 999), frames);
    }
}

/// A guest that overwrites the secret in its window is told, and ends its calls.
#[test]
fn requests_without_the_secret_are_reported() {
    let memory = memory(2, SMALL);
    let port = memory.geometry().port(0).unwrap();
    let window = memory.switch().window(port).unwrap();
    let offset = std::mem::offset_of!(WindowHeader, secret);
    // SAFETY: the secret is an aligned word of the window, which is only accessed atomically.
    let secret = unsafe { AtomicU64::from_ptr(window.add(offset).cast()) };
    let right = secret.swap(1 << 40, Relaxed);
    let mut locked_out = open(&memory, 0);
    assert_eq!(locked_out.check(), Err(Refused::NoSecret));
    assert_eq!(locked_out.agree(0), None);
    assert_eq!(locked_out.tx_burst(&[frame(1, 60)]), 1);
    let stats = locked_out.stats();
    assert_eq!((stats.calls, stats.refused, stats.sent), (1, 1, 0));
    assert_eq!(locked_out.pending(), 1);
    let message = Refused::NoSecret.to_string();
    assert!(message.contains("secret"), "{message}");

    secret.store(right, Relaxed);
    let mut nic = open(&memory, 0);
    assert_eq!(nic.check(), Ok(()));
    assert_eq!(nic.tx_burst(&[frame(2, 60)]), 1);
    assert_eq!(receive(&mut open(&memory, 1), 9), [frame(2, 60)]);
    memory.switch().evict(port);
    assert_eq!(nic.check(), Err(Refused::BadRequest));
}

/// A service that notes which bells it is asked to ring.
#[derive(Debug)]
struct Rings(Direct, Vec<u32>);

impl Service for Rings {
    fn call(&mut self, request: u64, a: u64, b: u64) -> Option<u64> {
        self.0.call(request, a, b)
    }

    fn ring(&mut self, queue: u32) {
        self.1.push(queue);
    }
}

#[test]
fn a_guest_sleeps_until_its_bell_is_rung() {
    let memory = memory(3, SMALL);
    let mut receiver = open(&memory, 1);
    let id = memory.geometry().port(0).unwrap();
    // SAFETY: as in `open`.
    let opened = unsafe { Direct::new(memory.base(), memory.size(), id) };
    let (direct, window) = opened.unwrap();
    let mut sender = Nic::new(Rings(direct, Vec::new()), window);

    // A guest that has never looked may have frames.
    assert!(!receiver.arm());
    for round in 1..4 {
        assert!(receive(&mut receiver, 9).is_empty());
        assert!(receiver.arm() && receiver.is_armed());
        let frame = frame(1, 60);
        assert_eq!(sender.tx_burst(&[&frame, &frame]), 2);
        assert_eq!(sender.tx_burst(&[&frame]), 1);
        assert_eq!(sender.service().1, [1], "once");
        sender.service().1.clear();
        let stats = sender.stats();
        assert_eq!((stats.rings, stats.sent), (round, 3 * round));
        assert!(!receiver.is_armed());
        // Frames that wait keep it from sleeping.
        assert!(!receiver.arm());
        receiver.disarm();
        assert_eq!(receive(&mut receiver, 2).len(), 2);
        assert!(!receiver.arm());
        assert_eq!(receive(&mut receiver, 9).len(), 1);
    }
    assert!(receive(&mut receiver, 9).is_empty());
    assert!(receiver.arm());
    receiver.disarm();
    assert!(!receiver.is_armed());
    sender.tx_burst(&[frame(1, 60)]);
    assert!(sender.service().1.is_empty());
}

#[test]
fn frames_are_filled_in_where_they_are_sent_from() {
    let memory = memory(2, SMALL);
    let (mut sender, mut receiver) = (open(&memory, 0), open(&memory, 1));
    let longest = memory.geometry().max_frame() as usize;
    let fill = |sender: &mut Nic<Direct>, frame: &[u8]| {
        sender.tx_fill(longest, |room| {
            assert_eq!(room.len(), longest);
            // SAFETY: there is room for the longest frame, to which no reference exists.
            unsafe { std::ptr::copy(frame.as_ptr(), room.as_mut_ptr(), frame.len()) };
            Some(RecordHeader::plain(frame.len() as u32))
        })
    };
    let mut sent = 0;
    for round in 0..50 {
        let frames = [60, longest, 61, 100 + round].map(|length| frame(1, length));
        let mut room = 0;
        for frame in &frames {
            match fill(&mut sender, frame) {
                Ok(true) => room += 1,
                other => {
                    assert_eq!(other, Err(TxError::Full));
                    break;
                }
            }
        }
        assert!(room >= 1, "an empty ring has room for one");
        // What is asked for and not written changes nothing.
        let _ = sender.tx_fill(60, |_| None);
        sender.tx_filled();
        sent += room as u64;
        assert_eq!(sender.stats().sent, sent);
        assert_eq!(receive(&mut receiver, 9), frames[..room]);
    }
    assert_eq!(fill(&mut sender, &[0; 3]), Ok(true));
    assert_eq!(sender.stats().bad_length, 1);
    let segment = memory.geometry().max_segment() as usize;
    for none in [0, 13, segment + 1] {
        let refused = sender.tx_fill(none, |_| None);
        assert_eq!(refused, Err(TxError::BadLength(none)));
    }
    sender.tx_filled();
    assert!(receive(&mut receiver, 9).is_empty());
}
