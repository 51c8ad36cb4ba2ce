//! Reader of an experiment's folder.

use std::fs;
use std::path::{Path as FilePath, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use postern_abi::platform::CallPath;
use serde::Deserialize;

use super::published::{self, PublishedValue};
use super::quantity::Quantity;
use crate::call_path;

/// Folder of all experiments, from the top of the checkout.
const FOLDER: &str = "eval/experiments";

/// Largest file of an experiment that is read, in bytes.
const MAX_FILE_SIZE: u64 = 1 << 20;

/// An experiment, as its folder describes it.
#[derive(Clone, Debug)]
pub struct Experiment {
    /// Name of the experiment: that of its folder.
    pub name: String,
    /// Content of `experiment.toml`.
    pub definition: Definition,
    /// Content of `published.csv`.
    pub published: Vec<PublishedValue>,
}

/// The content of `experiment.toml`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// Title: what is measured, in one line.
    pub title: String,
    /// Paper, section and figure whose values stand beside ours.
    pub paper: String,
    /// Minutes that it takes in the emulated machine, roughly.
    pub minutes: u32,
    /// Workload of the VMs.
    pub workload: WorkloadSpec,
    /// The plot.
    pub plot: PlotSpec,
}

/// A workload, on each of some paths.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase", tag = "kind")]
pub enum WorkloadSpec {
    /// A VM makes empty calls.
    Calls {
        /// Paths, in the order of the table, each with the number of calls on it.
        runs: Vec<CallsSpec>,
    },
}

/// Empty calls on one path.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallsSpec {
    /// Path on which calls reach the service.
    #[serde(deserialize_with = "call_path::deserialize")]
    pub path: CallPath,
    /// Number of calls.
    pub calls: u64,
}

/// A plot: one bar for each row of the table that has the quantity.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlotSpec {
    /// Length of the bars.
    pub quantity: Quantity,
    /// Text at the axis.
    pub axis: String,
}

/// Reads all experiments, by name.
///
/// # Errors
///
/// The first folder that describes no experiment, with the file and what is wrong in it.
pub fn all(root: &FilePath) -> Result<Vec<Experiment>> {
    let folder = root.join(FOLDER);
    let mut folders: Vec<PathBuf> = fs::read_dir(&folder)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .with_context(|| format!("reading {}", folder.display()))?;
    folders.retain(|path| path.is_dir());
    folders.sort();
    folders.iter().map(|folder| read(folder)).collect()
}

/// Reads the experiment of this name.
///
/// # Errors
///
/// A name that no experiment has, and a folder that describes none.
pub fn load(root: &FilePath, name: &str) -> Result<Experiment> {
    let folder = root.join(FOLDER).join(name);
    // A name is one component of a path.
    let plain = FilePath::new(name).file_name() == Some(name.as_ref());
    if !plain || !folder.is_dir() {
        let all = all(root)?;
        let names: Vec<_> = all
            .iter()
            .map(|experiment| experiment.name.as_str())
            .collect();
        bail!(
            "there is no experiment {name:?}; there are {}",
            names.join(", ")
        );
    }
    read(&folder)
}

fn read(folder: &FilePath) -> Result<Experiment> {
    let name = folder.file_name().unwrap_or_default();
    let name = name.to_string_lossy().into_owned();
    let file = folder.join("experiment.toml");
    let definition: Definition = toml::from_str(&read_text(&file)?)
        .with_context(|| format!("{} describes no experiment", file.display()))?;
    check(&definition).with_context(|| format!("{} describes no experiment", file.display()))?;
    let file = folder.join("published.csv");
    let published = published::parse(&read_text(&file)?)
        .with_context(|| format!("{} holds no published values", file.display()))?;
    ensure!(
        folder.join("README.md").is_file(),
        "{} has no README.md, which says what is measured",
        folder.display()
    );
    Ok(Experiment {
        name,
        definition,
        published,
    })
}

fn check(definition: &Definition) -> Result<()> {
    ensure!(!definition.title.is_empty(), "title is empty");
    let WorkloadSpec::Calls { runs } = &definition.workload;
    ensure!(!runs.is_empty(), "workload.runs is empty");
    for (n, run) in runs.iter().enumerate() {
        let path = run.path.name();
        ensure!(run.calls > 0, "workload.runs: no calls on the path {path}");
        let twice = runs[..n].iter().any(|other| other.path == run.path);
        ensure!(!twice, "workload.runs: the path {path} twice");
    }
    Ok(())
}

fn read_text(file: &FilePath) -> Result<String> {
    let fail = || format!("reading {}", file.display());
    let data = fs::metadata(file).with_context(fail)?;
    ensure!(data.is_file(), "{} is no file", file.display());
    ensure!(
        data.len() <= MAX_FILE_SIZE,
        "{} has over {MAX_FILE_SIZE} bytes",
        file.display()
    );
    fs::read_to_string(file).with_context(fail)
}

#[cfg(test)]
mod tests {
    use postern_lab::setup;

    use super::*;

    const GOOD: &str = "
title = 'Calls'
paper = 'A paper'
minutes = 1
workload = { kind = 'calls', runs = [{ path = 'elisa', calls = 5 }] }
plot = { quantity = 'total_instructions', axis = 'instructions' }
";

    fn folder(definition: &str, published: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join(FOLDER).join("fig-00_x");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("README.md"), "# X").unwrap();
        fs::write(folder.join("experiment.toml"), definition).unwrap();
        fs::write(folder.join("published.csv"), published).unwrap();
        root
    }

    #[test]
    fn the_experiments_of_this_checkout_can_be_read() {
        let all = all(setup::root()).unwrap();
        assert!(all.iter().any(|one| one.name == "fig-01_empty_call"));
        for experiment in &all {
            assert!(!experiment.published.is_empty(), "{}", experiment.name);
        }
    }

    #[test]
    fn mistakes_are_told_with_the_file() {
        let head = published::HEAD;
        for (old, new, part) in [
            ("title", "titel", "titel"),
            ("minutes = 1\n", "", "minutes"),
            ("'elisa'", "'teleport'", "there are elisa, elisa-strict"),
            ("'calls', runs", "'flights', runs", "flights"),
            ("calls = 5", "calls = 0", "no calls on the path elisa"),
            ("calls = 5", "calls = -5", "invalid value"),
            ("5 }", "5 }, { path = 'elisa', calls = 5 }", "elisa twice"),
            ("'total_instructions'", "'beauty'", "beauty"),
        ] {
            assert!(GOOD.contains(old), "{old}");
            let root = folder(&GOOD.replacen(old, new, 1), head);
            let error = format!("{:#}", all(root.path()).unwrap_err());
            assert!(
                error.contains("experiment.toml") && error.contains(part),
                "{new}: {error}"
            );
        }
        let root = folder(GOOD, head);
        fs::remove_file(root.path().join(FOLDER).join("fig-00_x/README.md")).unwrap();
        assert!(all(root.path()).is_err());
    }

    #[test]
    fn unknown_names_are_told_with_the_known_ones() {
        let root = folder(GOOD, published::HEAD);
        assert!(load(root.path(), "fig-00_x").is_ok());
        for name in ["fig-01", "", "..", "../experiments", "fig-00_x/."] {
            let error = load(root.path(), name).unwrap_err().to_string();
            assert!(error.contains("there are fig-00_x"), "{error}");
        }
    }
}
