//! Tests of machines as a whole: of what one boot cannot show.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::labs::Labs;
use super::machine::VIEWS;
use super::report::{Report, Verdict};
use crate::demo;
use crate::job::Job;
use crate::machine::{Machine, MachineError};
use crate::place::Place;
use crate::report::Pcap;
use crate::setup::{Flavour, Lab};
use crate::traffic::Trace;

/// A test that makes its own machines.
pub struct Special {
    /// `area/what holds`.
    pub name: &'static str,
    run: fn(&Lab) -> Result<()>,
}

/// All of them.
pub const ALL: &[Special] = &[
    Special {
        name: "machine/equal machines run equal instructions",
        run: repeatable,
    },
    Special {
        name: "machine/a kernel that panics is a failure",
        run: kernel_panic,
    },
    Special {
        name: "machine/a triple fault is a failure",
        run: triple_fault,
    },
    Special {
        name: "machine/a machine that hangs is given up",
        run: hang,
    },
    Special {
        name: "machine/a module that is none is named",
        run: no_module,
    },
    Special {
        name: "machine/a module that does not fit is named",
        run: unfit_module,
    },
    Special {
        name: "machine/nothing of a machine stays behind",
        run: nothing_left,
    },
    Special {
        name: "demo/the same run twice shows the same counts",
        run: demo_twice,
    },
];

/// Runs special tests and reports them.
///
/// # Errors
///
/// The machine cannot be made.
pub fn run(report: &Report, labs: &mut Labs, tests: &[&Special]) -> Result<()> {
    if tests.is_empty() {
        return Ok(());
    }
    let lab = labs.with(Flavour::Small)?;
    for test in tests {
        crate::interrupt::check()?;
        let start = Instant::now();
        let verdict = Verdict::from((test.run)(lab));
        report.line(
            &format!("emulated/{}", test.name),
            &verdict,
            Some(start.elapsed()),
        );
    }
    Ok(())
}

fn bare(lab: &Lab) -> Machine<'_> {
    Machine::new(&lab.platform, &lab.tree.kernel)
}

/// Reads the counters, which tell every instruction since power-on apart, after work of all kinds.
fn repeatable(lab: &Lab) -> Result<()> {
    let counters = || -> Result<String> {
        let job = Job::new(
            "count",
            "./postern check; ls -lR /sys/kernel /proc/1 | md5sum; ./postern-init counters",
        )
        .file("postern", &lab.programs.postern)
        .file("postern-init", &lab.programs.init);
        let done = lab.machine(VIEWS).run(job)?;
        let text = done.text();
        let line = text.lines().last().context("it printed nothing")?;
        ensure!(line.starts_with("instructions "), "it printed {line:?}");
        Ok(line.to_owned())
    };
    let (first, second) = (counters()?, counters()?);
    ensure!(first == second, "first {first}, then {second}");
    Ok(())
}

fn kernel_panic(lab: &Lab) -> Result<()> {
    // A kernel whose first process ends has nothing to go on with.
    match bare(lab)
        .arguments("rdinit=/bin/busybox")
        .run(Job::new("x", "true"))
    {
        Err(MachineError::KernelPanic { line, .. }) => {
            ensure!(
                line.contains("Attempted to kill init"),
                "the reason is: {line}"
            );
            Ok(())
        }
        other => bail!("the outcome is {other:?}"),
    }
}

fn triple_fault(lab: &Lab) -> Result<()> {
    // The kernel restarts the machine by a triple fault, as `reboot=t` tells it.
    match bare(lab).run(Job::new("reboot", "reboot -f")) {
        Err(MachineError::Emulator { line, .. }) => {
            ensure!(
                line.contains("exception with no resolution"),
                "the reason is: {line}"
            );
            Ok(())
        }
        other => bail!("the outcome is {other:?}"),
    }
}

fn hang(lab: &Lab) -> Result<()> {
    let job =
        Job::new("hang", "echo begun; while :; do :; done").timeout(Duration::from_secs(10_000));
    let start = Instant::now();
    let outcome = bare(lab).timeout(Duration::from_secs(6)).run_all(&[job])?;
    ensure!(
        start.elapsed() < Duration::from_secs(20),
        "it took {:?}",
        start.elapsed()
    );
    ensure!(
        outcome.unfinished.text() == "begun\n",
        "its output is lost: {:?}",
        outcome.unfinished
    );
    match outcome.death {
        Some(MachineError::Timeout { .. }) => Ok(()),
        other => bail!("the outcome is {other:?}"),
    }
}

fn no_module(lab: &Lab) -> Result<()> {
    match bare(lab)
        .module("/nonexistent/x.ko", "")
        .run(Job::new("x", "true"))
    {
        Err(error @ MachineError::Prepare { .. }) => {
            ensure!(
                error.to_string().contains("/nonexistent/x.ko"),
                "the reason is: {error}"
            );
            Ok(())
        }
        other => bail!("the outcome is {other:?}"),
    }
}

/// KVM's module for Intel does not load without the other two.
fn unfit_module(lab: &Lab) -> Result<()> {
    match bare(lab)
        .module(&lab.modules.kvm_intel, "")
        .run(Job::new("x", "true"))
    {
        Err(MachineError::Module { module, error, .. }) => {
            ensure!(module.ends_with("kvm-intel.ko"), "the module is {module}");
            ensure!(error.contains("No such file"), "the reason is: {error}");
            Ok(())
        }
        other => bail!("the outcome is {other:?}"),
    }
}

fn nothing_left(lab: &Lab) -> Result<()> {
    bare(lab).run(Job::new("x", "true"))?;
    let left: Vec<_> = std::fs::read_dir(&lab.platform.run)
        .context("reading the directory of machines")?
        .flatten()
        .filter(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            name.starts_with(&format!("{}-", std::process::id())) && !name.ends_with(".kept")
        })
        .collect();
    ensure!(left.is_empty(), "these are left: {left:?}");
    Ok(())
}

/// Every figure of every path, from two demos with few frames.
fn demo_twice(lab: &Lab) -> Result<()> {
    let place = Place::Emulated(Box::new(lab.clone()));
    let options = demo::Options {
        json: None,
        pcap: None,
        batch: vec![8],
        frames: 200,
    };
    let trace = Trace::synthetic(200, 150);
    let input = Pcap::of(&trace, "made up");
    let demo = || -> Result<serde_json::Value> {
        let (report, failures) = demo::measure(&place, &options, &trace, input.clone(), &|_| ())?;
        ensure!(failures.is_empty(), "runs failed: {}", failures.join("\n"));
        ensure!(!report.traffic.is_empty() && !report.calls.is_empty());
        serde_json::to_value(&report).context("making JSON of a report")
    };
    let (first, second) = (demo()?, demo()?);
    ensure!(first == second, "first {first:#}, then {second:#}");
    Ok(())
}
