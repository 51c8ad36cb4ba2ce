//! Traffic through the switch, with the harness in the place of the guests.

use std::hint::black_box;
use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use postern_abi::service::{MAX_TX_FRAMES, OP_TX, tx_flags};
use postern_abi::window::{PAD_WORD, PortId, Published, RecordHeader};
use postern_guest::service::Service;

use crate::case::{Case, Pattern};
use crate::memory::{BenchNic, mac};

/// A ring filled with records of equal size, gone around again and again.
#[derive(Debug)]
struct Laps {
    /// Size of the ring in bytes.
    size: u32,
    /// Size of a record in bytes.
    record: u32,
    /// Number of records in the ring.
    per_lap: u32,
    /// Position at which the present lap began.
    start: u32,
    /// Number of records of the present lap that were passed.
    passed: u32,
}

impl Laps {
    /// The position behind the next `batch` records.
    #[inline]
    fn next(&mut self, batch: u32) -> u32 {
        self.passed += batch;
        if self.passed > self.per_lap {
            self.passed -= self.per_lap;
            self.start = self.start.wrapping_add(self.size);
        }
        self.start.wrapping_add(self.passed * self.record)
    }
}

/// One sender and its receivers. It is aligned so that two senders share no cache line of the
/// harness.
#[repr(align(128))]
#[derive(Debug)]
pub struct Traffic<'a, S> {
    nic: &'a BenchNic,
    from: PortId,
    case: Case,
    service: S,
    /// Word and flags of a request.
    request: u64,
    flags: u64,
    producer: &'a AtomicU32,
    consumer: &'a AtomicU32,
    laps: Laps,
    /// Number of frames until ring and lanes have been gone around.
    around: u32,
    receivers: Vec<(&'a AtomicU64, &'a AtomicU32)>,
    /// Number of frames that are sent until all are received, and of those that are not received.
    burst: u32,
    waiting: u32,
    sent: u64,
    repeated: u64,
}

impl<'a, S: Service> Traffic<'a, S> {
    /// Traffic of a case from port 0, by calls of a service.
    ///
    /// # Panics
    ///
    /// The NIC is not one of the case's geometry.
    pub fn new(nic: &'a BenchNic, case: Case, service: S) -> Traffic<'a, S> {
        let to: Vec<u32> = (1..=case.receivers()).collect();
        Traffic::between(nic, case, 0, &to, service)
    }

    /// Traffic from a port to others, all of which get frames. No two values for one NIC may have one
    /// sender.
    ///
    /// # Panics
    ///
    /// The NIC is not one of the case's geometry, or has no such ports.
    pub fn between(
        nic: &'a BenchNic,
        case: Case,
        from: u32,
        to: &[u32],
        service: S,
    ) -> Traffic<'a, S> {
        let switch = nic.switch();
        let geometry = nic.geometry();
        let number = |number: &u32| geometry.port(*number).expect("the NIC has the port");
        let port = number(&from);
        let to: Vec<PortId> = to.iter().map(number).collect();
        let record = case.record();
        let per_lap = geometry.ring() / record;
        let turns = match case.pattern {
            Pattern::Scatter => case.receivers(),
            Pattern::Unicast | Pattern::Broadcast => 1,
        };
        let secret = switch
            .credentials(from)
            .expect("the port has a tenant")
            .secret();
        let mut traffic = Traffic {
            nic,
            from: port,
            case,
            // No constants, for which the compiler could make a switch of its own.
            request: black_box(secret.request(OP_TX)),
            flags: black_box(tx_flags(0, true) | service.tx_flags()),
            service,
            producer: switch.tx_producer(port, 0).expect("there is a queue"),
            consumer: switch.tx_consumer(port, 0).expect("there is a queue"),
            laps: Laps {
                size: geometry.ring(),
                record,
                per_lap,
                start: 0,
                passed: 0,
            },
            around: per_lap.max(geometry.lane() / record * turns),
            receivers: Vec::new(),
            burst: 1,
            waiting: 0,
            sent: 0,
            repeated: 0,
        };
        traffic.write(&to);
        // The sender has a lane at each receiver once it has sent there.
        traffic.run(u64::from(turns.div_ceil(case.batch)));
        let words = |to: &PortId| {
            let (lane, _) = switch.lane_from(from, to.number())?;
            let published = switch.published(*to, 0, lane)?;
            Some((published, switch.consumed(*to, 0, lane)?))
        };
        let receivers = to.iter().map(words).collect::<Option<_>>();
        traffic.receivers = receivers.expect("there are such lanes");
        traffic.receive();
        // Memory is there, and the sender is known.
        traffic.run(u64::from(traffic.around.div_ceil(case.batch)));
        traffic.repeated = 0;
        traffic
    }

    /// The same traffic to receivers that look when this many frames or more have been sent, for which
    /// lanes have room: not after each batch.
    pub fn received_in_bursts(self, burst: u32) -> Self {
        Traffic { burst, ..self }
    }

    /// Number of frames until ring and lanes have been gone around.
    pub fn lap(&self) -> u32 {
        self.around
    }

    /// Number of calls that were made because one had not taken all that was sent.
    pub fn repeated(&self) -> u64 {
        self.repeated
    }

    /// The frame of a number in the ring, to one of these ports.
    fn frame(&self, to: &[PortId], number: u32) -> Vec<u8> {
        let destination = match self.case.pattern {
            Pattern::Broadcast => [0xff; 6],
            _ => mac(to[number as usize % to.len()]),
        };
        let head = destination.into_iter().chain(mac(self.from));
        // The EtherType is one for experiments (IEEE 802 "Local Experimental EtherType").
        let head = head.chain([0x88, 0xb5]);
        let body = (0u32..).map(|i| (i * 7 + number) as u8);
        head.chain(body).take(self.case.length as usize).collect()
    }

    /// Fills the TX ring with frames.
    fn write(&self, to: &[PortId]) {
        let ring = self
            .nic
            .switch()
            .tx_ring(self.from, 0)
            .expect("there is a queue");
        let store = |offset: u32, word: u64| {
            // SAFETY: the offsets below are those of aligned words in the ring.
            let at = unsafe { AtomicU64::from_ptr(ring.add(offset as usize).cast()) };
            at.store(word, Relaxed);
        };
        let Laps {
            record, per_lap, ..
        } = self.laps;
        for number in 0..per_lap {
            let at = number * record;
            let (first, second) = RecordHeader::plain(self.case.length).words();
            store(at, first);
            store(at + 8, second);
            for (chunk, i) in self.frame(to, number).chunks(8).zip(0..) {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                store(at + 16 + i * 8, u64::from_le_bytes(word));
            }
        }
        let end = per_lap * record;
        if end < self.laps.size {
            store(end, 0);
            store(end + 8, PAD_WORD);
        }
    }

    /// Makes a step: sends and receives a batch.
    ///
    /// # Panics
    ///
    /// The switch takes nothing.
    #[inline(always)]
    pub fn step(&mut self) {
        let next = self.laps.next(self.case.batch);
        self.producer.store(next, Release);
        loop {
            let most = MAX_TX_FRAMES.into();
            let taken = self.service.call(self.request, most, self.flags);
            if self.consumer.load(Acquire) == next {
                break;
            }
            assert!(taken != Some(0), "the switch takes nothing");
            self.repeated += 1;
        }
        self.waiting += self.case.batch;
        if self.waiting >= self.burst {
            self.waiting = 0;
            self.receive();
        }
    }

    /// Receives all that was sent.
    #[inline(always)]
    fn receive(&self) {
        for (published, consumed) in &self.receivers {
            let published = Published::from_word(published.load(Acquire));
            consumed.store(published.position, Release);
        }
    }

    /// Makes `steps` steps.
    pub fn run(&mut self, steps: u64) {
        for _ in 0..steps {
            self.step();
        }
        self.sent += steps * u64::from(self.case.batch);
    }

    /// Checks that all frames that were sent have arrived, unchanged: else nothing was measured.
    ///
    /// # Panics
    ///
    /// Frames are missing or changed.
    pub fn check(&self) {
        let switch = self.nic.switch();
        let geometry = self.nic.geometry();
        let from = self.from.number();
        let mut delivered = 0;
        let mut checked = 0;
        for to in geometry.all_ports() {
            if let Some((_, state)) = switch.lane_from(from, to.number()) {
                delivered += state.frames.load(Relaxed);
            }
            checked += u32::from(self.last_is_right(to));
        }
        let expected = self.sent * u64::from(self.case.copies());
        assert_eq!(delivered, expected, "frames are missing");
        assert!(checked >= self.case.copies(), "no frame is right");
        let sender = switch.sender(from).expect("the port has a sender");
        assert_eq!(sender.frames.load(Relaxed), self.sent);
        for drops in &sender.drops {
            assert_eq!(drops.load(Relaxed), 0, "frames were dropped");
        }
    }

    /// Whether a lane holds, at its beginning, a frame that was sent.
    fn last_is_right(&self, to: PortId) -> bool {
        let switch = self.nic.switch();
        let Some((lane, _)) = switch.lane_from(self.from.number(), to.number()) else {
            return false;
        };
        let lane = switch.lane_ring(to, 0, lane);
        let lane = lane.expect("there is such a lane");
        let load = |offset: u32| {
            // SAFETY: the offsets below are those of aligned words of the lane's first record.
            unsafe { AtomicU64::from_ptr(lane.add(offset as usize).cast()) }.load(Relaxed)
        };
        if load(0) != u64::from(self.case.length) {
            return false;
        }
        let words = (0..self.case.length.div_ceil(8)).flat_map(|i| load(16 + i * 8).to_le_bytes());
        let found: Vec<u8> = words.take(self.case.length as usize).collect();
        let one = [to];
        let number = u32::from(found.get(14).copied().unwrap_or(0));
        // The byte behind the type is 7 * 0 + the frame's number.
        self.frame(&one, number) == found
    }
}
