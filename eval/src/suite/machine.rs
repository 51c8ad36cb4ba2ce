//! Tests in the emulated machine, or on this host's KVM where it can: several share a boot.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use super::labs::Labs;
use super::libtest;
use super::report::{Report, Verdict};
use crate::job::{Done, Job};
use crate::machine::MachineError;
use crate::place::{self, Place};
use crate::setup::{Flavour, Programs};

/// Parameters of the patched kvm-intel in tests. The emulated processor is of a model that leaks
/// between views; the emulation does not.
pub const VIEWS: &str = "ept_views=1 ept_views_insist=1";

/// What a test boots. Tests that boot the same share one boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Boot {
    /// The kernel.
    pub flavour: Flavour,
    /// The modules.
    pub kvm: Kvm,
}

impl Boot {
    /// The small kernel with the patched KVM: what everything else is made for. Tests of it run on
    /// hardware, too.
    pub const VIEWS: Boot = Boot {
        flavour: Flavour::Small,
        kvm: Kvm::Patched(VIEWS),
    };
}

/// A kind of KVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kvm {
    /// None.
    None,
    /// As it comes with the kernel.
    Stock,
    /// With Postern's patches, and these parameters.
    Patched(&'static str),
    /// The same, able to leave out the defences that the parameters name.
    Weakened(&'static str),
}

/// A test.
pub struct Test {
    /// `area/what holds`.
    pub name: &'static str,
    /// What it needs.
    pub boot: Boot,
    /// What it runs.
    pub job: fn(&Programs) -> Job,
    /// How it is judged.
    pub judge: Judge,
}

/// How the outcome of a job becomes verdicts.
#[derive(Clone, Copy)]
pub enum Judge {
    /// One verdict.
    Whole(fn(Done) -> Result<()>),
    /// The job is a test program of the VM monitor, which the job finds as `test`: each of its tests is
    /// one.
    VmmTests(&'static str),
    /// The job is a test program: each line `ok NAME`, `FAILED NAME: REASON` or `SKIP NAME: REASON` is
    /// a test.
    Lines,
}

/// Machines run at the same time, if there are processors for them.
const MACHINES: usize = 2;
/// Real time that a machine has for all its tests, which watch their own by its clock.
const PATIENCE: Duration = Duration::from_secs(1200);
/// So many tests share a boot at most, so that there is work for all machines.
const SHARED: usize = 8;

/// Runs tests and reports them.
///
/// # Errors
///
/// A machine that cannot be made. One that dies is a failed test.
pub fn run(report: &Report, labs: &mut Labs, tests: &[&Test]) -> Result<()> {
    if tests.is_empty() {
        return Ok(());
    }
    let (on_host, emulated): (Vec<&Test>, Vec<&Test>) = tests
        .iter()
        .partition(|test| test.boot == Boot::VIEWS && place::host_has_views());
    run_on_host(report, &on_host)?;
    for test in &emulated {
        labs.prepare(test)?;
    }
    let queue = Mutex::new(batches(&emulated));
    let failure = Mutex::new(None);
    let workers = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(MACHINES);
    let labs = &*labs;
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(batch) = take(&queue) {
                    if let Err(error) = run_batch(report, labs, batch) {
                        // The others stop after what they are at.
                        lock(&queue).clear();
                        lock(&failure).get_or_insert(error);
                    }
                }
            });
        }
    });
    match lock(&failure).take() {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

fn run_on_host(report: &Report, tests: &[&Test]) -> Result<()> {
    // Those of the VM monitor run there as unit tests.
    let mut tests = tests
        .iter()
        .filter(|test| !matches!(test.judge, Judge::VmmTests(_)))
        .peekable();
    if tests.peek().is_none() {
        return Ok(());
    }
    let place = Place::prepare()?;
    for test in tests {
        let start = Instant::now();
        let job = (test.job)(place.programs());
        let done = place.run(&[job], "").map(|mut done| done.remove(0));
        judge(report, test, done, "hardware", Some(start));
    }
    Ok(())
}

/// Tests in groups that share a boot.
fn batches<'a>(tests: &[&'a Test]) -> Vec<Vec<&'a Test>> {
    let mut groups: Vec<(Boot, Vec<&Test>)> = Vec::new();
    for test in tests {
        match groups.iter_mut().find(|(boot, _)| *boot == test.boot) {
            Some((_, group)) => group.push(test),
            None => groups.push((test.boot, vec![test])),
        }
    }
    let mut batches: Vec<Vec<&Test>> = Vec::new();
    for (_, group) in groups {
        let parts = group.len().div_ceil(SHARED);
        batches.extend(
            group
                .chunks(group.len().div_ceil(parts))
                .map(<[&Test]>::to_vec),
        );
    }
    // Taken from the end.
    batches.reverse();
    batches
}

fn run_batch(report: &Report, labs: &Labs, mut tests: Vec<&Test>) -> Result<()> {
    while let Some(&first) = tests.first() {
        let start = (tests.len() == 1).then(Instant::now);
        let machine = labs.machine(first.boot)?.timeout(PATIENCE);
        let jobs = tests
            .iter()
            .map(|test| labs.job(test))
            .collect::<Result<Vec<Job>>>()?;
        let outcome = match machine.run_all(&jobs) {
            Ok(outcome) => outcome,
            Err(MachineError::Interrupted) => return Err(MachineError::Interrupted.into()),
            Err(error) => return Err(error).context(first.name),
        };
        let finished = outcome.jobs.len();
        for (test, done) in tests
            .drain(..finished)
            .collect::<Vec<_>>()
            .into_iter()
            .zip(outcome.jobs)
        {
            judge(report, test, Ok(done), "emulated", start);
        }
        // The one that the machine died of; those after it get another machine.
        if let Some(death) = outcome.death {
            if tests.is_empty() {
                return Err(death).context("the machine did not switch off");
            }
            judge(
                report,
                tests.remove(0),
                Err(death.into()),
                "emulated",
                start,
            );
        }
    }
    Ok(())
}

/// Tests that share a boot have no time of their own, which `start` would be the beginning of.
fn judge(report: &Report, test: &Test, done: Result<Done>, place: &str, start: Option<Instant>) {
    let elapsed = start.map(|start| start.elapsed());
    let name = format!("{place}/{}", test.name);
    match (done, test.judge) {
        (Err(error), _) => report.line(&name, &Err(error).into(), elapsed),
        (Ok(done), Judge::Whole(judge)) => report.line(&name, &judge(done).into(), elapsed),
        (Ok(done), Judge::Lines) => {
            for (part, verdict) in parse(&done) {
                report.line(&format!("{name}: {part}"), &verdict, None);
            }
        }
        (Ok(done), Judge::VmmTests(program)) => {
            for test in libtest::parse_program(program, &done.text()) {
                report.line(&format!("{name}: {}", test.name), &test.verdict, None);
            }
            if let Some(line) = done.complaints().first() {
                let reason = format!("the kernel complains: {line}");
                report.line(&name, &Verdict::Failed(reason), None);
            }
        }
    }
}

/// The tests that a test program has reported, and its end as one more if that was not in order.
fn parse(done: &Done) -> Vec<(String, Verdict)> {
    let text = done.text();
    let mut tests = Vec::new();
    for line in text.lines() {
        let split = |rest: &str| {
            let (name, reason) = rest.split_once(": ").unwrap_or((rest, "no reason given"));
            (name.to_owned(), reason.to_owned())
        };
        if let Some(name) = line.strip_prefix("ok ") {
            tests.push((name.to_owned(), Verdict::Passed));
        } else if let Some(rest) = line.strip_prefix("FAILED ") {
            let (name, reason) = split(rest);
            tests.push((name, Verdict::Failed(reason)));
        } else if let Some(rest) = line.strip_prefix("SKIP ") {
            let (name, reason) = split(rest);
            tests.push((name, Verdict::Skipped(reason)));
        }
    }
    let failed = tests
        .iter()
        .any(|(_, verdict)| matches!(verdict, Verdict::Failed(_)));
    let end = match done.clone().success() {
        // A program that has told of its failures ends with a failure.
        Err(error) if !(failed && done.status == Some(1) && done.complaints().is_empty()) => {
            Err(error)
        }
        Ok(_) if tests.is_empty() => Err(anyhow!("it ran no test")),
        _ => return tests,
    };
    tests.push(("the program's end".to_owned(), end.into()));
    tests
}

fn take<T>(queue: &Mutex<Vec<T>>) -> Option<T> {
    lock(queue).pop()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(status: i32, output: &str) -> Done {
        Done {
            status: Some(status),
            output: output.as_bytes().to_vec(),
            ..Done::default()
        }
    }

    #[test]
    fn lines_of_a_test_program_become_tests() {
        let tests = parse(&done(
            1,
            "noise\nok a b\nFAILED c: why: because\nSKIP d: no device\n",
        ));
        let expected = [
            ("a b", Verdict::Passed),
            ("c", Verdict::Failed("why: because".into())),
            ("d", Verdict::Skipped("no device".into())),
        ];
        assert_eq!(
            tests,
            expected.map(|(name, verdict)| (name.to_owned(), verdict))
        );
    }

    #[test]
    fn a_test_program_that_ends_badly_fails() {
        for done in [
            done(0, "nothing\n"),
            done(139, "ok a\n"),
            done(101, "FAILED a: x\n"),
        ] {
            let tests = parse(&done);
            assert!(
                matches!(tests.last(), Some((_, Verdict::Failed(_)))),
                "{tests:?}"
            );
            assert_eq!(tests.last().unwrap().0, "the program's end");
        }
        let mut complaining = done(0, "ok a\n");
        complaining.kernel_log = "<4>[1.0] WARNING: CPU: 0\n".into();
        assert!(
            matches!(&parse(&complaining)[1].1, Verdict::Failed(why) if why.contains("WARNING"))
        );
    }

    #[test]
    fn tests_that_boot_the_same_share_a_boot() {
        fn job(_: &Programs) -> Job {
            Job::new("", "")
        }
        let test = |kvm| Test {
            name: "",
            boot: Boot {
                flavour: Flavour::Small,
                kvm,
            },
            job,
            judge: Judge::Lines,
        };
        let tests: Vec<Test> = (0..20)
            .map(|n| test(if n % 2 == 0 { Kvm::None } else { Kvm::Stock }))
            .collect();
        let batches = batches(&tests.iter().collect::<Vec<_>>());
        assert_eq!(batches.len(), 4);
        assert!(
            batches
                .iter()
                .all(|batch| batch.iter().all(|test| test.boot == batch[0].boot))
        );
        assert_eq!(batches.iter().map(Vec::len).sum::<usize>(), 20);
    }
}
