//! Waiting while nothing moves.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use postern_guest::linux::{PathService, Port, Sleeper, Wake};
use postern_guest::nic::Nic;

/// How often to look again at once, and then to let others run, before sleeping.
const LOOKS: u32 = 16;
/// How long to sleep between two looks.
const SLEEP: Duration = Duration::from_micros(200);

/// The patience of a thread.
#[derive(Debug)]
pub struct Patience {
    limit: Duration,
    moved: Instant,
    looks: u32,
}

impl Patience {
    /// Patience for this many seconds.
    pub fn new(seconds: u64) -> Patience {
        Patience {
            limit: Duration::from_secs(seconds),
            moved: Instant::now(),
            looks: 0,
        }
    }

    /// Something moved.
    pub fn moved(&mut self) {
        self.looks = 0;
    }

    /// Waits a little for `what`, since nothing moved; an error once that was for too long.
    pub fn wait(&mut self, what: &str) -> Result<()> {
        if self.looks == 0 {
            self.moved = Instant::now();
        }
        self.looks += 1;
        match self.looks {
            ..LOOKS => thread::yield_now(),
            _ => {
                self.check(what)?;
                thread::sleep(SLEEP);
            }
        }
        Ok(())
    }

    /// An error once nothing has moved for too long.
    fn check(&self, what: &str) -> Result<()> {
        if self.moved.elapsed() > self.limit {
            bail!(
                "nothing moved in {} s: waiting for {what}",
                self.limit.as_secs()
            );
        }
        Ok(())
    }
}

/// How a thread waits for frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Waiting {
    /// It looks again, with pauses of 200 microseconds.
    Poll,
    /// It sleeps until the device interrupts.
    Sleep,
    /// It looks for 100 microseconds, and sleeps then.
    Hybrid,
}

/// How long a thread looks before it sleeps, with [`Waiting::Hybrid`].
const POLLING: Duration = Duration::from_micros(100);

/// What a thread waits for frames by.
#[derive(Debug)]
pub struct Idle(Option<Sleeper>);

impl Idle {
    /// Prepares to wait for frames of a queue.
    pub fn new(port: &Port, waiting: Waiting) -> Result<Idle> {
        if waiting == Waiting::Poll {
            return Ok(Idle(None));
        }
        let mut sleeper = port.sleeper()?;
        if waiting == Waiting::Hybrid {
            sleeper.set_polling(POLLING);
        }
        Ok(Idle(Some(sleeper)))
    }

    /// Waits until frames come, or for that time; a thread that polls waits a little. An error once
    /// nothing has moved for too long.
    pub fn wait(
        &mut self,
        nic: &mut Nic<PathService>,
        most: Duration,
        patience: &mut Patience,
    ) -> Result<()> {
        let Some(sleeper) = &mut self.0 else {
            return patience.wait("frames");
        };
        if patience.looks == 0 {
            patience.moved = Instant::now();
            patience.looks = 1;
        }
        match sleeper.wait(nic, Some(most)).context("sleeping")? {
            Wake::Timeout => patience.check("frames"),
            Wake::Frames | Wake::Signal => Ok(()),
        }
    }

    /// Number of times that the thread slept.
    pub fn sleeps(&self) -> u64 {
        self.0.as_ref().map_or(0, |sleeper| sleeper.stats().sleeps)
    }
}
