//! Runs figures and writes their results.

use std::time::Instant;

use anyhow::{Context, Result};
use postern_bench::scenario::execute;
use postern_lab::job::Job;
use postern_lab::testbed::Testbed;
use toml::Table;

use crate::experiment::{Experiment, Series};
use crate::results::{About, FigureResults, Folder, PointAbout, Value, sha256};
use crate::workload::{Task, Workload};

/// How figures are run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Fewer points.
    pub quick: bool,
    /// Changes of all workloads.
    pub changes: Table,
}

/// A point of a figure.
struct Point<'a> {
    series: &'a Series,
    x: Option<u32>,
    workload: Workload,
}

/// The points of an experiment: series by series at each place of the axis.
fn points<'a>(experiment: &'a Experiment, options: &Options) -> Result<Vec<Point<'a>>> {
    let definition = &experiment.definition;
    let mut points = Vec::new();
    for x in definition.places(options.quick) {
        for series in &definition.series {
            let workload = definition.workload_of(series, x, &options.changes)?;
            points.push(Point {
                series,
                x,
                workload,
            });
        }
    }
    Ok(points)
}

/// Checks that all points of these experiments can be run with these options.
///
/// # Errors
///
/// The first change that a workload does not take.
pub fn check(experiments: &[Experiment], options: &Options) -> Result<()> {
    for experiment in experiments {
        points(experiment, options).with_context(|| experiment.name.clone())?;
    }
    Ok(())
}

/// Runs all points of an experiment and writes the results into `folder`. `say` gets a line for each
/// point as it begins. Points that fail are named in the results; the others are kept.
///
/// # Errors
///
/// A testbed that cannot run jobs at all, and a folder that cannot be written.
pub fn figure(
    testbed: &Testbed,
    experiment: &Experiment,
    options: &Options,
    folder: &Folder,
    say: &(dyn Fn(&str) + Sync),
) -> Result<FigureResults> {
    let start = Instant::now();
    let source = testbed.source();
    let points = points(experiment, options)?;
    let tasks = points
        .iter()
        .map(|point| point.workload.task(testbed))
        .collect::<Result<Vec<Task>>>()?;
    let jobs: Vec<Job> = tasks.iter().map(|task| task.job.clone()).collect();
    let memory_mb = tasks.iter().map(|task| task.memory_mb).max();
    let outcomes = execute::run_jobs(testbed, &jobs, memory_mb.unwrap_or(0), say)?;

    let mut values = Vec::new();
    let mut abouts = Vec::new();
    for ((point, task), outcome) in points.iter().zip(&tasks).zip(outcomes.jobs) {
        let measured = outcome.and_then(|outcome| task.read(outcome));
        let failure = match measured {
            Err(error) => Some(format!("{}: {error:#}", task.job.name)),
            Ok(measured) => {
                values.extend(measured.into_iter().map(|(quantity, value)| Value {
                    series: point.series.name.clone(),
                    x: point.x,
                    quantity,
                    value,
                    label: source.name().to_owned(),
                }));
                None
            }
        };
        abouts.push(PointAbout {
            series: point.series.name.clone(),
            x: point.x,
            workload: point.workload.clone(),
            failure,
        });
    }
    let results = FigureResults {
        about: About {
            experiment: experiment.name.clone(),
            definition_sha256: sha256(experiment.text.as_bytes()),
            points_sha256: String::new(),
            points: abouts,
            kernel: outcomes.kernel,
            machine: outcomes.machine,
            seconds: start.elapsed().as_secs_f64(),
        },
        values,
    };
    folder.write(&results)?;
    Ok(results)
}
