//! Root file systems of Debian packages, as images for disks.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::IMAGE;
use crate::setup::cache::{Cache, Key, Step};
use crate::setup::checkout;
use crate::setup::download::Release;
use crate::setup::packages;
use crate::setup::progress::{Progress, Task};
use crate::setup::series::Series;

/// Packages that make images, and what they are needed for.
const MAKERS: [packages::Package; 2] = [
    ("erofs-utils", "root file systems of guests"),
    ("perl", "mmdebstrap, which installs packages into them"),
];

/// What no program reads, which is half of a small system.
const LEFT_OUT: [&str; 6] = [
    "usr/share/doc",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/man",
    "var/cache/apt",
    "var/lib/apt/lists",
];

/// The time of all files: images of equal packages are equal.
const TIME: &str = "0";
/// The file system's own number, for the same reason.
const UUID: &str = "00000000-0000-4000-8000-000000000000";

/// Makes an image of these packages, what they depend on, and what every Debian system has.
///
/// # Errors
///
/// A sentence that says what failed.
pub fn make(
    cache: &Cache,
    progress: &Progress,
    series: &Series,
    names: &[&str],
) -> Result<PathBuf> {
    let mut names: Vec<&str> = names.to_vec();
    names.sort_unstable();
    names.dedup();
    for name in &names {
        ensure!(
            is_name(name),
            "{name:?} is no name of a Debian package; give names of packages with commas between \
             them, such as iperf3,nginx"
        );
    }
    let list = names.join(",");
    let step = Step {
        name: &format!("guest-image-{}", series.debian),
        title: &format!("guest of Debian {} with {list}", series.debian),
        about: "2 minutes, by network",
        key: Key::new()
            .bytes(series.debian.as_bytes())
            .bytes(list.as_bytes())
            .bytes(LEFT_OUT.concat().as_bytes()),
        megabytes: 1500,
    };
    let directory = cache.step(progress, &step, |directory, task| {
        if !rustix::process::geteuid().is_root() {
            bail!("installing Debian packages into a guest's image needs root; run this as root");
        }
        packages::install(cache, progress, &MAKERS)?;
        install(cache, task, series, &names, directory)
    })?;
    Ok(directory.join(IMAGE))
}

fn install(
    cache: &Cache,
    task: &Task,
    series: &Series,
    names: &[&str],
    directory: &Path,
) -> Result<()> {
    let (tool, root) = (directory.join("tool"), directory.join("root"));
    if root.exists() {
        fs::remove_dir_all(&root).context("removing an interrupted try")?;
    }
    let release = Release::open(cache, task, &series.debian)?;
    release.check(names)?;
    let host = Series::default_one(checkout::root())?;
    Release::open(cache, task, &host.debian)?.unpack("mmdebstrap", &tool)?;
    task.show_line("installing packages");
    let mut mmdebstrap = Command::new("perl");
    mmdebstrap
        .arg(tool.join("usr/bin/mmdebstrap"))
        .args(["--mode=root", "--variant=essential", "--include"])
        .arg(names.join(","))
        // What is half done after a crash is made anew.
        .arg("--dpkgopt=force-unsafe-io")
        .args(["--aptopt=Acquire::Languages \"none\"", ""]);
    task.run(mmdebstrap.arg(&root).arg(release.sources()))?;
    for path in LEFT_OUT.map(|path| root.join(path)) {
        if path.exists() {
            fs::remove_dir_all(&path).with_context(|| format!("removing {}", path.display()))?;
        }
    }
    task.show_line("making the image");
    let part = directory.join("image.part");
    task.run(
        Command::new("mkfs.erofs")
            .args(["--quiet", "-T", TIME, "-U", UUID])
            .args([&part, &root]),
    )?;
    for path in [&root, &tool] {
        fs::remove_dir_all(path).context("removing what the image was made of")?;
    }
    fs::rename(&part, directory.join(IMAGE)).context("keeping a guest's image")
}

/// What Debian calls a package (Debian Policy, "Source": lower case letters, digits, `+-.`).
fn is_name(name: &str) -> bool {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c);
    name.len() > 1
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_name_never_reaches_the_shell() {
        for name in ["iperf3", "g++", "libc6", "python3.11-minimal"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "a", "-y", "Nginx", "a b", "a;b", "../a"] {
            assert!(!is_name(name), "{name}");
        }
    }
}
