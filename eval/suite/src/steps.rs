//! Builds the modules after each step of each kernel series: a series is read, and bisected, one
//! step after another.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use postern_lab::setup::Series;
use postern_lab::setup::cache::Cache;

use crate::native::{capture, summary};
use crate::report::{TestReport, Verdict};

/// What a series is built with.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The kernel's source, a compressed archive.
    pub source: PathBuf,
    /// Headers of a kernel that the series is for.
    pub headers: PathBuf,
}

/// Name of the test of a series' patch.
fn name(series: &Series, patch: &Path) -> String {
    let file = patch.file_name().unwrap_or_default().to_string_lossy();
    format!("native/build of {}/{file}", series.name())
}

/// Names of the tests.
///
/// # Errors
///
/// A folder that describes no series.
pub fn names(root: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for series in Series::all(root)? {
        let patches = series.patches()?;
        names.extend(patches.iter().map(|patch| name(&series, patch)));
    }
    Ok(names)
}

/// Builds each series of which a step is wanted, up to its end, with what `kernel` gives for it.
///
/// # Errors
///
/// The script cannot be run, or does not tell of a step.
pub fn run(
    report: &TestReport,
    root: &Path,
    kernel: impl Fn(&Series) -> Result<Kernel>,
    wanted: impl Fn(&str) -> bool,
) -> Result<()> {
    for series in Series::all(root)? {
        let patches = series.patches()?;
        if !patches.iter().any(|patch| wanted(&name(&series, patch))) {
            continue;
        }
        let kernel = kernel(&series)?;
        let start = Instant::now();
        let (success, output) = capture(
            &format!(
                "building the steps of {} (at first 2 minutes)",
                series.name()
            ),
            Command::new(root.join("kernel-patches/build.sh"))
                .args(["steps", "--series", &series.name(), "--kdir"])
                .arg(&kernel.headers)
                .env("POSTERN_CACHE", Cache::open()?.path(""))
                .env("POSTERN_LINUX_SOURCE", &kernel.source),
        )?;
        let mut failed = false;
        for patch in &patches {
            let verdict = verdict(&output, patch)
                .with_context(|| format!("building the steps of {}: {output}", series.name()))?;
            failed |= verdict != Verdict::Passed;
            let name = name(&series, patch);
            if wanted(&name) {
                report.line(&name, &verdict, Some(start.elapsed()));
            }
        }
        ensure!(
            success != failed,
            "the verdicts are contradictory: {output}"
        );
    }
    Ok(())
}

/// What the script says of this patch.
fn verdict(output: &str, patch: &Path) -> Option<Verdict> {
    let file = patch.file_name()?.to_str()?;
    output.lines().find_map(|line| match line.split_once(' ')? {
        ("built", name) if name == file => Some(Verdict::Passed),
        ("failed", name) if name == file => Some(Verdict::Failed(summary(output))),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_told_is_not_passed() {
        let output = "built 1.patch\nfailed 2.patch\nvmx.c:3: error: x\n";
        let of = |name: &str| verdict(output, Path::new(name));
        assert_eq!(of("series/1.patch"), Some(Verdict::Passed));
        assert!(matches!(of("2.patch"), Some(Verdict::Failed(_))));
        assert_eq!(of("3.patch"), None);
        assert_eq!(of("1"), None);
    }
}
