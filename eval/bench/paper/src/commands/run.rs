//! `cargo paper run`, and `cargo paper` alone.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use postern_abi::ABI_VERSION;
use postern_lab::interrupt;
use postern_lab::testbed::Testbed;
use toml::Table;

use super::say;
use crate::bundle;
use crate::environment;
use crate::experiment::{self, Experiment, Place};
use crate::report;
use crate::results::{FORMAT, Folder, Run};
use crate::run::{self, Options};
use crate::schedule::{Estimate, Share, in_words};
use crate::table;

/// Arguments of the command.
#[derive(Args, Clone, Debug, Default)]
pub struct RunArguments {
    /// Figures: names of folders of eval/experiments, or their numbers (fig-01) [default: all]
    #[arg(value_name = "FIGURE")]
    pub figures: Vec<String>,

    /// How they are run.
    #[command(flatten)]
    pub flags: RunFlags,
}

/// Flags of the command, which `cargo paper` alone takes, too.
#[derive(Args, Clone, Debug, Default)]
pub struct RunFlags {
    /// The same figures with fewer points
    #[arg(long)]
    pub quick: bool,

    /// Change a parameter of all workloads, as frames=500; figures whose workload has none say so
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,

    /// Run each point so many times, in another order each time: values become medians with intervals
    /// [default: 1 in the emulated machine, whose counts are exact, else 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub repeat: Option<u32>,

    /// Folder for the results; one of an earlier run of the same revision is gone on with
    /// [default: results/DATE-PLACE]
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<PathBuf>,

    /// Place to run at [default: this host if it has VMFUNC and the patched KVM, else the emulated
    /// machine]
    #[arg(long, value_enum)]
    pub place: Option<Place>,

    /// Run figures again that the folder has already
    #[arg(long)]
    pub again: bool,

    /// Only a share of the figures, for one of N machines; `cargo paper merge` puts them together
    #[arg(long, value_name = "K/N")]
    pub shard: Option<Share>,
}

/// Runs figures: prints their tables, and writes their results.
///
/// # Errors
///
/// A sentence for what is missing or failed, after all that could be run was run.
pub fn run(arguments: &RunArguments) -> Result<()> {
    let flags = &arguments.flags;
    let experiments = experiment::load(bundle::root(), &arguments.figures)?;
    let mut options = Options {
        quick: flags.quick,
        changes: changes(&flags.set)?,
        ..Options::default()
    };
    run::check(&experiments, &options)?;
    let (without_runs, experiments): (Vec<Experiment>, Vec<Experiment>) = experiments
        .into_iter()
        .partition(|one| one.definition.series.is_empty());
    let experiments = match flags.shard {
        Some(share) => share.of(experiments),
        None => experiments,
    };
    for experiment in &without_runs {
        let definition = &experiment.definition;
        match &definition.not_yet {
            Some(why) => say(&format!("{}: not yet: {why}", experiment.name)),
            None => say(&format!("{}: a table, nothing to run", experiment.name)),
        }
    }

    let testbed = match flags.place {
        None => Testbed::prepare_with(bundle::programs)?,
        Some(Place::Emulated) => Testbed::emulated()?,
        Some(Place::Host) => Testbed::host(bundle::programs)?,
    };
    let place = place_of(&testbed);
    let (experiments, elsewhere): (Vec<Experiment>, Vec<Experiment>) = experiments
        .into_iter()
        .partition(|one| one.definition.at.contains(&place));
    for experiment in &elsewhere {
        let places = experiment.definition.at.iter();
        let places: Vec<_> = places.map(|place| place.name()).collect();
        say(&format!(
            "{}: not at this place ({}); it runs at: {}",
            experiment.name,
            place.name(),
            places.join(", ")
        ));
    }
    options.repeats = flags.repeat.unwrap_or(match place {
        Place::Emulated => 1,
        Place::Host => 5,
    });
    let folder = folder(flags, &testbed, options.repeats)?;
    let mut failures = Vec::new();
    let count = experiments.len();
    let mut estimate = Estimate::new(&experiments, &options);
    for (n, experiment) in experiments.iter().enumerate() {
        interrupt::check()?;
        let definition = &experiment.definition;
        say(&format!(
            "\n[figure {}/{count}, about {} left] {}: {} ({})",
            n + 1,
            in_words(estimate.left()),
            experiment.name,
            definition.title,
            definition.paper
        ));
        let finished = match flags.again {
            true => None,
            false => folder.finished(experiment)?,
        };
        let was_run = finished.is_none();
        let results = match finished {
            Some(results) => {
                say("it is there already (--again runs it again)");
                Ok(results)
            }
            None => run::figure(&testbed, experiment, &options, &folder, &say),
        };
        estimate.done(experiment, &options, was_run);
        match results {
            Ok(results) => {
                say(&format!("\n{}", table::of(experiment, &results)));
                let points = results.about.points.iter();
                failures.extend(points.filter_map(|point| point.failure.clone()));
            }
            Err(error) => {
                interrupt::check()?;
                failures.push(format!("{}: {error:#}", experiment.name));
            }
        }
    }
    say(&format!("\nResults: {}", folder.path().display()));
    let path = folder.path().to_owned();
    match report::write(std::slice::from_ref(&path), None, &path) {
        Ok(file) => say(&format!("Report: {}", file.display())),
        Err(error) => failures.push(format!("report: {error:#}")),
    }
    if !failures.is_empty() {
        bail!("{} failed:\n{}", failures.len(), failures.join("\n"));
    }
    Ok(())
}

/// The kind of place that a testbed is.
const fn place_of(testbed: &Testbed) -> Place {
    match testbed {
        Testbed::Emulated(_) => Place::Emulated,
        Testbed::Host(_) => Place::Host,
    }
}

/// The folder for the results.
fn folder(flags: &RunFlags, testbed: &Testbed, repeats: u32) -> Result<Folder> {
    let label = testbed.source().name().to_owned();
    let place = place_of(testbed);
    let started = SystemTime::now().duration_since(UNIX_EPOCH);
    let started = started.context("reading the clock")?.as_secs();
    let run = Run {
        format: FORMAT,
        place,
        label,
        revision: bundle::revision(),
        abi_version: ABI_VERSION,
        started,
        quick: flags.quick,
        repeats,
        changes: flags.set.clone(),
        environment: environment::collect(testbed),
    };
    let default = || {
        bundle::root()
            .join("results")
            .join(format!("{}-{}", day(started), place.name()))
    };
    let path = flags.out.clone().unwrap_or_else(default);
    Folder::create(&path, &run)
}

/// The day of a time in seconds since the epoch, as `2026-11-30`.
fn day(seconds: u64) -> String {
    // Days since 0000-03-01 in the proleptic Gregorian calendar, whose years begin in March so that
    // the leap day is the last one. (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".)
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

/// The changes of workloads that the user asked for.
fn changes(set: &[String]) -> Result<Table> {
    let mut table = Table::new();
    for word in set {
        let (key, value) = word
            .split_once('=')
            .with_context(|| format!("--set {word}: say KEY=VALUE, as frames=500"))?;
        ensure!(
            key != "kind",
            "--set {word}: the kind of a workload cannot be changed"
        );
        let value = match value.parse::<i64>() {
            Ok(number) => number.into(),
            Err(_) => value.into(),
        };
        table.insert(key.to_owned(), value);
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_their_names() {
        for (seconds, name) in [
            (0, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (1_796_040_000, "2026-11-30"),
            (1_798_761_599, "2026-12-31"),
            (1_798_761_600, "2027-01-01"),
        ] {
            assert_eq!(day(seconds), name);
        }
    }

    #[test]
    fn changes_are_numbers_or_words() {
        let table = changes(&["frames=5".into(), "path=elisa".into()]).unwrap();
        assert_eq!(table["frames"].as_integer(), Some(5));
        assert_eq!(table["path"].as_str(), Some("elisa"));
        for word in ["frames", "kind=calls"] {
            assert!(changes(&[word.into()]).is_err());
        }
    }
}
