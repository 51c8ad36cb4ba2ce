//! Tests of the evaluation: figures give their values.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use postern_lab::testbed::{EmulatedTestbed, Testbed};
use postern_paper::experiment::{self, Experiment, Place};
use postern_paper::results::{FORMAT, Folder, Run};
use postern_paper::run::{self, Options};

/// Figures with Linux guests, which take minutes.
const WITH_LINUX: [&str; 2] = ["fig-07_memcached", "fig-16_inter_vm_linux"];

/// Every quick figure with bare guests.
pub fn bare(testbed: &EmulatedTestbed) -> Result<()> {
    quick(testbed, |one| !WITH_LINUX.contains(&one.name.as_str()))
}

/// Every quick figure with Linux guests.
pub fn linux(testbed: &EmulatedTestbed) -> Result<()> {
    quick(testbed, |one| WITH_LINUX.contains(&one.name.as_str()))
}

/// Runs the quick points of those figures that can be run.
fn quick(testbed: &EmulatedTestbed, chosen: fn(&Experiment) -> bool) -> Result<()> {
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
        changes: Vec::new(),
        environment: BTreeMap::new(),
    };
    let folder = Folder::create(&directory.path().join("results"), &run)?;
    let options = Options {
        quick: true,
        ..Options::default()
    };
    let experiments = experiment::all(postern_paper::bundle::root())?;
    let can_be_run = |one: &Experiment| one.definition.not_yet.is_none() && chosen(one);
    let experiments: Vec<_> = experiments.into_iter().filter(can_be_run).collect();
    ensure!(!experiments.is_empty(), "there are no such figures");
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
