//! A queue's thread: frames from the NIC to the interface and back, burst by burst.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use postern_guest::linux::PathService;
use postern_guest::nic::Nic;
use postern_tap::{BATCH, Tap};
use rustix::io::Errno;

use crate::answers::Answers;
use crate::counters::{Counters, Shared};
use crate::idle::{Idle, Woken, is_to_end, wait_for};
use crate::outward::{Outward, Progress};
use crate::transfer;

/// Bursts after which the counters are shown although the thread does not sleep.
const SHOW_EVERY: u32 = 64;
/// Requests that are refused in a row, after which the port is taken to be lost.
const MOST_REFUSED: u64 = 16;

/// One queue of the port and one of the interface.
#[derive(Debug)]
pub struct Worker {
    pub nic: Nic<PathService>,
    pub idle: Idle,
    pub tap: Tap,
    /// Readable when the thread is to end.
    pub stop: Arc<OwnedFd>,
    /// Frames to the NIC.
    pub outward: Outward,
    pub answers: Answers,
    pub counters: Counters,
    pub shared: Arc<Shared>,
}

impl Worker {
    /// Moves frames until the thread is to end.
    ///
    /// # Errors
    ///
    /// The interface is gone, the device has lost its interrupt, or the NIC refuses all requests.
    pub fn run(&mut self) -> Result<()> {
        let (mut look_at_interface, mut bursts) = (true, 0);
        loop {
            let received = self.receive()?;
            let progress = self.send(look_at_interface, received != 0)?;
            let more = received == BATCH || self.nic.rx_ready();
            bursts += 1;
            if bursts == SHOW_EVERY {
                bursts = 0;
                self.show()?;
                if is_to_end(&self.stop, Duration::ZERO)? {
                    return Ok(());
                }
            }
            look_at_interface = match progress {
                Progress::More => true,
                Progress::Done if more => false,
                Progress::Done => {
                    bursts = 0;
                    match self.sleep()? {
                        Woken::Stop => return self.show(),
                        Woken::Interface => true,
                        Woken::Nic => false,
                        Woken::Port => {
                            self.nic.check().context(crate::LostPort)?;
                            false
                        }
                    }
                }
                Progress::Stuck => {
                    self.show()?;
                    return Err(anyhow::Error::msg(crate::LostPort));
                }
                Progress::Held(_) if more => false,
                Progress::Held(time) => {
                    self.show()?;
                    if is_to_end(&self.stop, time)? {
                        return Ok(());
                    }
                    false
                }
            };
        }
    }

    /// Takes a burst of frames from the NIC to the interface; gives their number.
    fn receive(&mut self) -> Result<usize> {
        let (tap, counters) = (&self.tap, &mut self.counters);
        let mut broken = None;
        let received = self.nic.rx_burst(BATCH, |frame| {
            match transfer::write(tap, &frame) {
                Ok(()) => {
                    counters.to_interface_frames += 1;
                    counters.to_interface_bytes += frame.len() as u64;
                }
                // What a TAP says that is down.
                Err(Errno::IO | Errno::NETDOWN) => counters.dropped_interface_down += 1,
                Err(
                    Errno::AGAIN | Errno::INVAL | Errno::NOMEM | Errno::NOBUFS | Errno::MSGSIZE,
                ) => {
                    counters.dropped_interface += 1;
                }
                Err(errno) => broken = Some(errno),
            }
        });
        match broken {
            None => Ok(received),
            Some(errno) => Err(errno).with_context(|| format!("writing to {}", tap.name())),
        }
    }

    /// Sends what waits to the NIC, and a burst of frames of the interface, if there is reason to look
    /// there: `fresh` frames of the NIC are one where their answers come at once.
    fn send(&mut self, look_at_interface: bool, fresh: bool) -> Result<Progress> {
        let (tap, outward) = (&self.tap, &mut self.outward);
        if outward.is_empty() && (look_at_interface || fresh && self.answers.are_likely()) {
            let filled = outward.fill(tap, &mut self.nic, &mut self.counters, fresh);
            let found = filled.with_context(|| format!("reading from {}", tap.name()))?;
            if !look_at_interface {
                self.answers.note(found != 0);
            }
        }
        Ok(outward.send(&mut self.nic, &mut self.counters))
    }

    /// Sleeps until there is something to do; says what that may be.
    fn sleep(&mut self) -> Result<Woken> {
        self.show()?;
        match &mut self.idle {
            Idle::Interval(time) => wait_for(&self.stop, &self.tap, *time),
            Idle::Doorbell(doorbell) => {
                let woken = doorbell.sleep(&mut self.nic);
                let stats = doorbell.sleeper().stats();
                self.counters.sleeps = stats.sleeps;
                self.counters.interrupts = stats.interrupts;
                self.counters.spurious = stats.spurious;
                woken
            }
        }
    }

    /// Shows others the counters.
    ///
    /// # Errors
    ///
    /// The NIC refuses all requests.
    fn show(&mut self) -> Result<()> {
        let stats = self.nic.stats();
        let refused = stats.refused - self.counters.refused;
        let served = stats.calls - self.counters.requests - refused;
        self.counters.requests = stats.calls;
        self.counters.refused = stats.refused;
        self.counters.malformed = stats.malformed;
        self.counters.rings = self.nic.service().rings();
        self.shared.store(&self.counters);
        if refused >= MOST_REFUSED && served == 0 {
            self.nic.check().context(crate::LostPort)?;
        }
        Ok(())
    }
}
