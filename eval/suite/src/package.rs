//! The Debian package of the modules, in a clean system of each series' Debian release: it builds
//! them by DKMS, they come before the kernel's own, and it leaves nothing behind.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use postern_lab::machine::RunDirectory;
use postern_lab::setup::cache::Cache;
use postern_lab::setup::{Flavour, Series, Setup};

use crate::native::{capture, summary};
use crate::report::{TestReport, Verdict};

/// How the modules for a kernel come to be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// The package is installed where the kernel is.
    PackageLast,
    /// The kernel is installed where the package is, as by an update.
    KernelLast,
}

impl Order {
    fn of(series: &Series) -> Self {
        // Each takes as long as a build, so that a series tries one of them.
        match series.default {
            true => Self::PackageLast,
            false => Self::KernelLast,
        }
    }
}

fn name(series: &Series) -> String {
    let what = match Order::of(series) {
        Order::PackageLast => "builds modules for the kernel that is there",
        Order::KernelLast => "builds modules for a kernel that comes later",
    };
    format!("native/package on Debian {} {what}", series.debian)
}

/// Names of the tests.
///
/// # Errors
///
/// A folder that describes no series.
pub fn names(root: &Path) -> Result<Vec<String>> {
    Ok(Series::all(root)?.iter().map(name).collect())
}

/// Tries the package on those releases that are wanted.
///
/// # Errors
///
/// What it takes cannot be made.
pub fn run(report: &TestReport, root: &Path, wanted: impl Fn(&str) -> bool) -> Result<()> {
    for series in Series::all(root)? {
        let name = name(&series);
        if !wanted(&name) {
            continue;
        }
        let start = Instant::now();
        let uid = fs::metadata("/proc/self")
            .context("asking who this is")?
            .uid();
        let verdict = match uid == 0 {
            true => try_package(root, &series)?,
            false => Verdict::Skipped("a clean system takes root".to_owned()),
        };
        report.line(&name, &verdict, Some(start.elapsed()));
    }
    Ok(())
}

fn try_package(root: &Path, series: &Series) -> Result<Verdict> {
    let setup = Setup::of(series)?;
    let system = setup.clean_root()?;
    let cache = Cache::open()?;
    // On the cache's disk: it becomes as large as a build.
    let scratch = RunDirectory::new(&cache.path("run"), false)?;
    let (success, output) = capture(
        &format!("package for {}", series.name()),
        Command::new(root.join("kernel-patches/build.sh"))
            .args(["deb", "--series", &series.name(), "--out"])
            .arg(scratch.path())
            .arg("--service")
            .arg(setup.kernel_object()?)
            .env("POSTERN_CACHE", cache.path(""))
            .env("POSTERN_LINUX_SOURCE", setup.kernel_source()?),
    )?;
    ensure!(success, "making the package: {output}");
    let script = root.join("eval/suite/src/package.sh");
    let order = match Order::of(series) {
        Order::PackageLast => "package-last",
        Order::KernelLast => "kernel-last",
    };
    let (success, output) = capture(
        &format!("package on Debian {} (1 minute)", series.debian),
        // What it mounts is nobody else's, and goes with it.
        Command::new("unshare")
            .args(["--mount", "bash"])
            .arg(script)
            .arg(system)
            .arg(scratch.path())
            .arg(order)
            .args(&setup.kernel(Flavour::Debian)?.stock),
    )?;
    Ok(match success {
        true => Verdict::Passed,
        false => Verdict::Failed(summary(&output)),
    })
}
