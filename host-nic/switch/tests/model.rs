//! The fast path against a model of a learning switch that is simple enough to believe.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod common;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::Ordering::Relaxed;

use common::build::Build;
use common::{BROADCAST, Guest, SMALL, TestNic, frame, geometry, mac};
use postern_abi::window::RecordHeader;
use postern_switch::state::{Cause, MODE_NO_LEARNING, MODE_RESERVED_SHIFT};
use proptest::prelude::*;

const PORTS: u32 = 4;
/// Number of queues: one, so that frames take the fast path. `tests/policy/model.rs` has a model of
/// the slow path.
const QUEUES: u32 = 1;
/// Length of the longest frame, which half a lane holds.
const LONGEST: u32 = LANE / 2 - 16;
const RING: u32 = 32 << 10;
/// Size of a lane, smaller than two of the longest frames, so that these often come to its end.
const LANE: u32 = 16 << 10;

/// Size in bytes of the record of a frame.
fn record(length: usize) -> u32 {
    16 + (length as u32).next_multiple_of(16)
}

/// A frame in a TX ring, with its record's header.
#[derive(Clone, Debug)]
struct Sent {
    bytes: Vec<u8>,
    header: RecordHeader,
}

/// A lane of the model.
#[derive(Default)]
struct Lane {
    /// The frames that wait, each with the position behind its record.
    frames: VecDeque<(Vec<u8>, u32)>,
    /// Position behind the last record or padding.
    position: u32,
    /// Position up to which the receiver has read.
    consumed: u32,
}

impl Lane {
    fn push(&mut self, bytes: &[u8]) -> bool {
        let size = record(bytes.len());
        let to_end = LANE - self.position % LANE;
        let mut free = LANE - self.position.wrapping_sub(self.consumed);
        if size > to_end && free >= to_end {
            // Padding stays even if there is no room behind it.
            self.position = self.position.wrapping_add(to_end);
            free -= to_end;
        } else if size > to_end {
            return false;
        }
        if size > free {
            return false;
        }
        self.position = self.position.wrapping_add(size);
        self.frames.push_back((bytes.to_vec(), self.position));
        true
    }

    fn take(&mut self, most: usize) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        while frames.len() < most {
            let Some((bytes, end)) = self.frames.pop_front() else {
                // Padding behind the last frame is read too.
                self.consumed = self.position;
                break;
            };
            self.consumed = end;
            frames.push(bytes);
        }
        frames
    }
}

/// Last byte of a destination that IEEE 802.1Q lists as reserved, in the tables of the addresses that
/// a C-VLAN component does not relay.
fn reserved(to: &[u8]) -> Option<u8> {
    let [first @ .., last] = to else { return None };
    (first == [0x01, 0x80, 0xc2, 0x00, 0x00] && *last <= 0x0f).then_some(*last)
}

/// The model: a switch that forwards frame by frame, with queues and a map.
#[derive(Default)]
struct Model {
    /// The reserved addresses to which each port forwards frames, by their last byte.
    relayed: [u16; PORTS as usize],
    /// Whether each port has a tenant.
    attached: [bool; PORTS as usize],
    /// The port that each station is behind.
    stations: HashMap<[u8; 6], u32>,
    /// Frames in each TX ring, by port and queue.
    tx: BTreeMap<(u32, u32), VecDeque<Sent>>,
    /// Lanes by sender and receiving port.
    lanes: BTreeMap<(u32, u32), Lane>,
    /// Number of frames not delivered, by sender and cause.
    drops: BTreeMap<(u32, &'static str), u64>,
}

impl Model {
    fn attach(&mut self, port: u32) {
        self.detach(port);
        self.attached[port as usize] = true;
        self.stations.insert(mac(port as u8), port);
        let own = |sender: u32| sender / QUEUES == port;
        self.tx.retain(|(of, _), _| *of != port);
        self.drops.retain(|(sender, _), _| !own(*sender));
        for ((_, to), lane) in &mut self.lanes {
            if *to == port {
                lane.frames.clear();
                lane.consumed = lane.position;
            }
        }
    }

    fn detach(&mut self, port: u32) {
        self.attached[port as usize] = false;
        self.stations.retain(|_, behind| *behind != port);
    }

    fn drop(&mut self, sender: u32, cause: Cause) {
        *self.drops.entry((sender, cause.name())).or_default() += 1;
    }

    fn call(&mut self, port: u32, (vcpu, queue): (u32, u32), count: u64, hold: bool) -> u64 {
        let sender = port * QUEUES + vcpu;
        let mut taken = 0;
        while taken < count.min(256) {
            let Some(sent) = self.tx.entry((port, queue)).or_default().front().cloned() else {
                break;
            };
            let plain = RecordHeader::plain(sent.header.length) == sent.header;
            match sent.header.length {
                0..14 => self.drop(sender, Cause::TooShort),
                14..=LONGEST if plain => {
                    if !self.forward(port, sender, &sent.bytes, hold) {
                        break;
                    }
                }
                14..=LONGEST => self.drop(sender, Cause::BadDescriptor),
                _ => self.drop(sender, Cause::TooLong),
            }
            self.tx.entry((port, queue)).or_default().pop_front();
            taken += 1;
        }
        taken
    }

    fn forward(&mut self, port: u32, sender: u32, bytes: &[u8], hold: bool) -> bool {
        let (to, source) = (&bytes[..6], &bytes[6..12]);
        // IEEE 802.3, MAC Control: such frames end below the bridge, which does not see them.
        if reserved(to) == Some(0x01) {
            self.drop(sender, Cause::Reserved);
            return true;
        }
        // IEEE 802.3, Source Address field: an individual address. Linux' bridge refuses zero, too.
        if source[0] & 1 != 0 || source == [0; 6] {
            self.drop(sender, Cause::BadSource);
            return true;
        }
        let own = source == mac(source[5]) && u32::from(source[5]) < PORTS;
        let pinned = own && self.attached[source[5] as usize];
        if !pinned {
            self.stations.insert(source.try_into().unwrap(), port);
        }
        // IEEE 802.1Q, Frame filtering; learning does not depend on it.
        if reserved(to).is_some_and(|last| self.relayed[port as usize] >> last & 1 == 0) {
            self.drop(sender, Cause::Reserved);
            return true;
        }
        let everybody = (0..PORTS).filter(|to| *to != port && self.attached[*to as usize]);
        let targets: Vec<u32> = match self.stations.get(to) {
            Some(behind) if to[0] & 1 == 0 => everybody.filter(|to| to == behind).collect(),
            _ => everybody.collect(),
        };
        if targets.is_empty() {
            self.drop(sender, Cause::NoDestination);
        }
        for to in &targets {
            let lane = self.lanes.entry((sender, *to)).or_default();
            if lane.push(bytes) {
                continue;
            }
            if hold && targets.len() == 1 {
                return false;
            }
            self.drop(sender, Cause::Full);
        }
        true
    }
}

#[derive(Clone, Debug)]
enum Step {
    Send {
        from: (u32, u32),
        source: [u8; 6],
        to: [u8; 6],
        length: usize,
        /// Number of such frames in a row.
        times: usize,
        header: Option<RecordHeader>,
    },
    Call {
        from: u32,
        vcpu: u32,
        queue: u32,
        count: u64,
        hold: bool,
    },
    Receive {
        port: u32,
        sender: u32,
        most: usize,
    },
    Attach(u32),
    Detach(u32),
    /// The reserved addresses to which a port forwards frames.
    Relay(u32, u16),
}

fn address() -> impl Strategy<Value = [u8; 6]> {
    prop_oneof![
        8 => (0u8..7).prop_map(mac),
        2 => Just(BROADCAST),
        1 => Just([0x01, 0, 0x5e, 0, 0, 7]),
        1 => Just([0; 6]),
        1 => (0u8..0x12).prop_map(|last| [0x01, 0x80, 0xc2, 0, 0, last]),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let port = 0..PORTS;
    let length = prop_oneof![
        4 => 14usize..100,
        2 => 100usize..=1514,
        2 => 1514usize..=9018,
        1 => Just(9018),
    ];
    let header = prop_oneof![
        30 => Just(None),
        1 => (0u32..14).prop_map(|length| Some(RecordHeader::plain(length))),
        1 => (9019u32..12000).prop_map(|length| Some(RecordHeader::plain(length))),
        1 => (14u32..2000, 32u32..112).prop_map(|(length, bit)| {
            let words = (u128::from(length) | 1 << bit, 64);
            Some(RecordHeader::from_words(words.0 as u64, (words.0 >> words.1) as u64))
        }),
    ];
    let from = (port.clone(), 0..QUEUES);
    let times = prop_oneof![3 => Just(1usize), 1 => 1usize..9];
    let send = (from, address(), address(), length, times, header).prop_map(
        |(from, source, to, length, times, header)| Step::Send {
            from,
            source,
            to,
            length,
            times,
            header,
        },
    );
    let count = prop_oneof![2 => 0u64..20, 2 => Just(u64::MAX)];
    let call = (port.clone(), 0..QUEUES, 0..QUEUES, count, any::<bool>()).prop_map(
        |(from, vcpu, queue, count, hold)| Step::Call {
            from,
            vcpu,
            queue,
            count,
            hold,
        },
    );
    let most = prop_oneof![1 => 0usize..5, 2 => Just(usize::MAX)];
    let receive = (port.clone(), 0..PORTS * QUEUES, most)
        .prop_map(|(port, sender, most)| Step::Receive { port, sender, most });
    prop_oneof![
        40 => send,
        20 => call,
        16 => receive,
        1 => port.clone().prop_map(Step::Attach),
        1 => port.clone().prop_map(Step::Detach),
        1 => (port, any::<u16>()).prop_map(|(port, relayed)| Step::Relay(port, relayed)),
    ]
}

/// Lets all positions begin at `start`, which may be near where they wrap.
fn near_the_end(nic: &TestNic, model: &mut Model, start: u32) {
    let senders = nic.geometry().senders();
    for sender in 0..senders {
        nic.switch()
            .sender(sender)
            .unwrap()
            .tx_next
            .store(start, Relaxed);
        for to in 0..senders {
            nic.switch()
                .lane(to, sender)
                .unwrap()
                .published
                .store(start.into(), Relaxed);
        }
        for port in 0..PORTS {
            let lane = model.lanes.entry((sender, port)).or_default();
            (lane.position, lane.consumed) = (start, start);
        }
    }
}

fn run(build: Build, steps: &[Step], start: u32) {
    let nic = TestNic::new(build, geometry(PORTS, QUEUES, RING, LANE));
    let mut model = Model::default();
    near_the_end(&nic, &mut model, start & !15);
    let mut tenancy = 0;
    let mut guests: Vec<_> = (0..PORTS)
        .map(|port| {
            tenancy += 1;
            model.attach(port);
            Guest::attach(&nic, port, tenancy)
        })
        .collect();
    for (number, step) in steps.iter().enumerate() {
        match *step {
            Step::Send {
                from: (port, queue),
                source,
                to,
                length,
                times,
                header,
            } => {
                for time in 0..times {
                    // A header's length is that of its record.
                    let length = header.map_or(length, |header| header.length as usize);
                    let bytes = frame(to, source, length, (number * 10 + time) as u64);
                    let header = header.unwrap_or(RecordHeader::plain(length as u32));
                    if !model.attached[port as usize]
                        || !guests[port as usize].try_put(queue, header, &bytes)
                    {
                        break;
                    }
                    let sent = Sent { bytes, header };
                    model.tx.entry((port, queue)).or_default().push_back(sent);
                }
            }
            Step::Call {
                from,
                vcpu,
                queue,
                count,
                hold,
            } => {
                let expected = match model.attached[from as usize] {
                    true => model.call(from, (vcpu, queue), count, hold),
                    false => u64::MAX,
                };
                let taken = guests[from as usize].call_on(vcpu, queue, count, hold);
                assert_eq!(taken, expected, "{number}");
            }
            Step::Receive { port, sender, most } => {
                if model.attached[port as usize] {
                    let lane = model.lanes.entry((sender, port)).or_default();
                    let received = guests[port as usize].receive_on(0, sender, most);
                    assert_eq!(received, lane.take(most), "{number}");
                }
            }
            Step::Attach(port) => {
                tenancy += 1;
                model.attach(port);
                guests[port as usize] = Guest::attach(&nic, port, tenancy);
            }
            Step::Relay(port, relayed) => {
                model.relayed[port as usize] = relayed & !(1 << 0x01);
                let state = nic.switch().state();
                // Also the bit of MAC control, which counts nothing.
                let mode = u32::from(relayed) << MODE_RESERVED_SHIFT;
                state.mode[port as usize].store(mode, Relaxed);
                state.generation.fetch_add(1, Relaxed);
            }
            Step::Detach(port) => {
                model.detach(port);
                nic.switch().evict(common::port(port));
            }
        }
    }
    for port in (0..PORTS).filter(|port| model.attached[*port as usize]) {
        for sender in 0..PORTS * QUEUES {
            let lane = model.lanes.entry((sender, port)).or_default();
            let rest = guests[port as usize].receive_on(0, sender, usize::MAX);
            assert_eq!(rest, lane.take(usize::MAX));
        }
        for sender in port * QUEUES..(port + 1) * QUEUES {
            for cause in Cause::ALL {
                let expected = model.drops.get(&(sender, cause.name())).copied();
                let sender = nic.switch().sender(sender).unwrap();
                let found = sender.drops[cause as usize].load(Relaxed);
                assert_eq!(found, expected.unwrap_or(0), "{} of {port}", cause.name());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_switch_does_what_the_model_does(
        build in prop::sample::select(&Build::ALL[..]),
        steps in prop::collection::vec(step(), 1..300),
        start in prop_oneof![Just(0u32), any::<u32>(), u32::MAX - 40_000..],
    ) {
        run(build, &steps, start);
    }
}

/// More frames than a call takes keep their order, through rings whose positions wrap around.
#[test]
fn long_bursts_keep_their_order() {
    let nic = TestNic::native(geometry(2, 1, RING, RING));
    for sender in 0..2 {
        let near_end = u32::MAX - 20_015;
        nic.switch()
            .sender(sender)
            .unwrap()
            .tx_next
            .store(near_end, Relaxed);
        for to in 0..2 {
            let lane = nic.switch().lane(to, sender).unwrap();
            lane.published.store(near_end.into(), Relaxed);
        }
    }
    let mut sender = Guest::attach(&nic, 0, 1);
    let mut receiver = Guest::attach(&nic, 1, 1);
    let nth = |n: u64| {
        let to = if n.is_multiple_of(7) {
            BROADCAST
        } else {
            mac(1)
        };
        frame(to, mac(0), 14 + n as usize % 40, n)
    };
    let (mut sent, mut received, mut full) = (0, 0, 0);
    while received < 20_000 {
        while sender.try_send(&nth(sent)) {
            sent += 1;
        }
        let taken = sender.call(u64::MAX, true);
        assert!(taken <= 256);
        full += u32::from(taken == 256);
        for bytes in receiver.receive(0, usize::MAX) {
            assert_eq!(bytes, nth(received));
            received += 1;
        }
    }
    assert!(full > 10);
}

#[test]
fn unlearned_ports_leave_no_stations() {
    let nic = TestNic::native(geometry(3, 1, SMALL, SMALL));
    let switch = nic.switch();
    switch.state().mode[0].store(MODE_NO_LEARNING, Relaxed);
    let mut replayer = Guest::attach(&nic, 0, 1);
    let mut receiver = Guest::attach(&nic, 1, 1);
    // Both directions of a conversation come from one port.
    replayer.send(&frame(mac(8), mac(7), 64, 1));
    replayer.send(&frame(mac(7), mac(8), 64, 2));
    assert_eq!(replayer.call(2, true), 2);
    assert_eq!(receiver.receive(0, 9).len(), 2);
    let learned = switch.state().fdb.entries(switch.key());
    assert_eq!(
        learned.filter(|entry| entry.port == 0).count(),
        1,
        "its own address"
    );
}
