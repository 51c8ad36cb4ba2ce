//! Tests of the evaluation: figures give their values.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use postern_lab::job::Job;
use postern_lab::setup::{self, Flavour, Series};
use postern_lab::testbed::{EmulatedTestbed, Testbed, VIEWS};
use postern_paper::bundle;
use postern_paper::experiment::{self, Experiment, Place};
use postern_paper::quantity::Quantity;
use postern_paper::results::{FORMAT, FigureResults, Folder, Run};
use postern_paper::run::{self, Options};

/// Figures with Linux guests, which take minutes.
const WITH_LINUX: [&str; 2] = ["fig-07_memcached", "fig-16_inter_vm_linux"];

/// Figures with bare guests, one for each kind of work.
const BARE: [&str; 4] = [
    "fig-01_empty_call",
    "fig-03_tx_nic",
    "fig-12_setup",
    "fig-14_ablations",
];

/// A quick figure of each kind of work with bare guests.
pub fn bare(testbed: &EmulatedTestbed) -> Result<()> {
    quick(testbed, &BARE)
}

/// Every quick figure with Linux guests.
pub fn linux(testbed: &EmulatedTestbed) -> Result<()> {
    quick(testbed, &WITH_LINUX)
}

/// What a host with the patched KVM measures from a bundle, without a toolchain: here the host is the
/// emulated machine with Debian's own kernel, which has to say so.
pub fn bundle(_: &EmulatedTestbed) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let made = directory.path().join("bundle");
    bundle::make(&made)?;
    let script = "./postern-paper run fig-01 fig-04 --quick --place host --set frames=200 --out results 2>&1";
    // A change that a figure's workload does not have is refused, whatever comes first.
    let script = format!(
        "{script} | grep frames || exit 1; {}",
        script.replace("fig-01 ", "")
    );
    let results = ["results/run.json", "results/fig-04_inter_vm/points.csv"];
    let mut job = Job::new("a bundle", &script).timeout(Duration::from_secs(900));
    for file in files(&made)? {
        let name = file.strip_prefix(&made).context("a file of the bundle")?;
        job = job.file(&name.to_string_lossy(), &file);
    }
    for name in results {
        job = job.fetch(name);
    }
    let series = Series::default_one(setup::root())?;
    let testbed = EmulatedTestbed::prepare(&series, Flavour::Debian)?;
    let machine = testbed.machine(VIEWS)?.memory_mb(1024);
    let outcome = machine.run(job)?.success()?;
    let run: Run = serde_json::from_slice(outcome.file(results[0])?)?;
    ensure!(
        (run.place, run.label.as_str()) == (Place::Host, "emulated"),
        "{run:?}"
    );
    let points = String::from_utf8_lossy(outcome.file(results[1])?).into_owned();
    for part in [
        "elisa,64,vmfuncs,",
        "exit-kernel,1472,vm_exits,",
        ",emulated\n",
    ] {
        ensure!(points.contains(part), "no {part:?} in {points}");
    }
    Ok(())
}

/// All files below a folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        match path.is_dir() {
            true => all.extend(files(&path)?),
            false => all.push(path),
        }
    }
    Ok(all)
}

/// What is counted of a series is what its steps are together, where the code says them: but for timers, which
/// interrupt some calls.
fn steps_add_up(experiment: &Experiment, results: &FigureResults, series: &str) -> Result<()> {
    let steps = experiment.steps.iter().filter(|step| step.series == series);
    let said: u32 = steps.map(|step| step.instructions).sum();
    let counted = results.value(series, None, Quantity::GuestInstructions);
    if said != 0 {
        let counted = counted.with_context(|| format!("{series} was not counted"))?;
        ensure!(
            (counted - f64::from(said)).abs() < 0.5,
            "{}: {series} takes {counted} instructions, its steps are {said}",
            experiment.name
        );
    }
    Ok(())
}

/// Runs the quick points of figures.
fn quick(testbed: &EmulatedTestbed, names: &[&str]) -> Result<()> {
    let testbed = Testbed::Emulated(Box::new(testbed.clone()));
    let directory = tempfile::tempdir()?;
    let run = Run {
        format: FORMAT,
        place: Place::Emulated,
        label: testbed.source().name().to_owned(),
        revision: "a test".to_owned(),
        abi_version: 0,
        started: 0,
        quick: true,
        repeats: 1,
        changes: Vec::new(),
        environment: BTreeMap::new(),
    };
    let folder = Folder::create(&directory.path().join("results"), &run)?;
    let options = Options {
        quick: true,
        ..Options::default()
    };
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let experiments = experiment::load(bundle::root(), &names)?;
    for experiment in &experiments {
        let results = run::figure(&testbed, experiment, &options, &folder, &|_| ())?;
        let failures: Vec<_> = results
            .about
            .points
            .iter()
            .filter_map(|one| one.failure.as_ref())
            .collect();
        ensure!(failures.is_empty(), "{}: {failures:?}", experiment.name);
        for point in &results.about.points {
            steps_add_up(experiment, &results, &point.series)?;
            let values = results
                .values
                .iter()
                .filter(|value| value.series == point.series);
            let mut values = values.filter(|value| value.x == point.x);
            ensure!(
                values.any(|value| value.value > 0.0),
                "{}: {} has no value at {:?}",
                experiment.name,
                point.series,
                point.x
            );
        }
        ensure!(
            folder.finished(experiment)?.is_some(),
            "{} is not whole",
            experiment.name
        );
    }
    Ok(())
}
