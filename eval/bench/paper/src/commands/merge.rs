//! `cargo paper merge`: results that several machines made, in one folder.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use super::say;
use crate::bundle;
use crate::experiment;
use crate::results::Folder;

/// Arguments of the command.
#[derive(Args, Clone, Debug)]
pub struct MergeArguments {
    /// New folder for the results
    #[arg(value_name = "FOLDER")]
    pub into: PathBuf,

    /// Folders of results of one revision, from machines of one kind
    #[arg(value_name = "FOLDER", required = true)]
    pub from: Vec<PathBuf>,
}

/// Puts the figures of several folders into a new one.
///
/// # Errors
///
/// Folders whose results do not belong together, and a figure that two of them have with other values.
pub fn merge(arguments: &MergeArguments) -> Result<()> {
    let folders = arguments
        .from
        .iter()
        .map(|path| Folder::open(path))
        .collect::<Result<Vec<_>>>()?;
    let first = folders.first().context("no folders")?;
    ensure!(
        !arguments.into.exists(),
        "{} exists; give a new folder",
        arguments.into.display()
    );
    let mut merged = Vec::new();
    for experiment in experiment::all(bundle::root())? {
        for folder in &folders {
            first.check_same(&folder.run)?;
            let Some(results) = folder.read(&experiment.name)? else {
                continue;
            };
            match merged.iter().find(|(name, _, _)| *name == experiment.name) {
                None => merged.push((experiment.name.clone(), folder.path(), results)),
                Some((_, _, known)) if known.values == results.values => {}
                Some((name, other, _)) => bail!(
                    "{name}: {} and {} have other values",
                    other.display(),
                    folder.path().display()
                ),
            }
        }
    }
    let into = Folder::create(&arguments.into, &first.run)?;
    for (_, _, results) in &merged {
        into.write(results)?;
    }
    say(&format!(
        "{} figures: {}",
        merged.len(),
        into.path().display()
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_that_are_none_are_told() {
        let directory = tempfile::tempdir().unwrap();
        let arguments = MergeArguments {
            into: directory.path().join("new"),
            from: vec![directory.path().to_owned()],
        };
        let error = merge(&arguments).unwrap_err().to_string();
        assert!(error.contains("no folder of results"), "{error}");
        assert!(!arguments.into.exists());
    }
}
