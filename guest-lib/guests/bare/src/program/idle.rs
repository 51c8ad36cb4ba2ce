//! Waiting while there is nothing to do, and giving up after a time.
#![deny(unsafe_code)]

use core::hint;

use postern_guest::nic::Nic;
use postern_guest::service::Service;
use postern_guest_bare::cmdline::GuestOptions;

use super::error::RoleError;
use crate::syscall;

/// Number of loops that count as a tick where there is no timer.
const SPINS: u32 = 10_000;

/// A role's clock while it waits: it gives up when no frame has moved for too long.
pub struct Idle {
    timer: bool,
    /// Whether who waits for frames has the sender told to wake it.
    arms: bool,
    /// How long to wait while no frame moves, in ticks.
    patience: u64,
    /// The time, in ticks.
    now: u64,
    /// Time at which a frame moved last, in ticks.
    moved: u64,
    /// Number of times that it slept.
    waits: u64,
}

impl Idle {
    /// A clock with the patience that the command line gives.
    pub fn new(options: &GuestOptions<'_>) -> Idle {
        Idle {
            timer: options.timer != 0,
            arms: options.sleep,
            patience: options.patience,
            now: 0,
            moved: 0,
            waits: 0,
        }
    }

    /// Sleeps until the next tick; gives the time in ticks.
    pub fn sleep(&mut self) -> u64 {
        self.waits += 1;
        if self.timer {
            self.now = syscall::wait();
        } else {
            (0..SPINS).for_each(|_| hint::spin_loop());
            self.now += 1;
        }
        self.now
    }

    /// Number of times that it slept.
    pub fn waits(&self) -> u64 {
        self.waits
    }

    /// Ticks since a frame moved.
    pub fn since(&self) -> u64 {
        self.now - self.moved
    }

    /// Notes that a frame moved, or that none could until now.
    pub fn moved(&mut self) {
        self.moved = self.now;
    }

    /// Waits for frames: until the next tick or, with armed RX queues, until a sender has been told of
    /// that. `what` is awaited, and `frames` frames have moved so far.
    ///
    /// # Errors
    ///
    /// [`RoleError::Stalled`], as in [`Idle::wait`].
    pub fn wait_for_frames<S: Service>(
        &mut self,
        nic: &mut Nic<S>,
        what: &'static str,
        frames: u64,
    ) -> Result<(), RoleError> {
        if !self.arms {
            return self.wait(what, frames);
        }
        if nic.arm() {
            while nic.is_armed() {
                self.wait(what, frames)?;
            }
            nic.disarm();
        }
        Ok(())
    }

    /// Sleeps until the next tick. `what` is awaited, and `frames` frames have moved so far.
    ///
    /// # Errors
    ///
    /// [`RoleError::Stalled`] when no frame has moved for longer than the patience.
    pub fn wait(&mut self, what: &'static str, frames: u64) -> Result<(), RoleError> {
        // The first tick says what time it is.
        let first = self.now == 0;
        self.sleep();
        if first {
            self.moved();
        }
        if self.since() > self.patience {
            return Err(RoleError::Stalled {
                ticks: self.patience,
                what,
                frames,
            });
        }
        Ok(())
    }
}
