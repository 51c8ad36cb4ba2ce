//! Style of the kernel patches, as the kernel's own checker sees it: of the complete ones, with the
//! files that they add.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use postern_lab::setup::Series;
use postern_lab::setup::cache::Cache;

use crate::native::capture;
use crate::report::{TestReport, Verdict};

/// A patch whose style is checked.
struct StyleTest {
    name: String,
    /// The file in the checkout.
    patch: PathBuf,
    /// True for a step of the series, which is complete only with the files that it adds.
    is_step: bool,
}

fn of(series: &Series) -> Result<Vec<StyleTest>> {
    let steps = series.patches()?.into_iter().map(|path| (path, true));
    let all = steps.chain([(series.omit_defences(), false)]);
    let test = |(patch, is_step): (PathBuf, bool)| {
        let file = patch.file_name().unwrap_or_default().to_string_lossy();
        StyleTest {
            name: format!("native/style of {}/{file}", series.name()),
            patch,
            is_step,
        }
    };
    Ok(all.map(test).collect())
}

/// Names of the tests.
///
/// # Errors
///
/// A folder that describes no series.
pub fn names(root: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for series in Series::all(root)? {
        names.extend(of(&series)?.into_iter().map(|test| test.name));
    }
    Ok(names)
}

/// Checks the patches that are wanted. Of each series, `source` gives the kernel's source, a
/// compressed archive.
///
/// # Errors
///
/// The checker cannot be had or run.
pub fn run(
    report: &TestReport,
    root: &Path,
    source: impl Fn(&Series) -> Result<PathBuf>,
    wanted: impl Fn(&str) -> bool,
) -> Result<()> {
    for series in Series::all(root)? {
        let tests: Vec<_> = of(&series)?
            .into_iter()
            .filter(|test| wanted(&test.name))
            .collect();
        if !tests.is_empty() {
            check_series(report, root, &series, &source(&series)?, &tests)?;
        }
    }
    Ok(())
}

fn check_series(
    report: &TestReport,
    root: &Path,
    series: &Series,
    source: &Path,
    tests: &[StyleTest],
) -> Result<()> {
    let directory = tempfile::tempdir().context("making a directory for the checker")?;
    // Its lists of words and of names lie beside it.
    let (success, output) = capture(
        "unpacking the style checker",
        Command::new("tar")
            .args(["-C"])
            .arg(directory.path())
            .args(["--strip-components=1", "--wildcards", "-xf"])
            .arg(source)
            .args([
                "*/scripts/checkpatch.pl",
                "*/scripts/spelling.txt",
                "*/scripts/const_structs.checkpatch",
            ]),
    )?;
    ensure!(
        success,
        "unpacking the style checker from {}: {output}",
        source.display()
    );
    // One that finds fault with nothing proves nothing.
    let faulty = directory.path().join("faulty.patch");
    fs::write(&faulty, FAULTY).with_context(|| format!("writing {}", faulty.display()))?;
    let (faultless, _) = check(directory.path(), "the style checker itself", &faulty)?;
    ensure!(
        !faultless,
        "the style checker finds no fault with:\n{FAULTY}"
    );
    let steps = directory.path().join("series");
    let (success, output) = capture(
        "writing the series",
        Command::new(root.join("kernel-patches/build.sh"))
            .args(["series", "--series", &series.name(), "--out"])
            .arg(&steps)
            .env("POSTERN_CACHE", Cache::open()?.path(""))
            .env("POSTERN_LINUX_SOURCE", source),
    )?;
    ensure!(success, "writing the series {}: {output}", series.name());
    for test in tests {
        let start = Instant::now();
        let complete = steps.join(test.patch.file_name().unwrap_or_default());
        let patch = if test.is_step { &complete } else { &test.patch };
        let (faultless, output) = check(directory.path(), &test.name, patch)?;
        let verdict = match faultless {
            true => Verdict::Passed,
            false => Verdict::Failed(output),
        };
        report.line(&test.name, &verdict, Some(start.elapsed()));
    }
    Ok(())
}

/// A patch that is indented with blanks, and is nobody's.
const FAULTY: &str = "\
--- a/kernel/x.c
+++ b/kernel/x.c
@@ -1,1 +1,2 @@
 int x;
+    int y;
";

/// Runs the checker, which was unpacked into this directory, on a patch: gives whether it finds no
/// fault, and what it says.
fn check(directory: &Path, name: &str, patch: &Path) -> Result<(bool, String)> {
    let patch = fs::File::open(patch).with_context(|| format!("opening {}", patch.display()))?;
    let mut perl = Command::new("perl");
    perl.arg(directory.join("scripts/checkpatch.pl"))
        .args(["--strict", "--no-tree", "--no-summary", "--quiet"])
        .arg("--color=never")
        // The list of maintainers is another patch's business.
        .args(["--ignore", "FILE_PATH_CHANGES"])
        // By name, a file that git tracks would be taken for source code.
        .arg("-")
        .stdin(patch);
    capture(name, &mut perl)
}
