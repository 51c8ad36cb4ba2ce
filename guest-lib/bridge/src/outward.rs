//! The way of frames from the interface to the NIC: what waits, and for how long.

use std::time::{Duration, Instant};

use postern_abi::window::RecordHeader;
use postern_guest::nic::{Nic, WhenFull};
use postern_guest::service::Service;
use postern_tap::Frame;
use postern_tap::batch::Batch;
use postern_tap::work::{self, Finishing};

use crate::counters::Counters;

/// Shortest and longest time between two tries while frames wait for room.
const SHORTEST: Duration = Duration::from_micros(50);
const LONGEST: Duration = Duration::from_millis(1);
/// After frames have waited too long, for so many times as long no others wait: so a receiver that
/// never reads takes one part in so many and one of the time of all others.
const REST: u32 = 10;

/// How far a call of [`Outward::send`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The batch was full, and all of it is sent.
    More,
    /// All is sent.
    Done,
    /// Frames wait for room; look again after this time.
    Held(Duration),
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
    /// Frames to a NIC with which `features` were agreed on, which takes segments of `longest` bytes;
    /// frames wait for `limit` at most.
    pub fn new(features: u32, longest: usize, limit: Duration) -> Outward {
        Outward {
            batch: Batch::new(),
            finishing: None,
            finished: Batch::new(),
            features,
            longest,
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

    /// The frames of the interface, to which more are added while it is empty.
    pub fn batch(&mut self) -> &mut Batch {
        &mut self.batch
    }

    /// Sends what waits.
    pub fn send<S: Service>(&mut self, nic: &mut Nic<S>, counters: &mut Counters) -> Progress {
        let full = self.batch.room() == 0;
        match self.patience.waiting {
            Some(_) => {
                nic.tx_burst::<&[u8]>(&[]);
            }
            None if self.batch.is_empty() => return Progress::Done,
            None => {}
        }
        if self.patience.is_rested() {
            nic.set_when_full(WhenFull::Hold);
        }
        let mut left = self.push(nic, counters);
        if left && self.patience.is_over(counters) {
            counters.dropped_no_room += u64::from(nic.pending());
            nic.set_when_full(WhenFull::Drop);
            nic.tx_burst::<&[u8]>(&[]);
            left = self.push(nic, counters);
        }
        counters.waiting_in_bridge = (self.batch.len() + self.finished.len()) as u64;
        counters.waiting_in_ring = if left { nic.pending().into() } else { 0 };
        match (left, full) {
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

/// Gives the NIC the first frames of a batch, `most` of them, and removes those that it has room for;
/// gives their number.
fn give<S: Service>(
    nic: &mut Nic<S>,
    batch: &mut Batch,
    most: usize,
    counters: &mut Counters,
) -> usize {
    let frames = batch.frames().take(most);
    let taken = nic.tx_burst_with(frames.map(|frame| (frame.header, frame.bytes)));
    let bytes = batch
        .frames()
        .take(taken)
        .map(|frame| frame.bytes.len() as u64);
    counters.to_nic_bytes += bytes.sum::<u64>();
    counters.to_nic_frames += taken as u64;
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
