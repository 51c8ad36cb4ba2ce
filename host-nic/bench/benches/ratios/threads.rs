//! Two senders on two processors.

use std::sync::atomic::{
    AtomicU64, AtomicUsize,
    Ordering::{Relaxed, SeqCst},
};
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::Serialize;

use crate::host::{Shares, Times, involuntary_switches};
use crate::measure::Turns;
use crate::spread::Spread;
use postern_nic_bench::case::{Case, Pattern};
use postern_nic_bench::memory::BenchNic;
use postern_nic_bench::nic::Traffic;

/// The result for two senders against one.
#[derive(Debug, Serialize)]
pub struct Pair {
    /// Length of a frame in bytes, without FCS.
    pub length: u32,
    /// Number of frames of a call.
    pub batch: u32,
    /// Number of frames of two senders in the time in which one sends one.
    pub ratio: Spread,
    /// The ratio in rounds in which no sender was interrupted by other work, if there are any.
    pub undisturbed: Option<Spread>,
    /// Number of such rounds.
    pub undisturbed_rounds: usize,
    /// Share of the processors' time that was used while one sent, in percent. One process alone on
    /// two idle processors makes 50.
    pub one_busy: f64,
    /// Share of the processors' time that was used while two sent, in percent.
    pub two_busy: f64,
    /// Greatest share of the processors' time that a hypervisor gave to other VMs, in percent.
    pub stolen: f64,
}

/// One round.
struct Round {
    /// Time in which each sender sent alone.
    alone: [Duration; 2],
    /// Time in which both sent together, until the last was done.
    together: Duration,
    /// Whether a sender was interrupted by other work.
    disturbed: bool,
}

/// Measures two senders: port 0 sends to port 1 and port 2 to port 3, each from a processor of its
/// own, alone and together, an equal number of steps. Returns nothing if there are no two
/// processors.
pub fn pair(length: u32, batch: u32, turns: &Turns) -> Option<Pair> {
    let allowed = sched_getaffinity(None).ok()?;
    let mut cpus = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu));
    let cpus = [cpus.next()?, cpus.next()?];
    let case = Case {
        pattern: Pattern::Unicast,
        ports: 4,
        length,
        batch,
        slots: 128,
    };
    let nic = BenchNic::new(case.geometry().unwrap()).unwrap();
    let mut senders = [0, 2].map(|port| Traffic::new(&nic, case, port));
    // A round takes long beside the starting and stopping of threads.
    let steps = steps_of(&mut senders[0], turns.length * 10);
    let mut times = [Duration::ZERO; 2];
    let mut shares = [const { Vec::new() }; 2];
    let mut rounds = Vec::new();
    for _ in 0..turns.rounds {
        let mut disturbed = false;
        let start = Times::now();
        for (number, sender) in senders.iter_mut().enumerate() {
            let (time, clean) = together(&mut [sender], &cpus[number..], steps);
            times[number] = time;
            disturbed |= !clean;
        }
        let middle = Times::now();
        let [first, second] = &mut senders;
        let (time, clean) = together(&mut [first, second], &cpus, steps);
        disturbed |= !clean;
        shares[0].push(start.until(middle));
        shares[1].push(middle.until(Times::now()));
        rounds.push(Round {
            alone: times,
            together: time,
            disturbed,
        });
    }
    senders.iter().for_each(Traffic::check);
    let ratios = |which: &dyn Fn(&Round) -> bool| -> Vec<f64> {
        let chosen = rounds.iter().filter(|round| which(round));
        chosen
            .map(|round| {
                let alone: Duration = round.alone.iter().sum();
                alone.as_secs_f64() / round.together.as_secs_f64()
            })
            .collect()
    };
    let undisturbed = ratios(&|round| !round.disturbed);
    let mean = |shares: &[Shares]| shares.iter().map(|s| s.busy).sum::<f64>() / shares.len() as f64;
    Some(Pair {
        length,
        batch,
        ratio: Spread::of(ratios(&|_| true)),
        undisturbed_rounds: undisturbed.len(),
        undisturbed: (!undisturbed.is_empty()).then(|| Spread::of(undisturbed)),
        one_busy: mean(&shares[0]),
        two_busy: mean(&shares[1]),
        stolen: shares
            .iter()
            .flatten()
            .map(|s| s.stolen)
            .fold(0.0, f64::max),
    })
}

/// A number of steps that take a sender `length` or longer.
fn steps_of(sender: &mut Traffic<'_>, length: Duration) -> u64 {
    let mut steps = 1;
    loop {
        let start = Instant::now();
        sender.run(steps);
        let time = start.elapsed();
        if time >= length {
            return steps;
        }
        steps *= 2;
    }
}

/// The time until all senders have made their steps, and whether none was interrupted.
fn together(senders: &mut [&mut Traffic<'_>], cpus: &[usize], steps: u64) -> (Duration, bool) {
    let (all, ready) = (senders.len(), AtomicUsize::new(0));
    let switches = AtomicU64::new(0);
    let one = |sender: &mut Traffic<'_>, cpu: usize| {
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
