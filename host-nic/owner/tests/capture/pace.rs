//! When replay sends frames.

use std::cell::Cell;
use std::num::NonZeroU64;
use std::rc::Rc;
use std::time::Duration;

use postern_nic_owner::capture::{Jumps, Pace, Replay, ReplayClock};
use postern_nic_owner::frame_port::FramePort;

use super::net::{Lists, frame};
use super::{parse, pcap};

/// A clock that jumps to what is waited for, and a port that notes when frames come.
#[derive(Clone, Default)]
struct Jump(Rc<Cell<Duration>>);

impl ReplayClock for Jump {
    fn now(&mut self) -> Duration {
        self.0.get()
    }

    fn wait(&mut self, time: Duration) {
        self.0.set(self.0.get() + time);
    }
}

struct Noting(Jump, Vec<u64>);

impl FramePort for Noting {
    fn send(&mut self, frames: &[&[u8]]) -> usize {
        let now = self.0.0.get().as_nanos() as u64;
        self.1.extend(frames.iter().map(|_| now));
        frames.len()
    }

    fn receive(&mut self, _: usize, _: &mut dyn FnMut(&[u8])) -> usize {
        0
    }
}

fn times(pace: Pace, loops: u64, stamps: &[(u32, u32)]) -> Vec<u64> {
    let data = frame(60, 1);
    let packets: Vec<_> = stamps
        .iter()
        .map(|&(seconds, nanos)| (seconds, nanos, 60, &data[..]))
        .collect();
    let recording = parse(&pcap(&packets)).unwrap();
    let mut clock = Jump::default();
    let mut port = Noting(clock.clone(), Vec::new());
    let replay = Replay {
        pace,
        loops: Some(loops),
        ..Replay::default()
    };
    replay.run_by(&mut clock, &recording, &mut port, &|| false);
    port.1
}

#[test]
fn frames_are_sent_when_they_are_due() {
    let stamps = [(10, 500), (10, 700), (10, 600), (12, 0)];
    let second = 1_000_000_000;
    let end = 2 * second - 500;
    assert_eq!(times(Pace::Fast, 2, &stamps), [0; 8]);
    // The third one's time lies before the second's: it follows at once.
    let once = [0, 200, 200, end];
    let twice: Vec<_> = once
        .iter()
        .copied()
        .chain(once.map(|time| end + time))
        .collect();
    assert_eq!(times(Pace::Recorded, 2, &stamps), twice);
    let rate = Pace::Rate(NonZeroU64::new(3).unwrap());
    let expected: Vec<u64> = (0..8).map(|number| number * second / 3).collect();
    assert_eq!(times(rate, 2, &stamps), expected);
}

#[test]
fn replay_by_the_system_clock_takes_at_least_the_recorded_time() {
    let data = frame(60, 1);
    let recording = parse(&pcap(&[(0, 0, 60, &data), (0, 50_000_000, 60, &data)])).unwrap();
    let start = std::time::Instant::now();
    let replay = Replay {
        pace: Pace::Recorded,
        ..Replay::default()
    };
    let stats = replay.run(&recording, &mut Lists::default(), &|| false);
    assert_eq!(stats.frames, 2);
    assert!(start.elapsed() >= Duration::from_millis(50));
}

#[test]
fn jumps_of_the_recorded_time_are_cut_and_told() {
    let second = 1_000_000_000;
    // A clock that was set to the year 2106 and back, and silence of an hour.
    let stamps = [(10, 0), (11, 0), (u32::MAX, 0), (12, 0), (13, 0), (3613, 0)];
    let expected = [0, 1, 61, 61, 62, 122].map(|time| time * second);
    assert_eq!(times(Pace::Recorded, 1, &stamps), expected);
    let data = frame(60, 1);
    let packets = stamps.map(|(seconds, nanos)| (seconds, nanos, 60, &data[..]));
    let recording = parse(&pcap(&packets)).unwrap();
    let longest = Duration::from_secs(u64::from(u32::MAX) - 11);
    let jumps = Replay::default().jumps(&recording);
    assert_eq!(jumps, Jumps { count: 2, longest });
    let patient = Replay {
        longest_gap: Duration::from_secs(4000),
        ..Replay::default()
    };
    assert_eq!(patient.jumps(&recording).count, 1);
}
