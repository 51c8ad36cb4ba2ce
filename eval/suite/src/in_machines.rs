//! Runs tests in the emulated machine, where several share a boot, or on this host's KVM where it
//! can.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use postern_lab::job::{Job, JobOutcome};
use postern_lab::machine::MachineError;
use postern_lab::setup::{Flavour, Series};
use postern_lab::source::Source;
use postern_lab::testbed::{self, EmulatedTestbed, Testbed};

use crate::libtest;
use crate::machine_test::{Boot, Judge, SeriesTest};
use crate::own_boots::{self, OwnBootTest};
use crate::report::{TestReport, Verdict};
use crate::testbeds::Testbeds;
use crate::workers;

/// Real time that a machine has for all its tests. Each of these has a time by the machine's clock.
const TIMEOUT: Duration = Duration::from_secs(5400);
/// Tests that share a boot at most, so that there is work for all machines.
const MAX_TESTS_PER_BOOT: usize = 8;

/// Work for one machine after another.
enum Work<'a> {
    /// A test that boots its machines by itself, with what it needs for that.
    OwnBoots(&'static OwnBootTest, &'a EmulatedTestbed),
    /// Tests that share a boot.
    Batch(Vec<&'a SeriesTest<'a>>),
}

/// Runs tests that boot machines by themselves, and tests that share boots, and reports them.
///
/// # Errors
///
/// A machine that cannot be made. One that dies is a failed test.
pub fn run(
    report: &TestReport,
    own_boots: &[&'static OwnBootTest],
    tests: &[&SeriesTest<'_>],
) -> Result<()> {
    let (on_host, emulated): (Vec<&SeriesTest<'_>>, Vec<&SeriesTest<'_>>) =
        tests.iter().partition(|test| {
            test.test.boot == Boot::VIEWS
                && testbed::host_has_views()
                && test.series.is_for(&testbed::host_release())
        });
    run_on_host(report, &on_host)?;
    let mut testbeds = Testbeds::new();
    let testbed = match own_boots {
        [] => None,
        _ => Some(own_boots::prepare(&mut testbeds)?),
    };
    for test in &emulated {
        testbeds.prepare(test)?;
    }
    // All in one queue, what takes longest first and what takes least last, so that no processor
    // waits for another in the end.
    let (checked, others): (Vec<_>, Vec<_>) = batches(&emulated)
        .into_iter()
        .partition(|batch| batch[0].test.boot.flavour == Flavour::Debug);
    let mut work: Vec<Work<'_>> = checked.into_iter().map(Work::Batch).collect();
    if let Some(testbed) = &testbed {
        work.extend(own_boots.iter().map(|test| Work::OwnBoots(test, testbed)));
    }
    work.extend(others.into_iter().map(Work::Batch));
    workers::for_each(work, |work| match work {
        Work::OwnBoots(test, testbed) => own_boots::run(report, testbed, test),
        Work::Batch(tests) => run_batch(report, &testbeds, tests),
    })
}

fn run_on_host(report: &TestReport, tests: &[&SeriesTest<'_>]) -> Result<()> {
    // On the host the VMM's tests run as unit tests.
    let mut tests = tests
        .iter()
        .filter(|test| !matches!(test.test.judge, Judge::VmmTests(_) | Judge::Selftest))
        .peekable();
    if tests.peek().is_none() {
        return Ok(());
    }
    let testbed = Testbed::prepare()?;
    for test in tests {
        let start = Instant::now();
        let job = (test.test.job)(testbed.programs());
        let outcome = testbed
            .run(&[job], "")
            .map(|mut outcomes| outcomes.remove(0));
        judge(report, test, outcome, testbed.source(), Some(start));
    }
    Ok(())
}

/// Tests in groups that share a boot.
fn batches<'a>(tests: &[&'a SeriesTest<'a>]) -> Vec<Vec<&'a SeriesTest<'a>>> {
    let mut groups: Vec<((&Series, Boot), Vec<&SeriesTest<'_>>)> = Vec::new();
    for test in tests {
        let kernel = (test.series, test.test.boot);
        match groups.iter_mut().find(|(known, _)| *known == kernel) {
            Some((_, group)) => group.push(test),
            None => groups.push((kernel, vec![test])),
        }
    }
    let mut batches: Vec<Vec<&SeriesTest<'_>>> = Vec::new();
    for (_, group) in groups {
        let parts = group.len().div_ceil(MAX_TESTS_PER_BOOT);
        batches.extend(
            group
                .chunks(group.len().div_ceil(parts))
                .map(<[&SeriesTest<'_>]>::to_vec),
        );
    }
    batches
}

fn run_batch(
    report: &TestReport,
    testbeds: &Testbeds,
    mut tests: Vec<&SeriesTest<'_>>,
) -> Result<()> {
    while let Some(&first) = tests.first() {
        let start = (tests.len() == 1).then(Instant::now);
        let machine = testbeds.machine(first)?.timeout(TIMEOUT);
        let jobs = tests
            .iter()
            .map(|test| testbeds.job(test))
            .collect::<Result<Vec<Job>>>()?;
        let outcome = match machine.run_all(&jobs) {
            Ok(outcome) => outcome,
            Err(MachineError::Interrupted) => return Err(MachineError::Interrupted.into()),
            Err(error) => return Err(error).context(first.name.clone()),
        };
        let finished = outcome.jobs.len();
        for (test, done) in tests
            .drain(..finished)
            .collect::<Vec<_>>()
            .into_iter()
            .zip(outcome.jobs)
        {
            judge(report, test, Ok(done), Source::Emulated, start);
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
                Source::Emulated,
                start,
            );
        }
    }
    Ok(())
}

/// Reports the verdicts of a test. `start` is when it began, unless it shared its boot with others.
fn judge(
    report: &TestReport,
    test: &SeriesTest<'_>,
    outcome: Result<JobOutcome>,
    source: Source,
    start: Option<Instant>,
) {
    let elapsed = start.map(|start| start.elapsed());
    // A host has one kernel.
    let name = match source {
        Source::Emulated => &test.name,
        Source::Hardware | Source::Nested => test.test.name,
    };
    let name = format!("{}/{name}", source.name());
    match (outcome, test.test.judge) {
        (Err(error), _) => report.line(&name, &Err(error).into(), elapsed),
        (Ok(outcome), Judge::Whole(judge)) => report.line(&name, &judge(outcome).into(), elapsed),
        (Ok(outcome), Judge::Selftest) => {
            report.line(&name, &outcome.success().map(drop).into(), elapsed);
        }
        (Ok(outcome), Judge::Lines) => {
            for (part, verdict) in parse(&outcome) {
                report.line(&format!("{name}: {part}"), &verdict, None);
            }
        }
        (Ok(outcome), Judge::VmmTests(program)) => {
            for test in libtest::parse_program(program, &outcome.text()) {
                let part = test
                    .name
                    .split_once("::")
                    .map_or(&*test.name, |(_, part)| part);
                report.line(&format!("{name}: {part}"), &test.verdict, None);
            }
            if let Some(line) = outcome.kernel_warnings().first() {
                let reason = format!("the kernel complains: {line}");
                report.line(&name, &Verdict::Failed(reason), None);
            }
        }
    }
}

/// The tests that a test program has reported, and its end as one more if that was not in order.
fn parse(outcome: &JobOutcome) -> Vec<(String, Verdict)> {
    let text = outcome.text();
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
    let end = match outcome.clone().success() {
        // A program that has told of its failures ends with a failure.
        Err(error)
            if !(failed && outcome.status == Some(1) && outcome.kernel_warnings().is_empty()) =>
        {
            Err(error)
        }
        Ok(_) if tests.is_empty() => Err(anyhow!("it ran no test")),
        _ => return tests,
    };
    tests.push(("the program's end".to_owned(), end.into()));
    tests
}

#[cfg(test)]
mod tests {
    use postern_lab::setup::{self, Programs};

    use super::*;
    use crate::machine_test::{Kvm, Test};

    fn done(status: i32, output: &str) -> JobOutcome {
        JobOutcome {
            status: Some(status),
            output: output.as_bytes().to_vec(),
            ..JobOutcome::default()
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
        let mut warned = done(0, "ok a\n");
        warned.kernel_log = "<4>[1.0] WARNING: CPU: 0\n".into();
        assert!(matches!(&parse(&warned)[1].1, Verdict::Failed(why) if why.contains("WARNING")));
    }

    #[test]
    fn tests_that_boot_the_same_share_a_boot() {
        fn job(_: &Programs) -> Job {
            Job::new("", "")
        }
        const fn test(kvm: Kvm) -> Test {
            let flavour = Flavour::Small;
            Test {
                name: "x",
                boot: Boot { flavour, kvm },
                job,
                judge: Judge::Lines,
            }
        }
        static BARE: Test = test(Kvm::None);
        static STOCK: Test = test(Kvm::Stock);
        let series = Series::all(setup::root()).unwrap();
        let tests: Vec<SeriesTest<'_>> = (0..20)
            .flat_map(|n| {
                let test = if n % 2 == 0 { &BARE } else { &STOCK };
                series
                    .iter()
                    .map(move |series| SeriesTest::of_many(test, series))
            })
            .collect();
        let batches = batches(&tests.iter().collect::<Vec<_>>());
        assert_eq!(batches.len(), 4 * series.len());
        let equal = |one: &SeriesTest<'_>, other: &SeriesTest<'_>| {
            one.test.boot == other.test.boot && one.series == other.series
        };
        assert!(
            batches
                .iter()
                .all(|batch| batch.iter().all(|test| equal(test, batch[0])))
        );
        assert_eq!(
            batches.iter().map(Vec::len).sum::<usize>(),
            20 * series.len()
        );
    }
}
