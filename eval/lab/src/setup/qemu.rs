//! QEMU as Debian distributes it: the program that most users of KVM run.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use super::cache::{Cache, Key, Step};
use super::download::Release;
use super::dynamic::{LOADER, libraries};
use super::progress::Progress;
use super::series::Series;
use crate::job::Job;

/// The package.
const PACKAGE: &str = "qemu-system-x86";
/// The program, in the package.
const PROGRAM: &str = "usr/bin/qemu-system-x86_64";
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
        let mut files = libraries(&tree, &program)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_names_the_files() {
        let program = PROGRAM.rsplit('/').next().unwrap();
        for name in [LOADER, program] {
            assert!(Qemu::COMMAND.contains(&format!("qemu/{name} ")), "{name}");
        }
    }
}
