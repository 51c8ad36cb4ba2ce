//! Runs figures and writes their results.

use std::time::Instant;

use anyhow::{Context, Result};
use postern_bench::scenario::execute;
use postern_lab::job::Job;
use postern_lab::testbed::Testbed;
use toml::Table;

use crate::experiment::{Experiment, Series};
use crate::results::{About, FigureResults, Folder, PointAbout, Value, sha256};
use crate::workload::{Task, Values, Workload};

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
        for series in definition.series(options.quick) {
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

/// A run, and the points whose values it gives.
struct Run {
    points: Vec<usize>,
    task: Task,
}

impl Run {
    /// The runs of all points: in the order of the first point of each.
    fn all(points: &[Point<'_>], testbed: &Testbed) -> Result<Vec<Run>> {
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for (n, point) in points.iter().enumerate() {
            let shared = groups.iter_mut().find(|group| {
                let first = &points[group[0]];
                first.series.name == point.series.name
                    && first.workload.shares_run_with(&point.workload)
            });
            match shared {
                Some(group) => group.push(n),
                None => groups.push(vec![n]),
            }
        }
        let run = |points_of: Vec<usize>| {
            let (first, rest) = (points_of[0], &points_of[1..]);
            let sharing: Vec<_> = rest.iter().map(|&n| &points[n].workload).collect();
            let task = points[first].workload.task(&sharing, testbed)?;
            Ok(Run {
                points: points_of,
                task,
            })
        };
        groups.into_iter().map(run).collect()
    }
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
    let runs = Run::all(&points, testbed)?;
    let jobs: Vec<Job> = runs.iter().map(|run| run.task.job.clone()).collect();
    let memory_mb = runs.iter().map(|run| run.task.memory_mb).max();
    let outcomes = execute::run_jobs(testbed, &jobs, memory_mb.unwrap_or(0), say)?;

    let mut measured: Vec<Result<Values, String>> = vec![Err(String::new()); points.len()];
    for (run, outcome) in runs.iter().zip(outcomes.jobs) {
        let values = outcome.and_then(|outcome| run.task.read(outcome));
        for (n, &point) in run.points.iter().enumerate() {
            measured[point] = match &values {
                Ok(values) => Ok(values[n].clone()),
                Err(error) => Err(format!("{}: {error:#}", run.task.job.name)),
            };
        }
    }
    let mut values = Vec::new();
    let mut abouts = Vec::new();
    for (point, measured) in points.iter().zip(measured) {
        let series = &point.series.name;
        let failure = match measured {
            Err(failure) => Some(failure),
            Ok(measured) => {
                values.extend(measured.into_iter().map(|(quantity, value)| Value {
                    series: series.clone(),
                    x: point.x,
                    quantity,
                    value,
                    label: source.name().to_owned(),
                }));
                None
            }
        };
        abouts.push(PointAbout {
            series: series.clone(),
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
