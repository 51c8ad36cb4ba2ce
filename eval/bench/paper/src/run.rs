//! Runs figures and writes their results.

use std::time::Instant;

use anyhow::{Context, Result};
use postern_bench::scenario::execute;
use postern_lab::job::Job;
use postern_lab::testbed::Testbed;
use toml::Table;

use crate::experiment::{Experiment, Series};
use crate::quantity::Quantity;
use crate::repeat;
use crate::results::{About, FigureResults, Folder, PointAbout, Repeat, Value, sha256};
use crate::workload::{Task, Values, Workload};

/// How figures are run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Fewer points.
    pub quick: bool,
    /// How many times each point is run, once or more.
    pub repeats: u32,
    /// Changes of all workloads.
    pub changes: Table,
}

/// Everything once, as it is described.
impl Default for Options {
    fn default() -> Options {
        Options {
            quick: false,
            repeats: 1,
            changes: Table::new(),
        }
    }
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

/// A run in one of several rounds.
struct OfRound {
    /// Number of the run.
    run: usize,
    /// Number of the round, from 0.
    round: u32,
    job: Job,
}

/// All runs, as often as wanted: once in their order, or in rounds that have orders of their own.
fn rounds(runs: &[Run], repeats: u32) -> Vec<OfRound> {
    let mut all = Vec::new();
    for round in 0..repeats {
        let order = match repeats {
            1 => (0..runs.len()).collect(),
            _ => repeat::order(runs.len(), round),
        };
        all.extend(order.into_iter().map(|run| {
            let mut job = runs[run].task.job.clone();
            if repeats > 1 {
                job.name = format!("{}, {} of {repeats}", job.name, round + 1);
            }
            OfRound { run, round, job }
        }));
    }
    all
}

/// What all runs of a point gave.
#[derive(Default)]
struct Measured {
    /// The values, each with the number of its round.
    runs: Vec<(u32, Values)>,
    /// Why the first one that failed did.
    failure: Option<String>,
}

impl Measured {
    /// The quantities, in their order.
    fn quantities(&self) -> Vec<Quantity> {
        let mut all: Vec<Quantity> = Vec::new();
        for (quantity, _) in self.runs.iter().flat_map(|(_, values)| values) {
            if !all.contains(quantity) {
                all.push(*quantity);
            }
        }
        all
    }

    /// The values of a quantity, each with the number of its round.
    fn of(&self, quantity: Quantity) -> impl Iterator<Item = (u32, f64)> {
        self.runs.iter().flat_map(move |(round, values)| {
            let of_quantity = values.iter().filter(move |(one, _)| *one == quantity);
            of_quantity.map(|(_, value)| (*round, *value))
        })
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
    let rounds = rounds(&runs, options.repeats);
    let memory_mb = runs.iter().map(|run| run.task.memory_mb).max();
    let jobs: Vec<Job> = rounds.iter().map(|one| one.job.clone()).collect();
    let outcomes = execute::run_jobs(testbed, &jobs, memory_mb.unwrap_or(0), say)?;

    let mut measured: Vec<Measured> = points.iter().map(|_| Measured::default()).collect();
    for (one, outcome) in rounds.iter().zip(outcomes.jobs) {
        let run = &runs[one.run];
        let values = outcome.and_then(|outcome| run.task.read(outcome));
        for (n, &point) in run.points.iter().enumerate() {
            match &values {
                Ok(values) => measured[point].runs.push((one.round, values[n].clone())),
                Err(error) => {
                    let failure = || format!("{}: {error:#}", one.job.name);
                    measured[point].failure.get_or_insert_with(failure);
                }
            }
        }
    }
    let (mut values, mut repeats) = (Vec::new(), Vec::new());
    let mut abouts = Vec::new();
    for (point, measured) in points.iter().zip(measured) {
        let series = &point.series.name;
        for quantity in measured.quantities() {
            let of_quantity: Vec<(u32, f64)> = measured.of(quantity).collect();
            let all: Vec<f64> = of_quantity.iter().map(|(_, value)| *value).collect();
            values.extend(repeat::median(&all).map(|band| Value {
                series: series.clone(),
                x: point.x,
                quantity,
                value: band.middle,
                low: band.low,
                high: band.high,
                label: source.name().to_owned(),
            }));
            if options.repeats > 1 {
                repeats.extend(of_quantity.into_iter().map(|(round, value)| Repeat {
                    series: series.clone(),
                    x: point.x,
                    repeat: round + 1,
                    quantity,
                    value,
                }));
            }
        }
        let failure = measured.failure;
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
            repeats_sha256: String::new(),
            points: abouts,
            kernel: outcomes.kernel,
            machine: outcomes.machine,
            seconds: start.elapsed().as_secs_f64(),
        },
        values,
        repeats,
    };
    folder.write(&results)?;
    Ok(results)
}
