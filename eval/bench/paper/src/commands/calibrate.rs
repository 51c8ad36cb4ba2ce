//! `cargo paper calibrate`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use postern_lab::output;
use toml::{Table, Value};

use super::say;
use crate::model::calibrate::{self, EXPERIMENT};
use crate::model::{Band, CostModel};
use crate::results::{FigureResults, Folder};

/// Arguments of the command.
#[derive(Args, Clone, Debug, Default)]
pub struct CalibrateArguments {
    /// Folder of results with times of a processor: of a host that says `hardware`
    #[arg(value_name = "TIMES")]
    pub times: PathBuf,

    /// Folder of results with counts of the same calls: of the emulated machine
    #[arg(value_name = "COUNTS")]
    pub counts: PathBuf,

    /// Frequency of the processor during the measurement, which governor and turbo must not change
    #[arg(long, value_name = "GHZ")]
    pub clock: f64,

    /// Model whose other constants are kept [default: eval/bench/cost-model.toml]
    #[arg(long, value_name = "FILE")]
    pub model: Option<PathBuf>,

    /// File for the new model, which `cargo paper model` and `cargo paper report` take with --model
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

/// Writes a cost model whose constants are measured, as far as empty calls tell them.
///
/// # Errors
///
/// Folders without the results that are needed, and times of which nothing follows.
pub fn calibrate(arguments: &CalibrateArguments) -> Result<()> {
    let clock = arguments.clock;
    ensure!(
        (0.1..=20.0).contains(&clock),
        "--clock {clock}: a frequency in GHz, as 2.6"
    );
    let (model, text) = CostModel::read_with_text(&CostModel::file(arguments.model.as_deref()))?;
    let (times, run) = results(&arguments.times, "hardware", "times of a processor")?;
    let (counts, _) = results(&arguments.counts, "emulated", "exact counts")?;
    let found = calibrate::constants(&times, &counts, clock, &model.constants)
        .with_context(|| format!("{} tells no constants", arguments.times.display()))?;

    let mut table: Table = toml::from_str(&text).context("reading the model again")?;
    let source = format!(
        "measured: {EXPERIMENT} of {}, revision {run}, at {clock} GHz",
        arguments.times.display()
    );
    for (name, band) in found.into_iter().chain([("clock", Band::exact(clock))]) {
        replace(&mut table, name, band, &source)?;
        say(&format!("{name}: {band}"));
    }
    let text = toml::to_string(&table).context("writing the model")?;
    CostModel::parse(&text).context("the constants that were found make no model")?;
    output::write_whole(&arguments.out, |out| out.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", arguments.out.display()))?;
    say(&format!("Model: {}", arguments.out.display()));
    Ok(())
}

/// The results of the experiment in a folder whose values have this label, with their revision.
fn results(path: &Path, label: &str, what: &str) -> Result<(FigureResults, String)> {
    let folder = Folder::open(path)?;
    ensure!(
        folder.run.label == label,
        "{} has values that are {}, which are no {what}: it takes a folder that says {label}",
        path.display(),
        folder.run.label
    );
    let results = folder.read(EXPERIMENT)?.with_context(|| {
        format!(
            "{} has no results of {EXPERIMENT}: cargo paper run {EXPERIMENT} --out {0}",
            path.display()
        )
    })?;
    Ok((results, folder.run.revision))
}

/// Gives a constant of a model's file a measured value.
fn replace(table: &mut Table, name: &str, band: Band, source: &str) -> Result<()> {
    let constants = table.get_mut("constants").and_then(Value::as_table_mut);
    let constant = constants.and_then(|constants| constants.get_mut(name)?.as_table_mut());
    let constant = constant.with_context(|| format!("the model has no constant {name}"))?;
    for (key, value) in [
        ("low", band.low),
        ("middle", band.middle),
        ("high", band.high),
    ] {
        // What is beyond says nothing.
        constant.insert(key.to_owned(), ((value * 1e4).round() / 1e4).into());
    }
    constant.insert("source".to_owned(), source.into());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment;
    use crate::model::FILE;

    #[test]
    fn what_cannot_be_calibrated_with_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let arguments = |clock| CalibrateArguments {
            times: directory.path().join("times"),
            counts: directory.path().join("counts"),
            clock,
            out: directory.path().join("model.toml"),
            model: None,
        };
        let error = calibrate(&arguments(2600.0)).unwrap_err().to_string();
        assert!(error.contains("--clock 2600"), "{error}");
        let error = calibrate(&arguments(2.6)).unwrap_err().to_string();
        assert!(error.contains("no folder of results"), "{error}");
        assert!(!directory.path().join("model.toml").exists());
    }

    #[test]
    fn a_model_with_other_constants_is_still_one() {
        let text = std::fs::read_to_string(experiment::root().join(FILE)).unwrap();
        let mut table: Table = toml::from_str(&text).unwrap();
        let band = Band {
            low: 100.0,
            middle: 120.0,
            high: 130.0,
        };
        replace(&mut table, "vmfunc", band, "measured: here").unwrap();
        let model = CostModel::parse(&toml::to_string(&table).unwrap()).unwrap();
        assert_eq!(model.constants.vmfunc.band(), band);
        assert_eq!(model.constants.vmfunc.source, "measured: here");
        let error = replace(&mut table, "vmfnc", band, "")
            .unwrap_err()
            .to_string();
        assert!(error.contains("no constant vmfnc"), "{error}");
    }
}
