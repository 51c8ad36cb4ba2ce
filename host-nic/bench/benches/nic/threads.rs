//! Two senders on two processors.

use std::sync::atomic::{
    AtomicU64, AtomicUsize,
    Ordering::{Relaxed, SeqCst},
};
use std::time::{Duration, Instant};

use postern_guest::direct::Direct;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::Serialize;

use crate::host::{Load, Shares, involuntary_switches};
use crate::measure::{MIN_ROUNDS, Turns};
use crate::spread::Spread;
use postern_nic_bench::case::{Case, Pattern};
use postern_nic_bench::memory::BenchNic;
use postern_nic_bench::traffic::Traffic;

/// The result for two senders against one.
#[derive(Debug, Serialize)]
pub struct Pair {
    /// Length of a frame in bytes, without FCS.
    pub length: u32,
    /// Number of frames of a call.
    pub batch: u32,
    /// The receiver of each sender.
    pub receivers: [u32; 2],
    /// Number of frames of two senders in the time in which one sends one.
    pub ratio: Spread,
    /// The ratio in rounds in which no sender was interrupted by other work, if there are any.
    pub undisturbed: Option<Spread>,
    /// Number of rounds, and of those that were undisturbed.
    pub rounds: [usize; 2],
    /// Number of calls, and of those made because one had not taken all that was sent.
    pub calls: [u64; 2],
    /// Shares of the processors' time while two sent.
    pub load: Shares,
}

/// One round.
struct Round {
    /// Time in which each sender sent alone.
    alone: Duration,
    /// Time in which both sent together, until the last was done.
    together: Duration,
    /// Whether a sender was interrupted by other work.
    disturbed: bool,
}

/// Measures two senders to two receivers and to one, in several cases. Returns nothing if this
/// program may not use two processors.
pub fn measure(turns: &Turns) -> Option<Vec<Pair>> {
    let allowed = sched_getaffinity(None).ok()?;
    let mut cpus = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu));
    let cpus = [cpus.next()?, cpus.next()?];
    let mut pairs = Vec::new();
    for (length, batch) in [(64, 1), (64, 32), (1500, 32)] {
        for receivers in [[1, 3], [1, 1]] {
            pairs.push(pair(length, batch, receivers, cpus, turns));
        }
    }
    Some(pairs)
}

/// Number of frames that a receiver takes at once, or more.
const BURST: u32 = 32;

/// Measures ports 0 and 2 as senders, each on a processor of its own, alone and together, an equal
/// number of steps. Each plays the receiver of its own frames, which takes them in bursts, as one does
/// that has several senders.
fn pair(length: u32, batch: u32, receivers: [u32; 2], cpus: [usize; 2], turns: &Turns) -> Pair {
    let case = Case {
        pattern: Pattern::Unicast,
        ports: 4,
        length,
        batch,
    };
    let geometry = case.geometry(None, None).unwrap();
    let nic = BenchNic::new(geometry).unwrap();
    let mut senders = [(0, receivers[0]), (2, receivers[1])].map(|(from, to)| {
        let (direct, _) = nic.open(geometry.port(from).unwrap());
        Traffic::between(&nic, case, from, &[to], direct).received_in_bursts(BURST)
    });
    // A round takes long beside the starting and stopping of threads.
    let steps = steps_of(&mut senders[0], turns.length * 10);
    let mut rounds = Vec::new();
    let (start, begin) = (Instant::now(), Load::now());
    while start.elapsed() < turns.seconds || rounds.len() < MIN_ROUNDS {
        let [first, second] = &mut senders;
        let (one, clean) = together(&mut [first], &cpus[..1], steps);
        let (other, clean_too) = together(&mut [second], &cpus[1..], steps);
        let [first, second] = &mut senders;
        let (both, clean_both) = together(&mut [first, second], &cpus, steps);
        rounds.push(Round {
            alone: one + other,
            together: both,
            disturbed: !(clean && clean_too && clean_both),
        });
    }
    senders.iter().for_each(Traffic::check);
    let ratios = |which: &dyn Fn(&&Round) -> bool| -> Vec<f64> {
        let ratio = |round: &Round| round.alone.as_secs_f64() / round.together.as_secs_f64();
        rounds.iter().filter(which).map(ratio).collect()
    };
    let undisturbed = ratios(&|round| !round.disturbed);
    let repeated = senders.iter().map(Traffic::repeated).sum::<u64>();
    Pair {
        length,
        batch,
        receivers,
        ratio: Spread::of(ratios(&|_| true)),
        rounds: [rounds.len(), undisturbed.len()],
        undisturbed: (!undisturbed.is_empty()).then(|| Spread::of(undisturbed)),
        calls: [4 * (steps + 1) * rounds.len() as u64 + repeated, repeated],
        load: begin.until(Load::now()),
    }
}

/// A number of steps that take a sender `length` or longer.
fn steps_of(sender: &mut Traffic<'_, Direct>, length: Duration) -> u64 {
    let mut steps = 1;
    loop {
        let start = Instant::now();
        sender.run(steps);
        if start.elapsed() >= length {
            return steps;
        }
        steps *= 2;
    }
}

/// The time until all senders have made their steps, and whether none was interrupted.
fn together(
    senders: &mut [&mut Traffic<'_, Direct>],
    cpus: &[usize],
    steps: u64,
) -> (Duration, bool) {
    let (all, ready) = (senders.len(), AtomicUsize::new(0));
    let switches = AtomicU64::new(0);
    let one = |sender: &mut Traffic<'_, Direct>, cpu: usize| {
        let mut only = CpuSet::new();
        only.set(cpu);
        sched_setaffinity(None, &only).unwrap();
        sender.run(1);
        let before = involuntary_switches();
        // Threads wait without sleeping, so that all begin at one moment.
        ready.fetch_add(1, SeqCst);
        while ready.load(SeqCst) != all {
            std::hint::spin_loop();
        }
        let start = Instant::now();
        sender.run(steps);
        let end = Instant::now();
        switches.fetch_add(involuntary_switches() - before, Relaxed);
        (start, end)
    };
    let spans: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = senders
            .iter_mut()
            .zip(cpus)
            .map(|(sender, cpu)| scope.spawn(|| one(sender, *cpu)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    let start = spans.iter().map(|span| span.0).min().unwrap();
    let end = spans.iter().map(|span| span.1).max().unwrap();
    (end - start, switches.into_inner() == 0)
}
