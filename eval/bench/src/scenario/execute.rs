//! Runs scenarios on a testbed: in the emulated machine, as two machines that run side by side.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use postern_lab::job::{Job, JobOutcome};
use postern_lab::testbed::{EmulatedTestbed, Testbed, VIEWS};

use super::definition::{self, Scenario};
use crate::traffic::Trace;

/// Machines that run side by side; each has one CPU. Which scenario goes to which is always the
/// same, so that the same measurement gives the same counts.
const MACHINES: usize = 2;

/// Real time that the machines have.
const TIMEOUT: Duration = Duration::from_secs(1800);

/// Memory of a machine, in MiB, without what its jobs send and receive.
const MEMORY_MB: u64 = 512;

/// Parameter of kvm-intel, besides those with which it makes views. Without `preemption_timer` each
/// tick of a guest's timer costs an exit that KVM counts as an interrupt, rather than one that it
/// does not tell from others.
const PARAMETER: &str = "preemption_timer=0";

/// Beginning of the line that a job prints first; its name follows.
const NAME_LINE: &str = "postern-demo: ";

/// Outcomes of all jobs, and the machine that they ran on.
#[derive(Debug)]
pub struct Outcomes {
    /// In the order of the jobs.
    pub jobs: Vec<Result<JobOutcome>>,
    /// The CPU that ran the VMs.
    pub machine: String,
    /// The kernel that ran the VMs.
    pub kernel: String,
}

/// Runs scenarios; `say` gets a line for each as it begins.
///
/// # Errors
///
/// When the testbed cannot run jobs at all.
pub fn run(
    testbed: &Testbed,
    scenarios: &[Scenario],
    inputs: &[Trace],
    say: &(dyn Fn(&str) + Sync),
) -> Result<Outcomes> {
    let jobs = scenarios
        .iter()
        .map(|scenario| scenario.job(testbed.programs(), inputs))
        .collect::<Result<Vec<_>>>()?;
    run_jobs(testbed, &jobs, definition::memory_mb(inputs), say)
}

/// Runs jobs, which need `memory_mb` of a machine beyond what every machine has; `say` gets a line for
/// each as it begins.
///
/// # Errors
///
/// When the testbed cannot run jobs at all.
pub fn run_jobs(
    testbed: &Testbed,
    jobs: &[Job],
    memory_mb: u64,
    say: &(dyn Fn(&str) + Sync),
) -> Result<Outcomes> {
    let count = jobs.len();
    let mut all = vec![about(testbed); MACHINES];
    all.extend(jobs.iter().cloned().map(|mut job| {
        job.script = format!("echo '{NAME_LINE}{}'\n{}", job.name, job.script);
        job
    }));
    let jobs = all;
    let begun = AtomicUsize::new(0);
    let progress = |line: &str| {
        if let Some(name) = line.strip_prefix(NAME_LINE) {
            let number = 1 + begun.fetch_add(1, Ordering::Relaxed);
            say(&format!("[{number:>2}/{count}] {name}"));
        }
    };
    let mut outcomes = match testbed {
        Testbed::Emulated(emulated) => run_emulated(emulated, &jobs, memory_mb, &progress)?,
        Testbed::Host(_) => jobs
            .iter()
            .map(|job| {
                progress(&format!("{NAME_LINE}{}", job.name));
                let outcome = testbed.run(std::slice::from_ref(job), "")?.pop();
                outcome.ok_or_else(|| anyhow!("it was not run"))
            })
            .collect(),
    };
    let abouts: Result<Vec<JobOutcome>> = outcomes.drain(..MACHINES).collect();
    let about = abouts
        .and_then(|mut abouts| abouts.remove(0).success())
        .context("asking what machine it is")?;
    let about = about.text();
    let mut lines = about.lines().map(|line| line.trim().to_owned());
    let mut line = || lines.next().unwrap_or_else(|| "unknown".to_owned());
    let (kernel, cpu) = (line(), line());
    Ok(Outcomes {
        jobs: outcomes,
        kernel,
        machine: match testbed {
            Testbed::Emulated(_) => format!("Bochs, {cpu}"),
            Testbed::Host(_) => cpu,
        },
    })
}

/// A job that asks for kernel and CPU. In the emulated machine it also waits until the kernel is
/// done with booting, and has KVM not spin for vCPUs that halt: as one instruction is ten
/// nanoseconds there, that would be a large part of what the host executes.
fn about(testbed: &Testbed) -> Job {
    let script = "uname -r; sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo | head -n 1";
    Job::new(
        "about",
        &match testbed {
            Testbed::Emulated(_) => {
                format!("{script}\nsleep 3; echo 0 >/sys/module/kvm/parameters/halt_poll_ns")
            }
            Testbed::Host(_) => script.to_owned(),
        },
    )
}

/// Runs jobs in machines side by side; the outcomes are in the order of the jobs.
fn run_emulated(
    testbed: &EmulatedTestbed,
    jobs: &[Job],
    memory_mb: u64,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<Vec<Result<JobOutcome>>> {
    let memory_mb = u32::try_from(MEMORY_MB + memory_mb).context("sizing the machine's memory")?;
    let machine = testbed
        .machine(&format!("{VIEWS} {PARAMETER}"))?
        .timeout(TIMEOUT)
        .memory_mb(memory_mb)
        .watched(progress);
    let share =
        |first: usize| -> Vec<Job> { jobs.iter().skip(first).step_by(MACHINES).cloned().collect() };
    let outcomes: Vec<_> = thread::scope(|scope| {
        let machines: Vec<_> = (0..MACHINES)
            .map(|first| {
                let (machine, jobs) = (machine.clone(), share(first));
                scope.spawn(move || machine.run_all(&jobs))
            })
            .collect();
        machines
            .into_iter()
            .map(|machine| match machine.join() {
                Ok(outcome) => outcome,
                Err(panic) => std::panic::resume_unwind(panic),
            })
            .collect()
    });

    let mut shares = Vec::new();
    for outcome in outcomes {
        let outcome = outcome?;
        // The death belongs to the job that was not finished; the others after it had no chance.
        let death = outcome.death.map(anyhow::Error::from);
        let rest = std::iter::from_fn(|| Some(Err(anyhow!("its machine died in an earlier run"))));
        let finished = outcome.jobs.into_iter().map(Ok);
        shares.push(finished.chain(death.map(Err)).chain(rest));
    }
    Ok((0..jobs.len())
        .map(|n| shares[n % MACHINES].next().expect("shares do not end"))
        .collect())
}
