//! Guests' rings against the switch itself, in one block of memory as the NIC has it.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::VecDeque;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::direct::{Direct, DirectError};
use crate::nic::{Nic, WhenFull};
use crate::service::Service as _;
use postern_abi::service::{ERR_BAD_REQUEST, OP_NOP};
use postern_abi::window::{Geometry, MAX_FRAME, MIN_FRAME, PortId, Ring};
use postern_nic::caller::{memory_size, window_offset};
use postern_nic::state::STATE_MAGIC;
use postern_nic::switch::Switch;
use proptest::collection::vec;
use proptest::prelude::*;

/// The memory of a NIC whose ports are all in use.
struct Memory {
    base: NonNull<u8>,
    geometry: Geometry,
}

impl Memory {
    fn new(ports: u32, slots: u32) -> Memory {
        let geometry = Geometry::new(ports, slots).unwrap();
        // SAFETY: the layout is not empty.
        let base = unsafe { alloc_zeroed(Self::layout(geometry)) };
        let base = NonNull::new(base).unwrap();
        let memory = Memory { base, geometry };
        let state = memory.switch().state();
        state.magic.store(STATE_MAGIC, Ordering::Relaxed);
        let version = postern_abi::ABI_VERSION;
        state.abi_version.store(version, Ordering::Relaxed);
        state.ports.store(ports, Ordering::Relaxed);
        state.slots.store(slots, Ordering::Relaxed);
        for port in geometry.all_ports() {
            let mac = mac(port.number() as u8);
            memory.switch().admit(port, 1 + port.number(), mac);
        }
        memory
    }

    fn layout(geometry: Geometry) -> Layout {
        Layout::from_size_align(memory_size(geometry) as usize, 4096).unwrap()
    }

    fn switch(&self) -> Switch<'_> {
        // SAFETY: the memory is that large, and nobody refers to it.
        unsafe { Switch::from_base(self.base.as_ptr(), self.geometry) }
    }

    fn open(&self, port: u32) -> Nic<Direct> {
        let port = self.geometry.port(port).unwrap();
        // SAFETY: the memory is that large, and nobody refers to it.
        let opened = unsafe { Direct::new(self.base, memory_size(self.geometry), port) };
        let (direct, window) = opened.unwrap();
        Nic::new(direct, window)
    }

    /// An index or a descriptor in a port's window.
    fn word(&self, port: u32, offset: u64) -> &AtomicU32 {
        let window = window_offset(self.geometry, self.geometry.port(port).unwrap());
        let offset = (window + offset) as usize;
        // SAFETY: the word lies in the window and is aligned.
        unsafe { AtomicU32::from_ptr(self.base.as_ptr().add(offset).cast()) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: `new` allocated it with this layout.
        unsafe { dealloc(self.base.as_ptr(), Self::layout(self.geometry)) }
    }
}

fn mac(port: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, port]
}

/// A frame to nobody in particular.
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
    let memory = Memory::new(3, 16);
    let mut nic = memory.open(2);
    assert_eq!((nic.port().number(), nic.mac()), (2, mac(2)));
    assert_eq!(nic.service().call(OP_NOP, 1, 2), Some(0));
    assert_eq!(nic.service().call(99, 1, 2), Some(ERR_BAD_REQUEST));
}

#[test]
fn frames_arrive_once_in_order_unchanged() {
    let memory = Memory::new(2, 16);
    let (mut sender, mut receiver) = (memory.open(0), memory.open(1));
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
    let memory = Memory::new(2, 16);
    let (mut sender, mut receiver) = (memory.open(0), memory.open(1));
    let frames = [
        vec![0; 13],
        frame(1, 60),
        vec![0; 1515],
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
    let memory = Memory::new(2, 16);
    let (mut sender, mut receiver) = (memory.open(0), memory.open(1));
    let frames: Vec<_> = (0..40).map(|i| frame(i, 60)).collect();
    sender.set_when_full(WhenFull::Hold);
    // 16 in the lane, 16 in the TX ring, 8 with the caller.
    assert_eq!(sender.tx_burst(&frames), 16);
    assert_eq!(sender.tx_burst(&frames[16..]), 16);
    assert_eq!(sender.tx_burst(&frames[32..]), 0);
    assert_eq!((sender.pending(), sender.stats().sent), (16, 16));
    assert_eq!(receive(&mut receiver, 99), frames[..16]);
    assert_eq!(sender.tx_burst::<&[u8]>(&[]), 0);
    assert_eq!((sender.pending(), sender.stats().sent), (0, 32));
    assert_eq!(receive(&mut receiver, 99), frames[16..32]);

    sender.set_when_full(WhenFull::Drop);
    assert_eq!(sender.tx_burst(&frames), 16);
    assert_eq!(sender.tx_burst(&frames), 16);
    assert_eq!(sender.pending(), 0);
    assert_eq!(receive(&mut receiver, 99), frames[..16]);
    assert!(receive(&mut receiver, 99).is_empty());
}

#[test]
fn senders_take_turns() {
    let memory = Memory::new(4, 16);
    let mut senders = [memory.open(0), memory.open(2), memory.open(3)];
    let mut receiver = memory.open(1);
    let frames: Vec<_> = (0..3).map(|i| [frame(i, 60), frame(100 + i, 60)]).collect();
    // So that the switch knows where the station is.
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
    let memory = Memory::new(2, 16);
    let (mut sender, mut receiver) = (memory.open(0), memory.open(1));
    sender.tx_burst(&[frame(1, 60)]);
    let lane = Ring::lane(PortId::new(0).unwrap());
    let producer = memory.word(1, memory.geometry.producer_offset(lane));
    for wrong in [17, 100, u32::MAX] {
        producer.store(wrong, Ordering::Relaxed);
        assert!(!receiver.rx_ready());
        assert!(receive(&mut receiver, 9).is_empty());
    }
    producer.store(1, Ordering::Relaxed);
    assert_eq!(receive(&mut receiver, 9), [frame(1, 60)]);
}

#[test]
fn a_slot_with_no_frame_is_skipped() {
    let memory = Memory::new(2, 16);
    let (mut sender, mut receiver) = (memory.open(0), memory.open(1));
    let lane = Ring::lane(PortId::new(0).unwrap());
    for (slot, wrong) in [0, 13, 1515, 1 << 16 | 60, u32::MAX]
        .into_iter()
        .enumerate()
    {
        sender.tx_burst(&[frame(1, 60)]);
        let descriptor = memory.geometry.descriptor_offset(lane, slot as u32);
        memory.word(1, descriptor).store(wrong, Ordering::Relaxed);
    }
    sender.tx_burst(&[frame(2, 60)]);
    assert_eq!(receive(&mut receiver, 9), [frame(2, 60)]);
    assert_eq!(receiver.stats().malformed, 5);
}

#[test]
fn an_index_of_the_switch_that_cannot_be_leaves_no_room() {
    let memory = Memory::new(2, 16);
    let mut sender = memory.open(0);
    let consumer = memory.word(0, memory.geometry.consumer_offset(Ring::TX));
    consumer.store(5, Ordering::Relaxed);
    assert_eq!(sender.pending(), 16);
    assert_eq!(sender.tx_burst(&[frame(1, 60)]), 0);
    consumer.store(0, Ordering::Relaxed);
    assert_eq!(sender.tx_burst(&[frame(1, 60)]), 1);
}

#[test]
fn the_next_tenant_goes_on_where_the_last_one_stopped() {
    let memory = Memory::new(2, 16);
    for round in 0..20 {
        let (mut sender, mut receiver) = (memory.open(0), memory.open(1));
        let frames: Vec<_> = (0..7).map(|i| frame(round + i, 60)).collect();
        assert_eq!(sender.tx_burst(&frames), 7);
        assert_eq!(receive(&mut receiver, 9), frames);
    }
}

#[test]
fn memory_that_is_no_nic_is_refused() {
    let memory = Memory::new(2, 16);
    let size = memory_size(memory.geometry);
    let open = |size, port| {
        let port = PortId::new(port).unwrap();
        // SAFETY: at least that much memory is there, and nobody refers to it.
        unsafe { Direct::new(memory.base, size, port) }.map(|_| ())
    };
    assert!(open(size, 1).is_ok());
    assert!(matches!(open(size - 1, 1), Err(DirectError::Size { .. })));
    assert!(matches!(open(4096, 1), Err(DirectError::Size { .. })));
    assert!(matches!(open(size, 2), Err(DirectError::State(_))));
    memory.switch().evict(PortId::new(1).unwrap());
    assert!(matches!(open(size, 1), Err(DirectError::State(_))));
    memory.switch().state().magic.store(0, Ordering::Relaxed);
    assert!(matches!(open(size, 0), Err(DirectError::State(_))));
}

#[derive(Clone, Debug)]
enum Step {
    Send(Vec<(u8, usize)>),
    Flush,
    Receive(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let frame = (any::<u8>(), 14usize..200);
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
        let memory = Memory::new(2, 16);
        let (mut sender, mut receiver) = (memory.open(0), memory.open(1));
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
            prop_assert!(expected.len() <= 32);
        }
        loop {
            sender.tx_burst::<&[u8]>(&[]);
            let got = receive(&mut receiver, 99);
            if got.is_empty() {
                break;
            }
            prop_assert_eq!(&got, &expected.drain(..got.len()).collect::<Vec<_>>());
        }
        prop_assert!(expected.is_empty());
        prop_assert_eq!(sender.pending(), 0);
    }
}
