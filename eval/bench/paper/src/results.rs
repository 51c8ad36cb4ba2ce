//! A folder of results: what was measured, as CSV, and how, as JSON. Reports read nothing else.
//!
//! ```text
//!   results/2026-11-30-emulated/
//!     run.json                      place, label, revision, machine, changes: a Run
//!     fig-01_empty_call/
//!       points.csv                  series, x, quantity, value, low, high, label: Values
//!       repeats.csv                 series, x, repeat, quantity, value, where points are run several times
//!       about.json                  what was run and how it went: an About
//! ```
//!
//! A figure's folder is written when the figure is done: a run that ends early keeps what is finished,
//! and one that goes on runs the rest.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use postern_lab::output;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::experiment::{Experiment, Place};
use crate::model::Band;
use crate::quantity::Quantity;
use crate::workload::Workload;

/// Version of the files' format.
pub const FORMAT: u32 = 2;

/// Largest file of a folder of results that is read, in bytes.
const MAX_FILE_SIZE: u64 = 16 << 20;

const RUN: &str = "run.json";
const ABOUT: &str = "about.json";
const POINTS: &str = "points.csv";
const REPEATS: &str = "repeats.csv";

/// Content of `run.json`: what all figures of the folder have in common.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// [`FORMAT`].
    pub format: u32,
    /// Kind of place that the VMs ran at.
    pub place: Place,
    /// Label of all measured values: `hardware`, `nested` or `emulated`.
    pub label: String,
    /// Revision of the source.
    pub revision: String,
    /// Version of the ABI between guest, NIC and host.
    pub abi_version: u32,
    /// Time of the start, as seconds since the epoch.
    pub started: u64,
    /// Whether figures have fewer points.
    pub quick: bool,
    /// How many times each point is run.
    pub repeats: u32,
    /// Changes of workloads that the user asked for, as `KEY=VALUE`.
    pub changes: Vec<String>,
    /// Circumstances by their names, for people: CPU, kernel, versions of programs.
    pub environment: BTreeMap<String, String>,
}

/// Content of a figure's `about.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// Name of the experiment.
    pub experiment: String,
    /// Hash of its `experiment.toml`.
    pub definition_sha256: String,
    /// Hash of `points.csv`.
    pub points_sha256: String,
    /// Hash of `repeats.csv`; empty where there is none.
    pub repeats_sha256: String,
    /// The points, in their order.
    pub points: Vec<PointAbout>,
    /// Kernel that ran the VMs.
    pub kernel: String,
    /// Machine that ran them.
    pub machine: String,
    /// Time that the figure took, in seconds of the machine that ran the command.
    pub seconds: f64,
}

/// A point as it was run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PointAbout {
    /// Series of the point.
    pub series: String,
    /// Its place on the axis.
    pub x: Option<u32>,
    /// What the VMs did.
    pub workload: Workload,
    /// Why there is no value, if the run failed.
    pub failure: Option<String>,
}

/// A measured value: one line of `points.csv`. Of a point that is run several times, it is the median,
/// within an interval of 95 %.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Value {
    /// Series of the point.
    pub series: String,
    /// Its place on the axis.
    pub x: Option<u32>,
    /// What was measured.
    pub quantity: Quantity,
    /// The value.
    pub value: f64,
    /// Least of the interval.
    pub low: f64,
    /// Most of the interval.
    pub high: f64,
    /// `hardware`, `nested` or `emulated`.
    pub label: String,
}

/// What a point gave in one of several runs: one line of `repeats.csv`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Repeat {
    /// Series of the point.
    pub series: String,
    /// Its place on the axis.
    pub x: Option<u32>,
    /// Number of the run, from 1.
    pub repeat: u32,
    /// What was measured.
    pub quantity: Quantity,
    /// The value.
    pub value: f64,
}

/// Results of one figure.
#[derive(Clone, Debug, PartialEq)]
pub struct FigureResults {
    /// How they came about.
    pub about: About,
    /// The values.
    pub values: Vec<Value>,
    /// What each run gave, where points are run several times.
    pub repeats: Vec<Repeat>,
}

impl FigureResults {
    /// The value of a quantity at a point.
    pub fn value(&self, series: &str, x: Option<u32>, quantity: Quantity) -> Option<f64> {
        self.band(series, x, quantity).map(|band| band.middle)
    }

    /// The value of a quantity at a point, within its interval.
    pub fn band(&self, series: &str, x: Option<u32>, quantity: Quantity) -> Option<Band> {
        let mut values = self.values.iter();
        let found = values
            .find(|value| value.series == series && value.x == x && value.quantity == quantity)?;
        Some(Band {
            low: found.low,
            middle: found.value,
            high: found.high,
        })
    }
}

/// A folder of results.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
    /// What all of its figures have in common.
    pub run: Run,
}

impl Folder {
    /// Makes the folder, or goes on with one that a run of the same kind has left.
    ///
    /// # Errors
    ///
    /// A folder with something else in it, or with results of another revision or of other settings.
    pub fn create(path: &Path, run: &Run) -> Result<Folder> {
        let fail = || format!("cannot write into {}", path.display());
        fs::create_dir_all(path).with_context(fail)?;
        if path.join(RUN).exists() {
            let folder = Folder::open(path)?;
            folder.check_same(run)?;
            return Ok(folder);
        }
        let empty = fs::read_dir(path).with_context(fail)?.next().is_none();
        ensure!(
            empty,
            "{} has other files in it; give a new folder with --out",
            path.display()
        );
        write_json(&path.join(RUN), run).with_context(fail)?;
        Ok(Folder {
            path: path.to_owned(),
            run: run.clone(),
        })
    }

    /// Opens a folder of results.
    ///
    /// # Errors
    ///
    /// A folder without results, or with some of another format.
    pub fn open(path: &Path) -> Result<Folder> {
        let file = path.join(RUN);
        ensure!(
            file.is_file(),
            "{} is no folder of results: it has no {RUN}",
            path.display()
        );
        let run: Run = read_json(&file)?;
        ensure!(
            run.format == FORMAT,
            "{} is of format {}, this program reads {FORMAT}",
            file.display(),
            run.format
        );
        Ok(Folder {
            path: path.to_owned(),
            run,
        })
    }

    /// The folder's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Checks that results of another run belong to these.
    ///
    /// # Errors
    ///
    /// The first thing in which the two differ.
    pub fn check_same(&self, run: &Run) -> Result<()> {
        let mine = &self.run;
        for (what, found, wanted) in [
            ("revision", &mine.revision, &run.revision),
            ("place", &mine.place.name().into(), &run.place.name().into()),
            ("label", &mine.label, &run.label),
            ("quick", &mine.quick.to_string(), &run.quick.to_string()),
            (
                "repeats",
                &mine.repeats.to_string(),
                &run.repeats.to_string(),
            ),
            ("changes", &mine.changes.join(" "), &run.changes.join(" ")),
        ] {
            ensure!(
                found == wanted,
                "{} has results of {what} {found:?}, others are of {wanted:?}; give a new folder",
                self.path.display()
            );
        }
        Ok(())
    }

    /// Writes the results of a figure, whole or not at all.
    ///
    /// # Errors
    ///
    /// Those of the file system.
    pub fn write(&self, results: &FigureResults) -> Result<()> {
        let folder = self.path.join(&results.about.experiment);
        let fail = || format!("cannot write into {}", folder.display());
        fs::create_dir_all(&folder).with_context(fail)?;
        let mut about = results.about.clone();
        let write = |name: &str, csv: &[u8]| {
            output::write_whole(&folder.join(name), |out| out.write_all(csv)).with_context(fail)
        };
        let csv = to_csv(&results.values)?;
        about.points_sha256 = sha256(&csv);
        write(POINTS, &csv)?;
        about.repeats_sha256 = match &results.repeats[..] {
            [] => String::new(),
            repeats => {
                let csv = to_csv(repeats)?;
                write(REPEATS, &csv)?;
                sha256(&csv)
            }
        };
        // The one that makes the figure complete is the last.
        write_json(&folder.join(ABOUT), &about).with_context(fail)
    }

    /// The results of a figure; none if it was not run.
    ///
    /// # Errors
    ///
    /// Files that cannot be read, or were changed since they were written.
    pub fn read(&self, experiment: &str) -> Result<Option<FigureResults>> {
        let folder = self.path.join(experiment);
        let file = folder.join(ABOUT);
        if !file.exists() {
            return Ok(None);
        }
        let about: About = read_json(&file)?;
        let values = read_csv(&folder.join(POINTS), &about.points_sha256)?;
        let repeats = match about.repeats_sha256.is_empty() {
            true => Vec::new(),
            false => read_csv(&folder.join(REPEATS), &about.repeats_sha256)?,
        };
        Ok(Some(FigureResults {
            about,
            values,
            repeats,
        }))
    }

    /// The results of an experiment that this folder has whole: of the same definition, with no
    /// failure.
    ///
    /// # Errors
    ///
    /// Those of [`Folder::read`].
    pub fn finished(&self, experiment: &Experiment) -> Result<Option<FigureResults>> {
        let results = self.read(&experiment.name)?;
        Ok(results.filter(|results| {
            let about = &results.about;
            about.definition_sha256 == sha256(experiment.text.as_bytes())
                && about.points.iter().all(|point| point.failure.is_none())
        }))
    }
}

/// The SHA-256 of some bytes, in hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn to_csv(lines: &[impl Serialize]) -> Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for line in lines {
        writer.serialize(line).context("writing CSV")?;
    }
    writer.into_inner().context("writing CSV")
}

/// The lines of a CSV file of this hash.
fn read_csv<T: DeserializeOwned>(file: &Path, hash: &str) -> Result<Vec<T>> {
    let csv = read_limited(file)?;
    ensure!(
        sha256(&csv) == hash,
        "{} was changed after it was measured (its hash is not that of {ABOUT})",
        file.display()
    );
    csv::Reader::from_reader(&csv[..])
        .into_deserialize()
        .collect::<Result<Vec<T>, _>>()
        .with_context(|| format!("{} holds no values", file.display()))
}

fn write_json(file: &Path, content: &impl Serialize) -> io::Result<()> {
    output::write_whole(file, |out| {
        serde_json::to_writer_pretty(&mut *out, content)?;
        writeln!(out)
    })
}

fn read_json<T: DeserializeOwned>(file: &Path) -> Result<T> {
    let bytes = read_limited(file)?;
    serde_json::from_slice(&bytes).with_context(|| format!("{} cannot be read", file.display()))
}

fn read_limited(file: &Path) -> Result<Vec<u8>> {
    let fail = || format!("reading {}", file.display());
    let data = fs::metadata(file).with_context(fail)?;
    if !data.is_file() || data.len() > MAX_FILE_SIZE {
        bail!(
            "{} is no file, or has over {MAX_FILE_SIZE} bytes",
            file.display()
        );
    }
    fs::read(file).with_context(fail)
}

#[cfg(test)]
mod tests {
    use postern_abi::platform::CallPath;

    use super::*;
    use crate::workload::Calls;

    fn run() -> Run {
        Run {
            format: FORMAT,
            place: Place::Emulated,
            label: "emulated".into(),
            revision: "abc".into(),
            abi_version: 1,
            started: 5,
            quick: false,
            repeats: 2,
            changes: vec![],
            environment: BTreeMap::new(),
        }
    }

    fn figure() -> FigureResults {
        FigureResults {
            about: About {
                experiment: "fig-00_x".into(),
                definition_sha256: String::new(),
                points_sha256: String::new(),
                repeats_sha256: String::new(),
                points: vec![PointAbout {
                    series: "elisa".into(),
                    x: Some(64),
                    workload: Workload::Calls(Calls {
                        path: CallPath::Elisa,
                        calls: 5,
                    }),
                    failure: None,
                }],
                kernel: "6.1".into(),
                machine: "Bochs".into(),
                seconds: 1.5,
            },
            values: vec![Value {
                series: "elisa".into(),
                x: Some(64),
                quantity: Quantity::TotalInstructions,
                value: 27.25,
                low: 27.0,
                high: 27.5,
                label: "emulated".into(),
            }],
            repeats: [27.0, 27.5].map(repeat).into(),
        }
    }

    fn repeat(value: f64) -> Repeat {
        Repeat {
            series: "elisa".into(),
            x: Some(64),
            repeat: if value == 27.0 { 1 } else { 2 },
            quantity: Quantity::TotalInstructions,
            value,
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let folder = Folder::create(&directory.path().join("a/b"), &run()).unwrap();
        assert_eq!(folder.read("fig-00_x").unwrap(), None);
        folder.write(&figure()).unwrap();
        let folder = Folder::open(folder.path()).unwrap();
        let read = folder.read("fig-00_x").unwrap().unwrap();
        assert_eq!(read.values, figure().values);
        assert_eq!(read.repeats, figure().repeats);
        assert_eq!(read.about.points, figure().about.points);
        let quantity = Quantity::TotalInstructions;
        assert_eq!(read.value("elisa", Some(64), quantity), Some(27.25));
        assert_eq!(read.value("elisa", None, quantity), None);
    }

    #[test]
    fn other_folders_are_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let error = Folder::open(path).unwrap_err().to_string();
        assert!(error.contains("no folder of results"), "{error}");
        fs::write(path.join("diary"), "dear").unwrap();
        let error = Folder::create(path, &run()).unwrap_err().to_string();
        assert!(error.contains("other files"), "{error}");
        let path = path.join("new");
        Folder::create(&path, &run()).unwrap();
        Folder::create(&path, &run()).unwrap();
        let other = Run {
            revision: "def".into(),
            ..run()
        };
        let error = Folder::create(&path, &other).unwrap_err().to_string();
        assert!(error.contains("revision \"abc\""), "{error}");
    }

    #[test]
    fn changed_values_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let folder = Folder::create(&directory.path().join("a"), &run()).unwrap();
        folder.write(&figure()).unwrap();
        let file = folder.path().join("fig-00_x/points.csv");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replace("27.25", "17.25")).unwrap();
        let error = folder.read("fig-00_x").unwrap_err().to_string();
        assert!(error.contains("points.csv was changed"), "{error}");
        folder.write(&figure()).unwrap();
        let file = folder.path().join("fig-00_x/repeats.csv");
        fs::remove_file(&file).unwrap();
        let error = folder.read("fig-00_x").unwrap_err().to_string();
        assert!(error.contains("repeats.csv"), "{error}");
    }
}
