//! `cargo paper report`.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::Args;

use super::say;
use crate::bundle;
use crate::report::{self, compare};

/// Arguments of the command.
#[derive(Args, Clone, Debug, Default)]
pub struct ReportArguments {
    /// Folders of results; values of each stand beside the published ones
    #[arg(value_name = "FOLDER")]
    pub folders: Vec<PathBuf>,

    /// Show two folders side by side, and what differs between them
    #[arg(long, num_args = 2, value_names = ["A", "B"])]
    pub compare: Vec<PathBuf>,

    /// Another cost model than eval/bench/cost-model.toml, as of `cargo paper calibrate`
    #[arg(long, value_name = "FILE")]
    pub model: Option<PathBuf>,

    /// Folder that the report is written into [default: the first of the folders, or B]
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<PathBuf>,
}

/// Writes a report of folders of results, or a comparison of two.
///
/// # Errors
///
/// Folders without results, and files that cannot be written.
pub fn report(arguments: &ReportArguments) -> Result<()> {
    let out = |default: &Path| arguments.out.clone().unwrap_or_else(|| default.to_owned());
    if let [a, b] = &arguments.compare[..] {
        let out = out(b);
        let comparison = compare::write(a, b, &out)?;
        say(&compare::text(&comparison)?);
        say(&format!("Comparison: {}", compare::file(&out).display()));
    }
    match arguments.folders.first() {
        Some(first) => {
            let file = report::write(&arguments.folders, arguments.model.as_deref(), &out(first))?;
            say(&format!("Report: {}", file.display()));
        }
        None if arguments.compare.is_empty() => bail!("{}", which()),
        None => {}
    }
    Ok(())
}

/// What to say to somebody who named no folder.
fn which() -> String {
    let results = bundle::root().join("results");
    let mut names: Vec<String> = std::fs::read_dir(&results)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .map(|entry| format!("results/{}", entry.file_name().to_string_lossy()))
        .collect();
    names.sort();
    match names.is_empty() {
        true => "name a folder of results; cargo paper run makes one".to_owned(),
        false => format!("name a folder of results; there are {}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_that_are_none_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nowhere");
        for arguments in [
            ReportArguments {
                folders: vec![path.clone()],
                ..Default::default()
            },
            ReportArguments {
                compare: vec![path.clone(), path.clone()],
                ..Default::default()
            },
        ] {
            let error = report(&arguments).unwrap_err().to_string();
            assert!(error.contains("nowhere is no folder of results"), "{error}");
        }
        let error = report(&ReportArguments::default()).unwrap_err().to_string();
        assert!(error.contains("name a folder of results"), "{error}");
    }
}
