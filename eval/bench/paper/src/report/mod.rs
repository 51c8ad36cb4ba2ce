//! The report: folders of results beside what was published, as one HTML file and as Markdown.
//!
//! ```text
//!   results/.../     --> source --> points --> figure, claims --+
//!   eval/experiments ---------------^            ^              +--> render --> report.html, report.md
//!   cost-model.toml  --> projection -------------+--------------+
//! ```
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`source`] | folders of results, and what is the matter with them |
//! | [`points`] | values of plots: measured, projected, published |
//! | [`figure`] | a figure: its plots and tables |
//! | `tables`, `own_table` | tables of values, tables of published facts |
//! | [`claims`] | claims of the paper, and verdicts |
//! | [`projection`] | the cost model in the report |
//! | [`compare`] | two folders side by side |
//! | [`view`], `render` | what templates are given, templates |

pub mod claims;
pub mod compare;
pub mod figure;
mod own_table;
pub mod points;
pub mod projection;
mod render;
pub mod source;
mod tables;
pub mod view;

use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, ensure};
use postern_lab::output;
use serde::Serialize;

use crate::bundle;
use crate::experiment::{self, Experiment};
use crate::model::CostModel;
use claims::{Claims, Judged};
use figure::Figure;
use projection::Projection;
use source::{Source, State};
use view::Fact;

/// What the report's templates are given.
#[derive(Debug, Serialize)]
struct Report {
    title: String,
    revision: String,
    headline: Option<Judged>,
    claims: Vec<Judged>,
    folders: Vec<FolderView>,
    figures: Vec<Figure>,
    projection: Projection,
}

/// A folder of results.
#[derive(Debug, Serialize)]
struct FolderView {
    name: String,
    label: String,
    notes: Vec<String>,
    environment: Vec<Fact>,
}

/// Makes a report of folders of results, and writes it into `out`: `report.html` and `report.md`.
/// Returns the path of the first.
///
/// # Errors
///
/// A folder without results, or with some of another format, and files that cannot be written.
pub fn write(folders: &[PathBuf], model: Option<&Path>, out: &Path) -> Result<PathBuf> {
    let root = bundle::root();
    let experiments = experiment::all(root)?;
    let model = CostModel::read_file(&CostModel::file(model))?;
    let claims = Claims::read(root, &experiments)?;
    let revision = bundle::revision();
    let sources = open(folders, &experiments, &revision)?;
    let report = report(&experiments, &sources, &claims, &model, revision, out)?;
    let files = [
        ("report.html", render::render("report.html", &report)?),
        ("report.md", render::render("report.md", &report)?),
    ];
    write_files(out, &files)?;
    Ok(out.join("report.html"))
}

/// Opens folders of results.
fn open(folders: &[PathBuf], experiments: &[Experiment], revision: &str) -> Result<Vec<Source>> {
    ensure!(!folders.is_empty(), "name a folder of results");
    let folders = folders.iter();
    folders
        .map(|folder| Source::open(folder, experiments, revision))
        .collect()
}

fn report(
    experiments: &[Experiment],
    sources: &[Source],
    claims: &Claims,
    model: &CostModel,
    revision: String,
    out: &Path,
) -> Result<Report> {
    let links: Vec<String> = sources
        .iter()
        .map(|source| link(out, source.folder.path()))
        .collect();
    let mut judged = claims
        .claim
        .iter()
        .map(|claim| claim.judge(experiments, sources, model))
        .collect::<Result<Vec<_>>>()?
        .into_iter();
    Ok(Report {
        title: "The evaluation of ELISA, measured again".to_owned(),
        revision,
        headline: judged.next(),
        claims: judged.collect(),
        folders: sources
            .iter()
            .map(|source| folder_view(source, experiments))
            .collect(),
        figures: experiments
            .iter()
            .map(|experiment| figure::figure(experiment, sources, &links, model))
            .collect::<Result<_>>()?,
        projection: projection::projection(model, experiments, sources)?,
    })
}

fn folder_view(source: &Source, experiments: &[Experiment]) -> FolderView {
    let run = &source.folder.run;
    let mut environment = vec![
        Fact::new("revision", run.revision.as_str()),
        Fact::new("place", run.place.name()),
        Fact::new("label of measured values", run.label.as_str()),
        Fact::new("version of the ABI", run.abi_version.to_string()),
    ];
    let mut kernels: Vec<String> = Vec::new();
    for experiment in experiments {
        if let State::Results(results, _) = source.state(experiment) {
            let about = &results.about;
            let kernel = format!("{}, on {}", about.kernel, about.machine);
            if !kernels.contains(&kernel) {
                kernels.push(kernel);
            }
        }
    }
    if !kernels.is_empty() {
        environment.push(Fact::new("kernel of the VMs' host", kernels.join("; ")));
    }
    let more = run.environment.iter();
    environment.extend(more.map(|(name, says)| Fact::new(name, says.as_str())));
    FolderView {
        name: source.name.clone(),
        label: run.label.clone(),
        notes: source.notes.clone(),
        environment,
    }
}

/// Writes files into a folder, each whole or not at all.
fn write_files(out: &Path, files: &[(&str, String)]) -> Result<()> {
    let fail = || format!("cannot write into {}", out.display());
    fs::create_dir_all(out).with_context(fail)?;
    for (name, text) in files {
        output::write_whole(&out.join(name), |file| file.write_all(text.as_bytes()))
            .with_context(fail)?;
    }
    Ok(())
}

/// The beginning of links from one folder into another: nothing, or a path with a slash at its end.
fn link(from: &Path, to: &Path) -> String {
    let absolute = |path: &Path| {
        let path = path.canonicalize().or_else(|_| std::path::absolute(path));
        path.unwrap_or_default()
    };
    let (from, to) = (absolute(from), absolute(to));
    let parts = |path: &Path| -> Vec<String> {
        let parts = path.components();
        let normal = parts.filter(|part| matches!(part, Component::Normal(_)));
        normal
            .map(|part| part.as_os_str().to_string_lossy().into_owned())
            .collect()
    };
    let (from, to) = (parts(&from), parts(&to));
    let shared = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let up = from[shared..].iter().map(|_| "../".to_owned());
    let down = to[shared..]
        .iter()
        .map(|part| format!("{}/", encoded(part)));
    up.chain(down).collect()
}

/// A part of a path as it stands in a link.
fn encoded(part: &str) -> String {
    let mut text = String::new();
    for byte in part.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                text.push(char::from(byte));
            }
            _ => text += &format!("%{byte:02X}"),
        }
    }
    text
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
