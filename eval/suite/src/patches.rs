//! Style of the kernel patches, as the kernel's own checker sees it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use postern_lab::setup::Series;

use crate::native::capture;
use crate::report::{TestReport, Verdict};

/// The patches of all series, with the names of their tests.
pub fn all(root: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut patches = Vec::new();
    for series in Series::all(root)? {
        let mut paths = series.patches()?;
        paths.push(series.omit_defences());
        for path in paths {
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            let name = format!("native/style of {}/{file}", series.name());
            patches.push((name, path));
        }
    }
    Ok(patches)
}

/// Checks the patches that are wanted with the checker of this kernel source, a compressed archive.
///
/// # Errors
///
/// The checker cannot be had or run.
pub fn run(
    report: &TestReport,
    root: &Path,
    source: impl FnOnce() -> Result<PathBuf>,
    wanted: impl Fn(&str) -> bool,
) -> Result<()> {
    let patches: Vec<_> = all(root)?
        .into_iter()
        .filter(|(name, _)| wanted(name))
        .collect();
    if patches.is_empty() {
        return Ok(());
    }
    let source = source()?;
    let directory = tempfile::tempdir().context("making a directory for the checker")?;
    // Its lists of words and of names lie beside it.
    let (success, output) = capture(
        "unpacking the style checker",
        Command::new("tar")
            .args(["-C"])
            .arg(directory.path())
            .args(["--strip-components=1", "--wildcards", "-xf"])
            .arg(&source)
            .args([
                "*/scripts/checkpatch.pl",
                "*/scripts/spelling.txt",
                "*/scripts/const_structs.checkpatch",
            ]),
    )?;
    anyhow::ensure!(
        success,
        "unpacking the style checker from {}: {output}",
        source.display()
    );
    // One that finds fault with nothing proves nothing.
    let faulty = directory.path().join("faulty.patch");
    fs::write(&faulty, FAULTY).with_context(|| format!("writing {}", faulty.display()))?;
    let (faultless, _) = check(directory.path(), "the style checker itself", &faulty)?;
    anyhow::ensure!(
        !faultless,
        "the style checker finds no fault with:\n{FAULTY}"
    );
    for (name, patch) in patches {
        let start = Instant::now();
        let (faultless, output) = check(directory.path(), &name, &patch)?;
        let verdict = match faultless {
            true => Verdict::Passed,
            false => Verdict::Failed(output),
        };
        report.line(&name, &verdict, Some(start.elapsed()));
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
