//! Sending the frames of a file into a port.
#![forbid(unsafe_code)]

use std::num::NonZeroU64;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::recording::Recording;
use crate::frame_port::{BATCH, FramePort};

/// Longest sleep before it is asked again whether to stop.
const MAX_SLEEP: Duration = Duration::from_millis(20);
/// Time for which a frame is waited for without sleeping.
const SPIN_TIME: Duration = Duration::from_micros(60);
/// The longest wait between two frames where nobody asks for another: longer silence in a file is
/// mostly a clock that was set.
const DEFAULT_LONGEST_GAP: Duration = Duration::from_secs(60);
/// Refusals after which waiting for a port yields the CPU, and after which it sleeps.
const YIELD_AFTER: u32 = 64;
const SLEEP_AFTER: u32 = 256;

/// The times at which frames are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pace {
    /// Each frame as soon as the port takes it.
    #[default]
    Fast,
    /// With the distances in time that they had, as far as [`Replay::longest_gap`] lets them. A
    /// frame whose time is before its predecessor's follows at once.
    Recorded,
    /// This number of frames a second, evenly.
    Rate(NonZeroU64),
}

/// A clock that never goes back, and that can be waited for.
pub trait ReplayClock {
    /// The time now, since any moment.
    fn now(&mut self) -> Duration;
    /// Waits for `time` or somewhat less, and not much longer than 20 ms.
    fn wait(&mut self, time: Duration);
}

/// The system's monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct MonotonicClock(Instant);

impl Default for MonotonicClock {
    fn default() -> MonotonicClock {
        MonotonicClock(Instant::now())
    }
}

impl ReplayClock for MonotonicClock {
    fn now(&mut self) -> Duration {
        self.0.elapsed()
    }

    fn wait(&mut self, time: Duration) {
        match time.checked_sub(SPIN_TIME) {
            Some(time) if !time.is_zero() => thread::sleep(time.min(MAX_SLEEP)),
            _ => std::hint::spin_loop(),
        }
    }
}

/// Numbers of a replay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReplayStats {
    /// Frames that the port took.
    pub frames: u64,
    /// Bytes of these frames.
    pub bytes: u64,
    /// Number of times that a frame was offered and not taken, and had to be offered again.
    pub refused: u64,
    /// Number of times that the file was sent to its end.
    pub loops: u64,
}

/// Options for sending a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replay {
    /// The times at which frames are sent.
    pub pace: Pace,
    /// Number of times that the file is sent; `None` for ever, until stopped.
    pub loops: Option<u64>,
    /// The longest time for which [`Pace::Recorded`] waits between two frames. Where recorded times
    /// jump further, forwards or back, they go on from there: see [`Replay::jumps`].
    pub longest_gap: Duration,
}

impl Default for Replay {
    /// Once, as fast as possible.
    fn default() -> Replay {
        Replay {
            pace: Pace::Fast,
            loops: Some(1),
            longest_gap: DEFAULT_LONGEST_GAP,
        }
    }
}

/// Jumps of the recorded time that are not waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Jumps {
    /// Number of jumps forwards.
    pub count: usize,
    /// The longest of them.
    pub longest: Duration,
}

impl Replay {
    /// The jumps of the recorded time over [`Replay::longest_gap`].
    pub fn jumps(&self, recording: &Recording) -> Jumps {
        RecordedTimes::new(recording, self.longest_gap).jumps
    }

    /// Sends the frames of `recording` in order into `port`, until done or `stopped`. A frame that
    /// the port does not take is offered again until it does.
    pub fn run(
        &self,
        recording: &Recording,
        port: &mut dyn FramePort,
        stopped: &dyn Fn() -> bool,
    ) -> ReplayStats {
        self.run_by(&mut MonotonicClock::default(), recording, port, stopped)
    }

    /// Does what [`Replay::run`] does, by another clock.
    pub fn run_by(
        &self,
        clock: &mut dyn ReplayClock,
        recording: &Recording,
        port: &mut dyn FramePort,
        stopped: &dyn Fn() -> bool,
    ) -> ReplayStats {
        let mut stats = ReplayStats::default();
        let mut schedule = Schedule::new(self, recording, clock.now());
        let mut refusals = 0;
        while self.loops.is_none_or(|loops| stats.loops < loops) {
            let mut next = 0;
            while next < recording.len() {
                if stopped() {
                    return stats;
                }
                let now = clock.now();
                let mut list: [&[u8]; BATCH] = [&[]; BATCH];
                let mut count = 0;
                let mut early = None;
                for entry in &mut list {
                    let Some(frame) = recording.frame(next + count) else {
                        break;
                    };
                    let due = schedule.due(next + count, frame.time);
                    if due > now {
                        early = Some(due - now);
                        break;
                    }
                    *entry = frame.data;
                    count += 1;
                }
                let list = list.get(..count).unwrap_or_default();
                if list.is_empty() {
                    if let Some(time) = early {
                        clock.wait(time);
                    }
                    continue;
                }
                let taken = port.send(list).min(count);
                let bytes = list.iter().take(taken).map(|frame| frame.len() as u64);
                stats.frames += taken as u64;
                stats.bytes += bytes.sum::<u64>();
                stats.refused += (count - taken) as u64;
                next += taken;
                refusals = if taken == 0 { refusals + 1 } else { 0 };
                match refusals {
                    0 => {}
                    1..YIELD_AFTER => std::hint::spin_loop(),
                    YIELD_AFTER..SLEEP_AFTER => thread::yield_now(),
                    _ => {
                        refusals = SLEEP_AFTER;
                        thread::sleep(SPIN_TIME);
                    }
                }
            }
            stats.loops += 1;
            schedule.next_loop();
        }
        stats
    }
}

/// The recorded times, without the jumps that are not waited for.
struct RecordedTimes {
    /// What is taken off the times, in nanoseconds, from which frame on. The first is for frame 0.
    shifts: Vec<(usize, i128)>,
    /// The latest time of a frame.
    end: Duration,
    jumps: Jumps,
}

impl RecordedTimes {
    fn new(recording: &Recording, longest_gap: Duration) -> RecordedTimes {
        let most = longest_gap.as_nanos() as i128;
        let first = recording.frame(0).map_or(0, |frame| frame.time).into();
        let mut times = RecordedTimes {
            shifts: vec![(0, first)],
            end: Duration::ZERO,
            jumps: Jumps::default(),
        };
        // The latest time since the last jump: a few frames that are out of order change nothing.
        let (mut latest, mut shift) = (first, first);
        for (number, frame) in recording.frames().enumerate() {
            let time = i128::from(frame.time);
            let step = time - latest;
            if step > most {
                times.jumps.count += 1;
                times.jumps.longest = times.jumps.longest.max(duration(step));
                shift += step - most;
            } else if step < -most {
                shift += step;
            } else {
                latest = latest.max(time);
                times.end = times.end.max(duration(time - shift));
                continue;
            }
            latest = time;
            times.shifts.push((number, shift));
            times.end = times.end.max(duration(time - shift));
        }
        times
    }

    /// The time of a frame, since that of the first one.
    fn since_first(&self, number: usize, time: u64) -> Duration {
        let next = self.shifts.partition_point(|(from, _)| *from <= number);
        let shift = self.shifts.get(next.wrapping_sub(1));
        duration(i128::from(time) - shift.map_or(0, |(_, shift)| *shift))
    }
}

/// A time in nanoseconds; none if it is negative.
fn duration(nanoseconds: i128) -> Duration {
    let nanoseconds = u64::try_from(nanoseconds.max(0)).unwrap_or(u64::MAX);
    Duration::from_nanos(nanoseconds)
}

/// The times at which frames are to be sent.
struct Schedule {
    pace: Pace,
    start: Duration,
    /// Frames of the loops before this one, and the time that they took as recorded.
    before: u128,
    elapsed: Duration,
    /// Number of frames of one loop.
    frames: u128,
    recorded: RecordedTimes,
}

impl Schedule {
    fn new(replay: &Replay, recording: &Recording, start: Duration) -> Schedule {
        Schedule {
            pace: replay.pace,
            start,
            before: 0,
            elapsed: Duration::ZERO,
            frames: recording.len() as u128,
            recorded: RecordedTimes::new(recording, replay.longest_gap),
        }
    }

    fn next_loop(&mut self) {
        self.before = self.before.saturating_add(self.frames);
        self.elapsed = self.elapsed.saturating_add(self.recorded.end);
    }

    fn due(&self, number: usize, time: u64) -> Duration {
        let since = match self.pace {
            Pace::Fast => Duration::ZERO,
            Pace::Recorded => {
                let time = self.recorded.since_first(number, time);
                self.elapsed.saturating_add(time)
            }
            Pace::Rate(rate) => {
                let frames = self.before.saturating_add(number as u128);
                let time = frames.saturating_mul(1_000_000_000) / u128::from(rate.get());
                Duration::from_nanos(u64::try_from(time).unwrap_or(u64::MAX))
            }
        };
        self.start.saturating_add(since)
    }
}
