//! A thread that moves from one CPU to the next.

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The moves of the calling thread.
#[derive(Debug)]
pub struct Mover {
    cpus: Vec<usize>,
    /// Index in `cpus` of the CPU where the thread was put last.
    at: usize,
    every: u64,
    bursts: u64,
    moves: u64,
}

impl Mover {
    /// Moves the calling thread after each `every` bursts, or never if that is 0. Threads of different
    /// numbers begin at different CPUs.
    pub fn new(every: u64, thread: u32) -> Result<Mover> {
        let set = sched_getaffinity(None).context("asking for the CPUs")?;
        let cpus: Vec<usize> = (0..CpuSet::MAX_CPU)
            .filter(|&cpu| set.is_set(cpu))
            .collect();
        let mut mover = Mover {
            at: thread as usize % cpus.len().max(1),
            cpus,
            every,
            bursts: 0,
            moves: 0,
        };
        if every != 0 {
            mover.move_on()?;
        }
        Ok(mover)
    }

    /// Notes a burst, after which the thread may move.
    pub fn burst(&mut self) -> Result<()> {
        if self.every == 0 {
            return Ok(());
        }
        self.bursts += 1;
        match self.bursts.is_multiple_of(self.every) {
            true => self.move_on(),
            false => Ok(()),
        }
    }

    fn move_on(&mut self) -> Result<()> {
        self.at = (self.at + 1) % self.cpus.len().max(1);
        let mut set = CpuSet::new();
        let cpu = self.cpus.get(self.at).copied().unwrap_or_default();
        set.set(cpu);
        sched_setaffinity(None, &set).with_context(|| format!("moving to CPU {cpu}"))?;
        self.moves += 1;
        Ok(())
    }

    /// Number of moves so far.
    pub fn moves(&self) -> u64 {
        self.moves
    }
}
