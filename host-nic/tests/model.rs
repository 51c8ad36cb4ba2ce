//! The switch against a model of a learning switch that is simple enough to believe.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod common;

use std::collections::{BTreeMap, HashMap, VecDeque};

use common::{BROADCAST, Guest, frame, geometry, mac};
use postern_nic::memory::Memory;
use postern_nic::state::Cause;
use proptest::prelude::*;

const PORTS: u32 = 4;
const SLOTS: u32 = 16;

/// Frame by frame, with queues and a map.
#[derive(Default)]
struct Model {
    attached: [bool; PORTS as usize],
    stations: HashMap<[u8; 6], u32>,
    tx: BTreeMap<u32, VecDeque<(Vec<u8>, u32)>>,
    lanes: BTreeMap<(u32, u32), VecDeque<Vec<u8>>>,
    drops: BTreeMap<(u32, &'static str), u64>,
}

impl Model {
    fn attach(&mut self, port: u32) {
        self.detach(port);
        self.attached[port as usize] = true;
    }

    fn detach(&mut self, port: u32) {
        self.attached[port as usize] = false;
        self.stations.retain(|_, behind| *behind != port);
        self.tx.remove(&port);
        self.lanes.retain(|(_, to), _| *to != port);
        self.drops.retain(|(from, _), _| *from != port);
    }

    fn drop(&mut self, from: u32, cause: Cause) {
        *self.drops.entry((from, cause.name())).or_default() += 1;
    }

    fn call(&mut self, from: u32, count: u64, hold: bool) -> u64 {
        let mut taken = 0;
        while taken < count {
            let Some((bytes, descriptor)) = self.tx.entry(from).or_default().front().cloned()
            else {
                break;
            };
            match descriptor {
                0..14 => self.drop(from, Cause::TooShort),
                14..=1514 => {
                    if !self.forward(from, &bytes[..descriptor as usize], hold) {
                        break;
                    }
                }
                1515..=0xffff => self.drop(from, Cause::TooLong),
                _ => self.drop(from, Cause::BadDescriptor),
            }
            self.tx.entry(from).or_default().pop_front();
            taken += 1;
        }
        taken
    }

    fn forward(&mut self, from: u32, bytes: &[u8], hold: bool) -> bool {
        let (to, source) = (&bytes[..6], &bytes[6..12]);
        if source[0] & 1 == 0 {
            self.stations.insert(source.try_into().unwrap(), from);
        }
        let everybody = (0..PORTS).filter(|port| *port != from && self.attached[*port as usize]);
        let targets: Vec<u32> = match self.stations.get(to) {
            Some(behind) if to[0] & 1 == 0 => everybody.filter(|port| port == behind).collect(),
            _ => everybody.collect(),
        };
        if targets.is_empty() {
            self.drop(from, Cause::NoDestination);
        }
        for port in &targets {
            let lane = self.lanes.entry((from, *port)).or_default();
            if lane.len() < SLOTS as usize {
                lane.push_back(bytes.to_vec());
            } else if hold && targets.len() == 1 {
                return false;
            } else {
                self.drop(from, Cause::Full);
            }
        }
        true
    }
}

#[derive(Clone, Debug)]
enum Step {
    Send {
        from: u32,
        source: [u8; 6],
        to: [u8; 6],
        length: usize,
        descriptor: Option<u32>,
    },
    Call {
        from: u32,
        count: u64,
        hold: bool,
    },
    Receive {
        port: u32,
        from: u32,
        most: usize,
    },
    Attach(u32),
    Detach(u32),
}

fn address() -> impl Strategy<Value = [u8; 6]> {
    prop_oneof![
        8 => (0u8..6).prop_map(mac),
        1 => Just(BROADCAST),
        1 => Just([0x01, 0, 0x5e, 0, 0, 7]),
        1 => Just([0; 6]),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let any_port = 0..PORTS;
    let length = prop_oneof![4 => 14usize..100, 2 => 100usize..=1514, 1 => Just(1514)];
    let descriptor = prop_oneof![
        16 => Just(None),
        1 => prop_oneof![0u32..14, 1515u32..3000, Just(0xffff)].prop_map(Some),
        1 => (0x1_0000u32..).prop_map(Some),
    ];
    let send = (any_port.clone(), address(), address(), length, descriptor).prop_map(
        |(from, source, to, length, descriptor)| Step::Send {
            from,
            source,
            to,
            length,
            descriptor,
        },
    );
    let count = prop_oneof![4 => 0u64..20, 1 => Just(u64::MAX)];
    let call = (any_port.clone(), count, any::<bool>())
        .prop_map(|(from, count, hold)| Step::Call { from, count, hold });
    let receive = (any_port.clone(), any_port.clone(), 0usize..20)
        .prop_map(|(port, from, most)| Step::Receive { port, from, most });
    prop_oneof![
        40 => send,
        10 => call,
        8 => receive,
        1 => any_port.clone().prop_map(Step::Attach),
        1 => any_port.prop_map(Step::Detach),
    ]
}

fn run(steps: &[Step]) {
    let memory = Memory::create(geometry(PORTS, SLOTS)).unwrap();
    let mut model = Model::default();
    let mut tenancy = 0;
    let mut guests: Vec<_> = (0..PORTS)
        .map(|port| {
            tenancy += 1;
            model.attach(port);
            Guest::attach(&memory, port, tenancy)
        })
        .collect();
    for (number, step) in steps.iter().enumerate() {
        match *step {
            Step::Send {
                from,
                source,
                to,
                length,
                descriptor,
            } => {
                let guest = &mut guests[from as usize];
                let queue = model.tx.entry(from).or_default();
                if guest.room() == 0 || !model.attached[from as usize] {
                    continue;
                }
                let bytes = frame(to, source, length, number as u64);
                let descriptor = descriptor.unwrap_or(length as u32);
                guest.send_as(&bytes, descriptor);
                queue.push_back((bytes, descriptor));
            }
            Step::Call { from, count, hold } => {
                let expected = match model.attached[from as usize] {
                    true => model.call(from, count, hold),
                    false => u64::MAX,
                };
                assert_eq!(
                    guests[from as usize].call(count, hold),
                    expected,
                    "{number}"
                );
            }
            Step::Receive { port, from, most } => {
                if !model.attached[port as usize] {
                    continue;
                }
                let lane = model.lanes.entry((from, port)).or_default();
                let expected: Vec<_> = lane.drain(..lane.len().min(most)).collect();
                assert_eq!(
                    guests[port as usize].receive(from, most),
                    expected,
                    "{number}"
                );
            }
            Step::Attach(port) => {
                tenancy += 1;
                model.attach(port);
                guests[port as usize] = Guest::attach(&memory, port, tenancy);
            }
            Step::Detach(port) => {
                model.detach(port);
                memory.switch().evict(common::port(port));
            }
        }
    }
    for port in (0..PORTS).filter(|port| model.attached[*port as usize]) {
        for from in 0..PORTS {
            let lane = model.lanes.entry((from, port)).or_default();
            let rest = guests[port as usize].receive(from, usize::MAX);
            assert_eq!(rest, Vec::from(std::mem::take(lane)));
        }
        for cause in Cause::ALL {
            let expected = model.drops.get(&(port, cause.name())).copied();
            let found = guests[port as usize].drops(cause);
            assert_eq!(found, expected.unwrap_or(0), "{} of {port}", cause.name());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_switch_does_what_the_model_does(steps in prop::collection::vec(step(), 1..400)) {
        run(&steps);
    }
}

/// More frames in one call than a batch has, through rings whose indices wrap around.
#[test]
fn long_bursts_keep_their_order() {
    let memory = Memory::create(geometry(2, 256)).unwrap();
    // Indices are free-running: begin just before they wrap.
    let state = memory.switch().state();
    let near_end = u32::MAX - 300;
    for port in 0..2 {
        let sender = &state.senders[port];
        sender
            .tx_next
            .store(near_end, std::sync::atomic::Ordering::Relaxed);
        for lane in &sender.lanes {
            lane.producer
                .store(near_end, std::sync::atomic::Ordering::Relaxed);
        }
    }
    let mut sender = Guest::attach(&memory, 0, 1);
    let mut receiver = Guest::attach(&memory, 1, 1);
    let mut next = 0;
    for _ in 0..8 {
        for i in 0..256 {
            let to = if i % 7 == 0 { BROADCAST } else { mac(1) };
            sender.send(&frame(to, mac(0), 60 + i, next + i as u64));
        }
        assert_eq!(sender.call(u64::MAX, true), 256);
        assert_eq!(sender.call(u64::MAX, true), 0);
        let received = receiver.receive(0, usize::MAX);
        assert_eq!(received.len(), 256);
        for (i, bytes) in received.iter().enumerate() {
            let to = if i % 7 == 0 { BROADCAST } else { mac(1) };
            assert_eq!(*bytes, frame(to, mac(0), 60 + i, next + i as u64));
        }
        next += 256;
    }
}

#[test]
fn unlearned_ports_leave_no_stations() {
    let memory = Memory::create(geometry(3, 16)).unwrap();
    let switch = memory.switch();
    switch
        .state()
        .unlearned
        .store(1, std::sync::atomic::Ordering::Relaxed);
    let mut replayer = Guest::attach(&memory, 0, 1);
    let mut receiver = Guest::attach(&memory, 1, 1);
    // Both directions of a conversation come from one port.
    replayer.send(&frame(mac(8), mac(7), 64, 1));
    replayer.send(&frame(mac(7), mac(8), 64, 2));
    assert_eq!(replayer.call(2, true), 2);
    assert_eq!(receiver.receive(0, 9).len(), 2);
    assert_eq!(switch.state().table.entries().count(), 0);
}
