//! QEMU as Debian distributes it: the program that most users of KVM run.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::cache::{Cache, Key, Step};
use super::download::Release;
use super::progress::Progress;
use super::series::Series;
use crate::job::Job;

/// The package.
const PACKAGE: &str = "qemu-system-x86";
/// The program, in the package.
const PROGRAM: &str = "usr/bin/qemu-system-x86_64";
/// The dynamic loader, which is one of the libraries.
const LOADER: &str = "ld-linux-x86-64.so.2";
/// Where packages have their libraries.
const LIBRARIES: [&str; 2] = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];
/// What the program reads to boot Linux: firmware, and parts of it that cards would bring.
const DATA: [&str; 3] = [
    "usr/share/seabios/bios-256k.bin",
    "usr/share/qemu/kvmvapic.bin",
    "usr/share/qemu/linuxboot_dma.bin",
];

/// QEMU with its libraries and data, in a directory of its own.
#[derive(Clone, Debug)]
pub struct Qemu(PathBuf);

impl Qemu {
    /// The command that runs it, without arguments, in a job that [`Qemu::add_to`] gave the files.
    pub const COMMAND: &str = "qemu/ld-linux-x86-64.so.2 --library-path qemu qemu/qemu-system-x86_64 \
                               -L qemu -nodefaults -no-user-config";

    /// Gives a job all files.
    ///
    /// # Errors
    ///
    /// The cache cannot be read.
    pub fn add_to(&self, mut job: Job) -> Result<Job> {
        let entries = fs::read_dir(&self.0).context("reading the directory of QEMU")?;
        for entry in entries {
            let entry = entry.context("reading the directory of QEMU")?;
            let name = entry.file_name();
            let name = name.to_str().context("a file of QEMU without a name")?;
            if !name.starts_with('.') {
                job = job.file(&format!("qemu/{name}"), entry.path());
            }
        }
        Ok(job)
    }
}

/// Fetches QEMU of the Debian release that a series is for.
///
/// # Errors
///
/// A sentence that says what failed.
pub fn fetch(cache: &Cache, progress: &Progress, series: &Series) -> Result<Qemu> {
    let step = Step {
        name: "qemu",
        title: "Debian's QEMU",
        about: "half a minute, by network",
        key: Key::new()
            .bytes(series.debian.as_bytes())
            .bytes(DATA.concat().as_bytes()),
        megabytes: 400,
    };
    let directory = cache.step(progress, &step, |directory, task| {
        let tree = directory.join(".packages");
        Release::open(cache, task, &series.debian)?.unpack_with_dependencies(PACKAGE, &tree)?;
        let program = tree.join(PROGRAM);
        let mut files = needed(&tree, &program)?;
        files.push(program);
        files.extend(DATA.map(|path| tree.join(path)));
        for file in files {
            let name = file.file_name().unwrap_or_default();
            fs::copy(&file, directory.join(name))
                .with_context(|| format!("copying {}", file.display()))?;
        }
        ensure!(
            directory.join(LOADER).exists(),
            "Debian's QEMU needs no {LOADER} as it used to"
        );
        fs::remove_dir_all(&tree).context("removing what is not needed of Debian's packages")
    })?;
    Ok(Qemu(directory))
}

/// The libraries that a program needs, and those that they need, of packages unpacked into `tree`.
fn needed(tree: &Path, program: &Path) -> Result<Vec<PathBuf>> {
    let mut known = BTreeSet::new();
    let mut libraries = Vec::new();
    let mut unread = vec![program.to_owned()];
    while let Some(file) = unread.pop() {
        let output = Command::new("readelf").arg("-dW").arg(&file).output();
        let output = output.context("running readelf")?;
        for name in needed_names(&String::from_utf8_lossy(&output.stdout)) {
            if !known.insert(name.to_owned()) {
                continue;
            }
            let places = LIBRARIES.map(|place| tree.join(place).join(name));
            let Some(library) = places.into_iter().find(|path| path.exists()) else {
                bail!("{name}, which {} needs, is in no package", file.display());
            };
            libraries.push(library.clone());
            unread.push(library);
        }
    }
    Ok(libraries)
}

/// Names in what `readelf -d` prints of a file: `... (NEEDED) Shared library: [NAME]`.
fn needed_names(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter(|line| line.contains("(NEEDED)"))
        .filter_map(|line| line.rsplit_once('[')?.1.strip_suffix(']'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_needed_libraries_are_read() {
        let text = " 0x0000000000000001 (NEEDED)             Shared library: [libz.so.1]\n \
                    0x000000000000000e (SONAME)             Library soname: [libx.so.2]\n";
        assert_eq!(needed_names(text).collect::<Vec<_>>(), ["libz.so.1"]);
    }

    #[test]
    fn the_command_names_the_files() {
        let program = PROGRAM.rsplit('/').next().unwrap();
        for name in [LOADER, program] {
            assert!(Qemu::COMMAND.contains(&format!("qemu/{name} ")), "{name}");
        }
    }
}
