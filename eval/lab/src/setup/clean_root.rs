//! A clean Debian system in a directory, with DKMS and the headers of a series' kernel, in which
//! packages are tried.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::cache::{Cache, Key, Step};
use super::download::Release;
use super::progress::Progress;
use super::series::Series;

/// Makes the system of a series' Debian release with a program of `host`'s release. It takes root.
///
/// # Errors
///
/// A sentence that says what failed.
pub fn make(cache: &Cache, progress: &Progress, series: &Series, host: &Series) -> Result<PathBuf> {
    let headers = series.image_package.replacen("image", "headers", 1);
    let packages = format!("dkms,kmod,{headers}");
    let step = Step {
        name: &format!("debian-{}", series.debian),
        title: &format!("clean Debian {}", series.debian),
        about: "2 minutes, by network",
        key: Key::new()
            .bytes(series.debian.as_bytes())
            .bytes(packages.as_bytes()),
        megabytes: 1000,
    };
    let directory = cache.step(progress, &step, |directory, task| {
        let (tool, root) = (directory.join("tool"), directory.join("root"));
        if root.exists() {
            fs::remove_dir_all(&root).context("removing an interrupted try")?;
        }
        Release::open(cache, task, &host.debian)?.unpack("mmdebstrap", &tool)?;
        let release = Release::open(cache, task, &series.debian)?;
        task.show_line("installing packages");
        task.run(
            Command::new("perl")
                .arg(tool.join("usr/bin/mmdebstrap"))
                .args(["--mode=root", "--variant=apt", "--include", &packages])
                .args(["--aptopt=Acquire::Languages \"none\"", ""])
                .arg(&root)
                .arg(release.sources()),
        )
    })?;
    Ok(directory.join("root"))
}
