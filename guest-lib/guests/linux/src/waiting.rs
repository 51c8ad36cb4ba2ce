//! Waiting while nothing moves.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

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
            _ if self.moved.elapsed() > self.limit => {
                bail!(
                    "nothing moved in {} s: waiting for {what}",
                    self.limit.as_secs()
                )
            }
            _ => thread::sleep(SLEEP),
        }
        Ok(())
    }
}
