//! Taps: the ends of a capture at which frames are seen.
#![forbid(unsafe_code)]

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::queue::Record;
use super::shared::{Interface, Shared, now};
use crate::frame_port::FramePort;

/// The way that a frame went, seen from the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the port into the switch.
    In,
    /// From the switch out of the port.
    Out,
}

/// The end of a capture that sees the frames of one interface. It is cheap to clone, and any thread
/// may use it.
#[derive(Clone, Debug)]
pub struct Tap {
    pub(super) shared: Arc<Shared>,
    pub(super) interface: Arc<Interface>,
    /// Number of the interface.
    pub(super) number: u32,
}

impl Tap {
    /// Captures a frame that passes now. Never waits for the file.
    pub fn frame(&self, direction: Direction, frame: &[u8]) {
        self.frame_at(now(), direction, frame);
    }

    /// Counts frames that were lost before they came here.
    pub fn count_lost(&self, frames: u64) {
        self.interface.lost.fetch_add(frames, Relaxed);
    }

    /// Captures a frame that passed at `time`, in nanoseconds since the epoch.
    pub fn frame_at(&self, time: u64, direction: Direction, frame: &[u8]) {
        let kept = frame.len().min(self.shared.snap);
        let pushed = self.shared.queue.push(&Record {
            time,
            interface: self.number,
            // epb_flags: bits 0 and 1.
            flags: match direction {
                Direction::In => 1,
                Direction::Out => 2,
            },
            original: u32::try_from(frame.len()).unwrap_or(u32::MAX),
            data: frame.get(..kept).unwrap_or(frame),
        });
        if !pushed {
            self.interface.lost.fetch_add(1, Relaxed);
        }
    }
}

/// A port whose frames are captured: those that it takes, and those that it gives.
#[derive(Debug)]
pub struct Tapped<P> {
    port: P,
    tap: Tap,
}

impl<P: FramePort> Tapped<P> {
    /// Captures what passes `port`.
    pub fn new(port: P, tap: Tap) -> Tapped<P> {
        Tapped { port, tap }
    }
}

impl<P: FramePort> FramePort for Tapped<P> {
    fn send(&mut self, frames: &[&[u8]]) -> usize {
        let time = now();
        let taken = self.port.send(frames);
        for frame in frames.iter().take(taken) {
            self.tap.frame_at(time, Direction::In, frame);
        }
        taken
    }

    fn receive(&mut self, most: usize, sink: &mut dyn FnMut(&[u8])) -> usize {
        let tap = &self.tap;
        let time = now();
        self.port.receive(most, &mut |frame| {
            tap.frame_at(time, Direction::Out, frame);
            sink(frame);
        })
    }

    fn bells(&self) -> Vec<BorrowedFd<'_>> {
        self.port.bells()
    }

    fn arm(&mut self) -> bool {
        self.port.arm()
    }

    fn disarm(&mut self) {
        self.port.disarm();
    }
}
