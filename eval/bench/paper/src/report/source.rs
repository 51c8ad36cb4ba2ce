//! Folders of results as reports read them: what is there, and what is the matter with it.

use std::path::Path;

use anyhow::Result;

use crate::experiment::Experiment;
use crate::results::{FigureResults, Folder, sha256};

/// A folder of results that a report is made of.
#[derive(Debug)]
pub struct Source {
    /// The folder.
    pub folder: Folder,
    /// Its name.
    pub name: String,
    /// What readers must know about all of it.
    pub notes: Vec<String>,
}

/// What a folder has of a figure.
#[derive(Debug)]
pub enum State {
    /// It was not run.
    NotRun,
    /// There are files, but their values are not to be used: why.
    Unusable(String),
    /// Results, and what readers must know about them.
    Results(Box<FigureResults>, Vec<String>),
}

impl Source {
    /// Opens a folder. `revision` is that of the checkout, whose experiments these are.
    ///
    /// # Errors
    ///
    /// A folder without results, or with some of another format.
    pub fn open(path: &Path, experiments: &[Experiment], revision: &str) -> Result<Source> {
        let folder = Folder::open(path)?;
        let name = path.canonicalize().ok();
        let name = name.as_deref().and_then(Path::file_name);
        let name = name.map_or_else(
            || path.display().to_string(),
            |name| name.to_string_lossy().into_owned(),
        );
        let mut source = Source {
            folder,
            name,
            notes: Vec::new(),
        };
        source.notes = source.notes_on(experiments, revision);
        Ok(source)
    }

    fn notes_on(&self, experiments: &[Experiment], revision: &str) -> Vec<String> {
        let run = &self.folder.run;
        let mut notes = Vec::new();
        if run.revision != revision {
            notes.push(format!(
                "Other revision: these results are of {}, the descriptions and published values of {revision}.",
                run.revision
            ));
        }
        if run.quick {
            notes.push("A quick run: its figures have fewer points.".to_owned());
        }
        if run.repeats > 1 {
            notes.push(format!(
                "Each point was run {} times: values are medians, within intervals of 95 %; what each run gave is \
                 in repeats.csv beside points.csv.",
                run.repeats
            ));
        }
        if !run.changes.is_empty() {
            notes.push(format!(
                "Workloads were changed: {}.",
                run.changes.join(", ")
            ));
        }
        let missing: Vec<&str> = experiments
            .iter()
            .filter(|one| !one.definition.series.is_empty())
            .filter(|one| one.definition.at.contains(&run.place))
            .filter(|one| matches!(self.state(one), State::NotRun))
            .map(|one| &one.name[..])
            .collect();
        if !missing.is_empty() {
            notes.push(format!("Partial: not run: {}.", missing.join(", ")));
        }
        notes
    }

    /// What the folder has of an experiment.
    pub fn state(&self, experiment: &Experiment) -> State {
        let results = match self.folder.read(&experiment.name) {
            Ok(None) => return State::NotRun,
            Err(error) => return State::Unusable(format!("{error:#}")),
            Ok(Some(results)) => results,
        };
        let mut notes = Vec::new();
        let definition = &experiment.definition;
        if results.about.definition_sha256 != sha256(experiment.text.as_bytes()) {
            notes.push(
                "Edited: experiment.toml is not the one that was run (its hash differs)."
                    .to_owned(),
            );
        }
        let expected = definition.points(self.folder.run.quick);
        let points = &results.about.points;
        let there = points.iter().filter(|point| point.failure.is_none());
        let there = there.count();
        if there < expected {
            notes.push(format!(
                "Partial: {there} of {expected} points have values."
            ));
        }
        State::Results(Box::new(results), notes)
    }
}
