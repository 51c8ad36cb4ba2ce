//! The series' own test, in the kernel's style, built with the library of the kernel's selftests.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::cache::{Cache, Key, Step};
use super::progress::Progress;

/// File name of the program.
const PROGRAM: &str = "ept_view_test";

/// Builds the selftest of the checkout at `root` for the kernel with this source.
///
/// # Errors
///
/// A sentence that says what failed.
pub fn build(
    cache: &Cache,
    progress: &Progress,
    root: &Path,
    (series, source): (&str, &Path),
) -> Result<PathBuf> {
    let patches = root.join("kernel-patches");
    let script = patches.join("build/selftest.sh");
    let files = [
        script.clone(),
        patches.join("new/tools"),
        patches.join("new/include"),
    ];
    let step = Step {
        name: &format!("selftest-{series}"),
        title: "the kernel's selftest of views",
        about: "half a minute",
        key: Key::new().identity(source)?.files(&files)?,
        megabytes: 50,
    };
    let directory = cache.step(progress, &step, |directory, task| {
        let mut command = Command::new(&script);
        command.arg("--source").arg(source);
        command.arg("--work").arg(directory.join("work"));
        command.arg("--out").arg(directory.join(PROGRAM));
        task.run(&mut command)
    })?;
    Ok(directory.join(PROGRAM))
}
