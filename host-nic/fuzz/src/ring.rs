//! Guests that do anything to their windows and make any calls, a host that changes policies and makes
//! turns meanwhile, and one guest that does nothing wrong.
//!
//! Input: a byte of configuration, then steps, each a byte and its arguments. At the end all other ports
//! get new tenants and no policies; whatever was done before, each of their senders must reach the guest
//! that does nothing wrong.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering::Relaxed;

use postern_abi::service::{ERR_BAD_REQUEST, ERR_NO_SECRET, OP_FEATURES, OP_TX};
use postern_abi::service::{TX_BELL, TX_HOLD, TX_MORE, TX_QUEUE_SHIFT};
use postern_abi::window::{FEATURES, Geometry, MIN_RING, RecordHeader, record_size};
use postern_fuzz_input::Bytes;
use postern_guest::ring::RxQueue;
use postern_nic_client::policy::port::PortPolicy;
use postern_nic_owner::installed_policies::Policies;
use postern_switch::fdb::{STAMPS, Station};
use postern_switch::state::MODE_POLICY;
use postern_switch::tenant::mac_word;

use super::nic::{FuzzNic, mac, port};
use super::policies::policy;

/// Most steps of an input.
const STEPS: usize = 96;

/// Runs an input.
pub fn run(data: &[u8]) {
    let mut input = Bytes(data);
    let mut run = Run::new(&mut input);
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        run.step(&mut input);
    }
    run.drain(usize::MAX);
    run.everybody_comes_through();
}

/// The NIC, and what its host and its good guest know.
struct Run {
    nic: FuzzNic,
    /// The RX queues of the guest that does nothing wrong.
    receivers: Vec<RxQueue>,
    policies: Policies,
    /// Number of the last tenancy.
    tenancy: u32,
    /// Number of the next turn.
    turn: u32,
}

impl Run {
    fn new(input: &mut Bytes) -> Run {
        let config = input.u8();
        let queues = 1 + u32::from(config & 1);
        // The last are more RX queues than a call keeps lanes open of.
        let ports = [3, 5, 9, 9][usize::from(config >> 3 & 1 | config >> 5 & 2)];
        // The larger one has room for more segments than a call cuts.
        let lane = MIN_RING << (config & 2);
        let geometry = Geometry::new(ports, queues, MIN_RING, lane).unwrap();
        // A lane for each sender of a small NIC, or so few that they take turns.
        let geometry = match u32::from(config >> 4 & 3) {
            0 if ports == 3 => geometry,
            lanes => geometry.with_lanes(lanes.max(1)).unwrap(),
        };
        let nic = FuzzNic::new(geometry);
        if config & 4 != 0 {
            for mode in &nic.switch().state().mode[..ports as usize] {
                mode.store(MODE_POLICY, Relaxed);
            }
        }
        Run {
            receivers: nic.receivers(nic.honest()),
            nic,
            policies: Policies::default(),
            tenancy: 1,
            turn: 0,
        }
    }

    /// A step of a guest or of the host.
    fn step(&mut self, input: &mut Bytes) {
        let nic = &mut self.nic;
        let (geometry, queues) = (nic.geometry, nic.geometry.queues());
        let kind = input.u8();
        let number = u32::from(kind >> 4 & 1 | kind >> 5 & 2) % nic.honest();
        let queue = u32::from(kind >> 5 & 1) % queues;
        match kind & 15 {
            0 => {
                let word = nic.long(number, offset(geometry, input));
                word.store(input.u64(), Relaxed);
            }
            1 => {
                let word = nic.word(number, offset(geometry, input));
                word.store(input.u32(), Relaxed);
            }
            2 => {
                // A position near the one that is there.
                let word = nic.word(number, offset(geometry, input));
                let moved = i32::from(input.u16() as i16) * 4;
                word.store(word.load(Relaxed).wrapping_add_signed(moved), Relaxed);
            }
            3 => {
                let length = u32::from(input.u16()) % 2200;
                let frame = frame(nic.honest(), input);
                append(nic, number, queue, RecordHeader::plain(length), &frame);
            }
            4 => {
                let header = RecordHeader::from_words(input.u64(), input.u64());
                let frame = frame(nic.honest(), input);
                append(nic, number, queue, header, &frame);
            }
            5..=7 => {
                let flags = input.u8();
                let (count, vcpu) = (u64::from(flags >> 3), u32::from(flags >> 1 & 1) % queues);
                let hold = u64::from(flags & 1) * TX_HOLD;
                let from = u64::from(queue) << TX_QUEUE_SHIFT;
                let taken = nic.call(number, vcpu, OP_TX, count, from | hold);
                match nic.switch().state().tenancy(port(number)) {
                    0 => assert_eq!(taken, ERR_BAD_REQUEST),
                    _ => assert!(taken & !(TX_MORE | TX_BELL) <= count),
                }
            }
            8 => self.host(input),
            9 => {
                let [op, vcpu] = [input.u8(), input.u8()];
                let (a, b) = (input.u64(), input.u64());
                let result = nic.call_with(number, vcpu.into(), op.into(), a, b);
                // A byte is no request with a secret.
                assert!(op == 0 && result == 0 || op != 0 && result >= ERR_NO_SECRET);
                nic.call(number, vcpu.into(), op.into(), a, b);
            }
            10 => {
                self.drain(input.u8().into());
            }
            11 => {
                // Its own end of the rings, whatever is in them.
                if let Some(mut receiver) = nic.receiver(number, queue) {
                    receiver.receive(99, |frame| frame.copy_to(&mut vec![0; frame.len()]));
                }
            }
            12 => {
                let features = u64::from(input.u8()) & u64::from(FEATURES);
                nic.call(number, 0, OP_FEATURES, features, 0);
            }
            13 => self.admit(number),
            14 => self.admit(self.nic.honest()),
            _ => nic.switch().evict(port(number)),
        }
    }

    /// A step that only the host can take.
    fn host(&mut self, input: &mut Bytes) {
        let (switch, geometry) = (self.nic.switch(), self.nic.geometry);
        let state = switch.state();
        let kind = input.u8();
        let number = u32::from(kind >> 4) % geometry.ports();
        match kind & 7 {
            0 | 1 => {
                for _ in 0..=kind >> 6 {
                    switch.turn_lanes(self.turn);
                    self.turn += 1;
                }
            }
            2 | 3 => {
                let policy = policy(input.u16());
                // A port that would mirror to itself is refused, and keeps its policy.
                let wrong = policy.mirror == Some(number);
                let set = self.policies.set(&switch, port(number), policy);
                assert_eq!(set.is_err(), wrong, "{set:?}");
            }
            4 => {
                let step = u64::from(input.u32()) << (kind >> 4);
                state.clock.now.fetch_add(step, Relaxed);
            }
            5 => {
                let tick = u32::from(input.u8()) % STAMPS;
                state.clock.tick.store(tick, Relaxed);
                state.fdb.sweep(tick, STAMPS / 2);
                state.generation.fetch_add(1, Relaxed);
            }
            6 => {
                // An address that is no port's own.
                let station = mac_word(mac(0x10 | input.u8()));
                let station = Station::new(input.u8().into(), station);
                state.fdb.pin(switch.key(), station, port(number));
                switch.forget_shadowed();
            }
            _ => {
                // A call that is stopped for ever before its first frame.
                let sender = u32::from(kind >> 3) % geometry.senders();
                switch.sender(sender).unwrap().calls.fetch_add(1, Relaxed);
            }
        }
    }

    /// Gives a port its next tenant.
    fn admit(&mut self, number: u32) {
        self.tenancy += 1;
        self.nic.admit(number, self.tenancy);
        if number == self.nic.honest() {
            self.receivers = self.nic.receivers(number);
        }
    }

    /// Receives at the guest that does nothing wrong. Nobody can make the NIC give it what is no
    /// frame. Returns the two bytes behind the EtherType of each.
    fn drain(&mut self, most: usize) -> Vec<[u8; 2]> {
        let (lane, mut marks) = (self.nic.geometry.lane(), Vec::new());
        for receiver in &mut self.receivers {
            let received = receiver.receive(most, |frame| {
                assert!(frame.len() <= lane as usize);
                let mut bytes = vec![0; frame.len()];
                frame.copy_to(&mut bytes);
                let header = RecordHeader {
                    length: 0,
                    ..frame.header()
                };
                assert_eq!(header, RecordHeader::default(), "it agreed on nothing");
                marks.extend(bytes.get(14..16).map(|mark| [mark[0], mark[1]]));
            });
            assert_eq!(received.malformed, 0);
        }
        marks
    }

    /// New tenants of ports without a policy reach the good guest, however their predecessors left
    /// windows, lanes and calls, and however few lanes there are.
    fn everybody_comes_through(&mut self) {
        let geometry = self.nic.geometry;
        for port in geometry.all_ports() {
            let set = self
                .policies
                .set(&self.nic.switch(), port, PortPolicy::default());
            set.unwrap();
        }
        for number in 0..self.nic.honest() {
            self.admit(number);
        }
        for number in 0..self.nic.honest() {
            for queue in 0..geometry.queues() {
                let mark = [0xf0 | number as u8, 0xf0 | queue as u8];
                let [to, from] = [self.nic.honest(), number].map(|port| mac(port as u8));
                let frame = [&to[..], &from, &[0x08, 0x00], &mark].concat();
                let arrives = (0..3 * geometry.lanes() + 3).any(|_| {
                    self.nic.switch().turn_lanes(self.turn);
                    self.turn += 1;
                    append(&self.nic, number, queue, RecordHeader::plain(60), &frame);
                    let from = u64::from(queue) << TX_QUEUE_SHIFT;
                    self.nic.call(number, queue, OP_TX, 1, from);
                    self.drain(usize::MAX).contains(&mark)
                });
                assert!(arrives, "nothing of {number}.{queue} arrives");
            }
        }
    }
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
        // With a negative number added, the queue is armed.
        8 => geometry.latest_offset(queue) + 4,
        9 => geometry.bells_offset(queue) + (number & 0x1c),
        _ => number * 8,
    }
}

/// The first bytes of a frame: addresses, tags, and what the input has.
fn frame(honest: u32, input: &mut Bytes) -> Vec<u8> {
    let (to, tags) = (input.u8(), input.u8());
    // The last of four numbers is that of nobody where there are three ports.
    let station = |number: u8| match number & 3 {
        2 => mac(honest as u8),
        number => mac(number),
    };
    let destination = match to >> 4 & 3 {
        0 | 1 => station(to),
        2 => [0xff; 6],
        _ => [0x01, 0x80, 0xc2, 0, 0, tags >> 3 & 15],
    };
    // Both addresses may be anything, too.
    let addresses = [destination, station(to >> 2)].concat();
    let mut frame = addresses[..[12, 12, 6, 0][usize::from(to >> 6)]].to_vec();
    for tag in [tags & 1, tags & 2, tags & 4] {
        match tag {
            0 => {}
            1 => frame.extend([0x81, 0x00, input.u8(), 5]),
            2 => frame.extend([0x81, 0x00, input.u8(), input.u8()]),
            _ => frame.extend([0x88, 0xa8, input.u8(), 7]),
        }
    }
    frame.extend(input.take(64));
    frame
}

/// Puts a record with these bytes, and others up to the length that its header says, into a TX ring.
fn append(nic: &FuzzNic, number: u32, queue: u32, header: RecordHeader, frame: &[u8]) {
    let mut bytes = frame.to_vec();
    bytes.resize(bytes.len().next_multiple_of(8), 0xee);
    let (first, second) = header.words();
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
    let frame = bytes.chunks_exact(8).map(word);
    let mut words: Vec<u64> = [first, second].into_iter().chain(frame).collect();
    let moved = record_size(header.length.min(nic.geometry.ring())) as u32;
    words.truncate(moved as usize / 8);
    nic.append(number, queue, &words, moved);
}
