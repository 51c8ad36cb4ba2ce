//! The way of frames from the interface to the NIC: what waits, and for how long.

use std::mem;
use std::time::{Duration, Instant};

use postern_abi::window::{FEATURE_CSUM, GSO_NONE, Geometry, MAX_SEGMENT, RecordHeader};
use postern_guest::nic::{Nic, WhenFull};
use postern_guest::service::Service;
use postern_tap::batch::Batch;
use postern_tap::work::{self, Fate, Finishing};
use postern_tap::{BATCH, Frame, Tap, Unusable, virtio_net};
use rustix::io::Errno;

use crate::counters::Counters;
use crate::transfer::{self, Read};

/// Shortest and longest time between two tries while frames wait for room.
const SHORTEST: Duration = Duration::from_micros(50);
const LONGEST: Duration = Duration::from_millis(1);
/// After frames have waited too long, for so many times as long no others wait: so a receiver that
/// never reads takes one part in so many and one of the time of all others.
const REST: u32 = 10;
/// Time in which a NIC takes frames that it may drop, if it takes any at all.
const SERVED: Duration = Duration::from_secs(1);

/// How far a call of [`Outward::send`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// All is sent, and the interface may have more.
    More,
    /// All is sent.
    Done,
    /// Frames wait for room; look again after this time.
    Held(Duration),
    /// The NIC takes no frames, although it may drop them.
    Stuck,
}

/// Frames on their way to the NIC.
#[derive(Debug)]
pub struct Outward {
    batch: Batch,
    /// The first frame of the batch, as far as it is not finished.
    finishing: Option<Finishing>,
    finished: Batch,
    /// Features that were agreed on.
    features: u32,
    /// Length of the longest segment that the NIC takes, in bytes.
    longest: usize,
    /// Room in the ring that a frame is read into, in bytes.
    room: usize,
    /// What a frame has more.
    spill: Box<[u8]>,
    /// Whether there may be more frames at the interface.
    more: bool,
    /// Frames that the next burst takes at most. One while they come one by one, as questions and
    /// answers do: the sleep behind it tells by itself whether there are more.
    burst: usize,
    patience: Patience,
}

/// How long frames wait.
#[derive(Debug)]
struct Patience {
    limit: Duration,
    /// Since when they wait, and how long until the next try.
    waiting: Option<(Instant, Duration)>,
    /// Until when none wait.
    resting: Option<Instant>,
}

impl Outward {
    /// Frames to a NIC of this geometry with which `features` were agreed on; frames wait for `limit`
    /// at most.
    pub fn new(features: u32, geometry: Geometry, limit: Duration) -> Outward {
        let longest = geometry.max_segment() as usize;
        let room = match features & !FEATURE_CSUM {
            0 => geometry.max_frame() as usize,
            _ => longest,
        };
        Outward {
            batch: Batch::new(),
            finishing: None,
            finished: Batch::new(),
            features,
            longest,
            room,
            spill: vec![0; MAX_SEGMENT as usize + 1].into_boxed_slice(),
            more: false,
            burst: 1,
            patience: Patience {
                limit,
                waiting: None,
                resting: None,
            },
        }
    }

    /// Whether nothing waits here; it may in the NIC's ring.
    pub fn is_empty(&self) -> bool {
        self.batch.is_empty() && self.finished.is_empty() && self.patience.waiting.is_none()
    }

    /// Reads a burst of frames of the interface into the NIC's ring, as many as it has room for. Those
    /// that have to be finished first wait here. `fresh` says whether frames came from the NIC since the
    /// last burst. Gives the number of frames that there were.
    ///
    /// # Errors
    ///
    /// The interface is gone.
    pub fn fill<S: Service>(
        &mut self,
        tap: &Tap,
        nic: &mut Nic<S>,
        counters: &mut Counters,
        fresh: bool,
    ) -> Result<usize, Errno> {
        let geometry = nic.geometry();
        let (mut found, mut empty) = (0, false);
        while found < self.burst {
            let mut failed = None;
            let filled = nic.tx_fill(self.room, |room| {
                let read = transfer::read(tap, room, &mut self.spill);
                match read {
                    Ok(read) => take(&read, self.features, geometry, &mut self.batch, counters),
                    Err(errno) => {
                        failed = Some(errno);
                        None
                    }
                }
            });
            match failed {
                None => {}
                Some(Errno::AGAIN) => {
                    empty = true;
                    break;
                }
                Some(errno) => return Err(errno),
            }
            found += 1;
            // Without room, or where one has to be finished, those that were read go first.
            if filled.is_err() || !self.batch.is_empty() {
                break;
            }
        }
        nic.tx_filled();
        self.more = !empty && self.burst > 1;
        self.burst = match (empty, found) {
            (true, 0 | 1) => 1,
            (true, _) => BATCH,
            // Several in a row, with nothing from the NIC between them.
            (false, _) if !fresh => BATCH,
            (false, _) => self.burst,
        };
        Ok(found)
    }

    /// Sends what waits.
    pub fn send<S: Service>(&mut self, nic: &mut Nic<S>, counters: &mut Counters) -> Progress {
        if self.patience.waiting.is_some() {
            nic.tx_filled();
        }
        if self.patience.is_rested() {
            nic.set_when_full(WhenFull::Hold);
        }
        let mut left = self.push(nic, counters);
        if left && self.patience.is_over(counters) {
            counters.dropped_no_room += u64::from(nic.pending());
            nic.set_when_full(WhenFull::Drop);
            nic.tx_filled();
            left = self.push(nic, counters);
        }
        counters.waiting_in_bridge = (self.batch.len() + self.finished.len()) as u64;
        counters.waiting_in_ring = if left { nic.pending().into() } else { 0 };
        match (left, mem::take(&mut self.more)) {
            (true, _) if self.patience.is_in_vain() => Progress::Stuck,
            (true, _) => Progress::Held(self.patience.next()),
            (false, true) => self.patience.all_sent(Progress::More),
            (false, false) => self.patience.all_sent(Progress::Done),
        }
    }

    /// Gives the NIC as much of what waits here as it has room for; whether something waits still, here
    /// or in the NIC's ring.
    fn push<S: Service>(&mut self, nic: &mut Nic<S>, counters: &mut Counters) -> bool {
        loop {
            if !self.finished.is_empty() {
                if give(nic, &mut self.finished, usize::MAX, counters) == 0 {
                    return true;
                }
            } else if let Some(finishing) = &mut self.finishing {
                let frame = self.batch.front().unwrap_or_default();
                if !finish(finishing, frame, &mut self.finished) {
                    self.finishing = None;
                    self.batch.pop();
                }
            } else if let Some(front) = self.batch.front() {
                let (features, longest) = (self.features, self.longest);
                let takes = |frame: &Frame<'_>| {
                    work::needs(frame.header) & !features == 0
                        && work::passes_switch(frame, longest)
                };
                match self.batch.frames().take_while(takes).count() {
                    0 => self.finishing = Finishing::new(front),
                    whole if give(nic, &mut self.batch, whole, counters) == 0 => return true,
                    _ => continue,
                }
                if self.finishing.is_none() {
                    counters.dropped_offload += 1;
                    self.batch.pop();
                }
            } else {
                return nic.pending() != 0;
            }
        }
    }
}

/// What becomes of a frame that was read: the header with which it is sent from where it is. Others wait
/// in the batch, or are dropped.
fn take(
    read: &Read<'_>,
    features: u32,
    geometry: Geometry,
    batch: &mut Batch,
    counters: &mut Counters,
) -> Option<RecordHeader> {
    let header = virtio_net::decode(read.header);
    let fate = match read.is_in_ring() {
        true => work::fate(
            header,
            read.length,
            |index| read.word(index),
            features,
            geometry.max_segment() as usize,
        ),
        false => Fate::Finish,
    };
    match fate {
        Fate::Whole if !is_taken(geometry, header, read.length) => {
            count(Unusable::TooLong, counters);
        }
        Fate::Whole => {
            counters.to_nic_frames += 1;
            counters.to_nic_bytes += read.length as u64;
            return Some(RecordHeader {
                length: read.length as u32,
                ..header
            });
        }
        Fate::Finish => {
            let next = batch
                .next_frame()
                .and_then(|next| next.get_mut(..read.length));
            let checked = next.ok_or(Unusable::TooLong).and_then(|next| {
                read.copy_to(next);
                work::check(header, next)
            });
            match checked {
                Ok(header) => batch.add(header, read.length),
                Err(reason) => count(reason, counters),
            }
        }
        Fate::Drop(reason) => count(reason, counters),
    }
    None
}

/// Whether the rings take a frame of that length with this header.
fn is_taken(geometry: Geometry, header: RecordHeader, length: usize) -> bool {
    let longest = match header.gso_type {
        GSO_NONE => geometry.max_frame(),
        _ => geometry.max_segment(),
    };
    length <= longest as usize
}

fn count(reason: Unusable, counters: &mut Counters) {
    match reason {
        Unusable::TooLong | Unusable::TooShort => counters.dropped_length += 1,
        Unusable::Offload => counters.dropped_offload += 1,
    }
}

/// Gives the NIC the first frames of a batch, `most` of them, and removes those that it has room for, and
/// those that are too long for it; gives their number.
fn give<S: Service>(
    nic: &mut Nic<S>,
    batch: &mut Batch,
    most: usize,
    counters: &mut Counters,
) -> usize {
    let frames = batch.frames().take(most);
    let taken = nic.tx_burst_with(frames.map(|frame| (frame.header, frame.bytes)));
    let geometry = nic.geometry();
    for Frame { header, bytes } in batch.frames().take(taken) {
        if is_taken(geometry, header, bytes.len()) {
            counters.to_nic_frames += 1;
            counters.to_nic_bytes += bytes.len() as u64;
        } else {
            count(Unusable::TooLong, counters);
        }
    }
    for _ in 0..taken {
        batch.pop();
    }
    taken
}

/// Adds to a batch what a frame becomes, as far as there is room; whether that is not all.
fn finish(finishing: &mut Finishing, frame: Frame<'_>, finished: &mut Batch) -> bool {
    while let Some(next) = finished.next_frame() {
        let Some(length) = finishing.write_next(frame.bytes, next) else {
            return false;
        };
        finished.add(RecordHeader::default(), length);
    }
    true
}

impl Patience {
    /// Whether a rest is over that [`Patience::is_over`] began.
    fn is_rested(&mut self) -> bool {
        let rested = self.resting.is_some_and(|end| Instant::now() >= end);
        if rested {
            self.resting = None;
        }
        rested
    }

    /// Notes that frames wait. Whether they have waited for long enough, so that none may wait now.
    fn is_over(&mut self, counters: &mut Counters) -> bool {
        let now = Instant::now();
        let (since, _) = *self.waiting.get_or_insert_with(|| {
            counters.held += 1;
            (now, SHORTEST)
        });
        if self.resting.is_none() && now.duration_since(since) < self.limit {
            return false;
        }
        self.resting = now.checked_add(self.limit.saturating_mul(REST));
        true
    }

    /// Whether frames wait that have been free to be dropped for a time.
    fn is_in_vain(&self) -> bool {
        let waited = self.waiting.map(|(since, _)| since.elapsed());
        self.resting.is_some() && waited.is_some_and(|time| time > self.limit + SERVED)
    }

    /// The time until the next try.
    fn next(&mut self) -> Duration {
        let Some((_, delay)) = &mut self.waiting else {
            return SHORTEST;
        };
        let next = *delay;
        *delay = (next * 2).min(LONGEST);
        next
    }

    /// Nothing waits.
    fn all_sent(&mut self, progress: Progress) -> Progress {
        self.waiting = None;
        progress
    }
}

#[cfg(test)]
#[allow(unsafe_code, reason = "the NIC's memory is mapped here")]
#[allow(clippy::unwrap_used, reason = "a failure is a failed test")]
mod tests {
    use postern_abi::window::{FLAG_NEEDS_CSUM, GSO_TCPV4, PortId};
    use postern_guest::direct::Direct;
    use postern_nic_client::memory::{Memory, draw_secret};

    use super::*;

    /// A NIC that serves nobody, as one does whose owner took the port away on a path without results.
    struct Deaf;

    impl Service for Deaf {
        fn call(&mut self, _: u64, _: u64, _: u64) -> Option<u64> {
            None
        }
    }

    fn memory() -> Memory {
        let memory = Memory::create(Geometry::new(2, 1, 64 << 10, 64 << 10).unwrap()).unwrap();
        for port in memory.geometry().all_ports() {
            let mac = [2, 0, 0, 0, 0, port.number() as u8];
            memory.switch().admit(port, 1, draw_secret().unwrap(), mac);
        }
        memory
    }

    fn nic<S: Service>(memory: &Memory, port: u32, service: impl FnOnce(Direct) -> S) -> Nic<S> {
        let port = PortId::new(port).unwrap();
        // SAFETY: the memory is mapped for as long as a test runs.
        let direct = unsafe { Direct::new(memory.base(), memory.size(), port) };
        let (direct, window) = direct.unwrap();
        let mut nic = Nic::new(service(direct), window);
        nic.set_when_full(WhenFull::Hold);
        nic
    }

    fn outward(memory: &Memory, features: u32, limit: Duration) -> Outward {
        Outward::new(features, memory.geometry(), limit)
    }

    /// A frame to port 1, of port 0.
    fn frame(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        bytes[..12].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0]);
        bytes
    }

    #[test]
    fn what_has_no_room_is_kept_in_order_until_there_is() {
        let memory = memory();
        let (mut near, mut far) = (
            nic(&memory, 0, |direct| direct),
            nic(&memory, 1, |direct| direct),
        );
        let mut outward = outward(&memory, 0, Duration::from_secs(3600));
        let mut counters = Counters::default();
        let (mut sent, mut progress) = (0u8, Progress::Done);
        while progress == Progress::Done {
            let mut bytes = frame(9000);
            bytes[20] = sent;
            sent += 1;
            assert!(outward.batch.push(Frame::finished(&bytes)));
            progress = outward.send(&mut near, &mut counters);
        }
        assert_eq!(progress, Progress::Held(SHORTEST));
        assert_eq!(
            outward.send(&mut near, &mut counters),
            Progress::Held(2 * SHORTEST)
        );
        assert!(!outward.is_empty(), "no more are read meanwhile");
        let mut came = Vec::new();
        while outward.send(&mut near, &mut counters) != Progress::Done || came.len() < sent.into() {
            far.rx_burst(1, |frame| {
                let mut bytes = vec![0; frame.len()];
                frame.copy_to(&mut bytes);
                came.push(bytes[20]);
            });
        }
        assert_eq!(came, (0..sent).collect::<Vec<u8>>());
        assert_eq!((counters.held, counters.dropped_no_room), (1, 0));
        assert_eq!(counters.to_nic_frames, u64::from(sent));
    }

    #[test]
    fn who_waits_too_long_is_dropped_and_the_next_do_not_wait() {
        let memory = memory();
        let mut near = nic(&memory, 0, |direct| direct);
        let mut outward = outward(&memory, 0, Duration::from_millis(1));
        let mut counters = Counters::default();
        while counters.dropped_no_room == 0 {
            outward.batch.push(Frame::finished(&frame(9000)));
            while let Progress::Held(_) = outward.send(&mut near, &mut counters) {}
        }
        assert_eq!(counters.held, 1);
        assert_eq!(near.pending(), 0);
        outward.batch.push(Frame::finished(&frame(9000)));
        assert_eq!(outward.send(&mut near, &mut counters), Progress::Done);
        assert_eq!(counters.held, 1, "it rests");
    }

    #[test]
    fn what_is_longer_than_the_rings_take_is_dropped_and_counted() {
        let memory = Memory::create(Geometry::new(2, 1, 4 << 10, 4 << 10).unwrap()).unwrap();
        let mac = [2, 0, 0, 0, 0, 0];
        let port = PortId::new(0).unwrap();
        memory.switch().admit(port, 1, draw_secret().unwrap(), mac);
        let mut near = nic(&memory, 0, |direct| direct);
        let mut outward = outward(&memory, 0, Duration::ZERO);
        let mut counters = Counters::default();
        // As with an MTU that somebody has set behind the bridge's back.
        for length in [100, 9000, 200] {
            outward.batch.push(Frame::finished(&frame(length)));
        }
        assert_eq!(outward.send(&mut near, &mut counters), Progress::Done);
        assert_eq!((counters.to_nic_frames, counters.to_nic_bytes), (2, 300));
        assert_eq!(counters.dropped_length, 1);
    }

    #[test]
    fn a_nic_that_takes_nothing_is_told_from_one_that_is_full() {
        let memory = memory();
        let mut near = nic(&memory, 0, |_| Deaf);
        let mut outward = outward(&memory, 0, Duration::ZERO);
        let mut counters = Counters::default();
        outward.batch.push(Frame::finished(&frame(100)));
        let begin = Instant::now();
        while outward.send(&mut near, &mut counters) != Progress::Stuck {}
        assert!(begin.elapsed() >= SERVED);
    }

    #[test]
    fn what_the_port_does_not_take_is_finished() {
        let memory = memory();
        let (mut near, mut far) = (
            nic(&memory, 0, |direct| direct),
            nic(&memory, 1, |direct| direct),
        );
        let mut outward = outward(&memory, 0, Duration::ZERO);
        let mut counters = Counters::default();
        // TCP over IPv4, 3000 bytes of payload in segments of 1000.
        let mut bytes = frame(14 + 40 + 3000);
        bytes[12] = 8;
        bytes[14..18].copy_from_slice(&[0x45, 0, (3040u16 >> 8) as u8, 3040u16 as u8]);
        bytes[23] = 6;
        bytes[46] = 0x50;
        let header = RecordHeader {
            flags: FLAG_NEEDS_CSUM,
            gso_type: GSO_TCPV4,
            hdr_len: 54,
            gso_size: 1000,
            csum_start: 34,
            csum_offset: 16,
            ..RecordHeader::default()
        };
        let large = Frame {
            header,
            bytes: &bytes,
        };
        outward.batch.push(large);
        assert_eq!(outward.send(&mut near, &mut counters), Progress::Done);
        assert_eq!(counters.to_nic_frames, 3);
        let mut lengths = Vec::new();
        far.rx_burst(32, |frame| {
            lengths.push((frame.len(), frame.header().flags))
        });
        assert_eq!(lengths, [(1054, 0); 3]);
        // A frame whose header says what is not so.
        outward.batch.push(Frame {
            header,
            bytes: &bytes[..60],
        });
        assert_eq!(outward.send(&mut near, &mut counters), Progress::Done);
        assert_eq!(counters.dropped_offload, 1);
    }
}
