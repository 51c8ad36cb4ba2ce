//! Two folders of results side by side.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;

use super::source::{Source, State};
use super::view::{Column, Table};
use super::{open, render, write_files};
use crate::bundle;
use crate::experiment::{self, Experiment};
use crate::model::Band;
use crate::plot::number;
use crate::results::{FigureResults, Value};

/// Two folders of results side by side.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The two.
    pub folders: [Side; 2],
    /// What differences mean.
    pub meaning: String,
    /// Figures that both have.
    pub figures: Vec<FigureComparison>,
    /// Figures that cannot be compared, and why.
    pub others: Vec<String>,
    /// Number of values that differ.
    pub different: usize,
    /// Number of values that are equal.
    pub equal: usize,
}

/// One of the two.
#[derive(Clone, Debug, Serialize)]
pub struct Side {
    /// Name of the folder.
    pub name: String,
    /// Label of what was measured.
    pub label: String,
    /// Revision of the source.
    pub revision: String,
    /// What readers must know.
    pub notes: Vec<String>,
}

/// A figure that both have.
#[derive(Clone, Debug, Serialize)]
pub struct FigureComparison {
    /// Name of the experiment.
    pub name: String,
    /// Its title.
    pub title: String,
    /// What readers must know.
    pub notes: Vec<String>,
    /// Number of values that are equal.
    pub equal: usize,
    /// Values that differ, the largest difference first.
    pub differences: Table,
}

/// Compares two folders and writes `compare.html` and `compare.md` into `out`.
///
/// # Errors
///
/// A folder without results, or with some of another format, and files that cannot be written.
pub fn write(a: &Path, b: &Path, out: &Path) -> Result<Comparison> {
    let experiments = experiment::all(bundle::root())?;
    let sources = open(
        &[a.to_owned(), b.to_owned()],
        &experiments,
        &bundle::revision(),
    )?;
    let comparison = compare(&experiments, &sources[0], &sources[1]);
    let files = [
        ("compare.html", render::render("compare.html", &comparison)?),
        ("compare.md", render::render("compare.md", &comparison)?),
    ];
    write_files(out, &files)?;
    Ok(comparison)
}

/// The text of a comparison.
///
/// # Errors
///
/// Those of the templates.
pub fn text(comparison: &Comparison) -> Result<String> {
    render::render("compare.md", comparison)
}

/// The file that [`write()`] leaves in a folder, for people.
pub fn file(out: &Path) -> PathBuf {
    out.join("compare.html")
}

/// Compares two folders.
pub fn compare(experiments: &[Experiment], a: &Source, b: &Source) -> Comparison {
    let mut figures = Vec::new();
    let mut others = Vec::new();
    for experiment in experiments {
        let name = &experiment.name;
        match (a.state(experiment), b.state(experiment)) {
            (State::Results(first, mut notes), State::Results(second, more)) => {
                notes = notes
                    .iter()
                    .map(|note| format!("{}: {note}", a.name))
                    .collect();
                notes.extend(more.iter().map(|note| format!("{}: {note}", b.name)));
                figures.push(figure(experiment, &first, &second, notes));
            }
            (State::NotRun, State::NotRun) => {}
            (first, second) => {
                for (source, state) in [(a, first), (b, second)] {
                    match state {
                        State::NotRun => others.push(format!("{name}: not run in {}", source.name)),
                        State::Unusable(why) => {
                            others.push(format!("{name}: not used of {}: {why}", source.name));
                        }
                        State::Results(..) => {}
                    }
                }
            }
        }
    }
    let side = |source: &Source| Side {
        name: source.name.clone(),
        label: source.folder.run.label.clone(),
        revision: source.folder.run.revision.clone(),
        notes: source.notes.clone(),
    };
    Comparison {
        folders: [side(a), side(b)],
        meaning: meaning(&a.folder.run.label, &b.folder.run.label),
        different: figures.iter().map(|one| one.differences.rows.len()).sum(),
        equal: figures.iter().map(|one| one.equal).sum(),
        figures,
        others,
    }
}

fn meaning(a: &str, b: &str) -> String {
    match (a, b) {
        ("emulated", "emulated") => "Counts of the emulated machine are exact: a value that differs was changed by something: \
             code, compiler, kernel or a parameter.",
        _ if a == b => "These are measurements of a real processor. Values whose intervals of 95 % overlap count as \
             equal. Of points that were run once nothing is known but the value: nothing is concluded from a \
             difference there; run both with --repeat.",
        _ => "The two have other labels, so their values mean different things: that they differ says nothing.",
    }
    .to_owned()
}

fn figure(
    experiment: &Experiment,
    a: &FigureResults,
    b: &FigureResults,
    notes: Vec<String>,
) -> FigureComparison {
    let find = |results: &FigureResults, value: &Value| {
        results.band(&value.series, value.x, value.quantity)
    };
    let mut rows: Vec<(f64, Vec<String>)> = Vec::new();
    let mut equal = 0;
    let mut add = |value: &Value, first: Option<Band>, second: Option<Band>| {
        let overlap = first
            .zip(second)
            .is_some_and(|(first, second)| first.overlaps(second));
        if overlap {
            equal += 1;
            return;
        }
        let change = first
            .zip(second)
            .map(|(first, second)| (second.middle / first.middle - 1.0) * 100.0);
        let cell = |value: Option<Band>| value.map_or("none".to_owned(), exactly);
        rows.push((
            change.map_or(f64::INFINITY, f64::abs),
            vec![
                value.series.clone(),
                value.x.map_or(String::new(), |x| x.to_string()),
                value.quantity.heading().to_owned(),
                cell(first),
                cell(second),
                match change {
                    Some(change) if change.is_finite() => format!("{change:+.2} %"),
                    _ => String::new(),
                },
            ],
        ));
    };
    for value in &a.values {
        add(value, find(a, value), find(b, value));
    }
    for value in &b.values {
        if find(a, value).is_none() {
            add(value, None, find(b, value));
        }
    }
    rows.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let axis = experiment.definition.axis.as_ref();
    let mut differences = Table::new(&["series", axis.map_or("x", |axis| &axis.name), "quantity"]);
    let label = |results: &FigureResults| {
        let first = results.values.first();
        first.map_or(String::new(), |value| value.label.clone())
    };
    differences.columns.extend([
        Column::labelled("first", &label(a)),
        Column::labelled("second", &label(b)),
        Column::plain("change"),
    ]);
    differences.rows = rows.into_iter().map(|(_, row)| row).collect();
    FigureComparison {
        name: experiment.name.clone(),
        title: experiment.definition.title.clone(),
        notes,
        equal,
        differences,
    }
}

/// A value with all that distinguishes it from others nearby, and its interval if it has one.
fn exactly(band: Band) -> String {
    let Band { low, middle, high } = band;
    match low < high {
        true => format!("{} ({} to {})", digits(middle), digits(low), digits(high)),
        false => digits(middle),
    }
}

fn digits(value: f64) -> String {
    match value.abs() >= 1e6 {
        true => number(value),
        false => format!("{value:.4}")
            .trim_end_matches('0')
            .trim_end_matches('.')
            .to_owned(),
    }
}
