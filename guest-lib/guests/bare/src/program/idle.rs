//! Waiting when there is nothing to do, and for how long.

use core::hint;

use postern_guest_bare::cmdline::GuestOptions;

use super::error::RoleError;
use crate::syscall;

/// Loops that count as a tick where there is no timer.
const SPINS: u32 = 10_000;

/// Somebody who waits.
pub struct Idle {
    timer: bool,
    patience: u64,
    now: u64,
    /// When something moved last.
    moved: u64,
    waits: u64,
}

impl Idle {
    /// Has the patience that the command line says.
    pub fn new(options: &GuestOptions<'_>) -> Idle {
        Idle {
            timer: options.timer != 0,
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

    /// How often it slept.
    pub fn waits(&self) -> u64 {
        self.waits
    }

    /// Ticks since something moved.
    pub fn since(&self) -> u64 {
        self.now - self.moved
    }

    /// Something moved, or nothing could so far.
    pub fn moved(&mut self) {
        self.moved = self.now;
    }

    /// Sleeps until the next tick, if it still has patience. `frames` is what was achieved so far.
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
