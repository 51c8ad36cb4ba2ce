//! KVM with Postern's patches, for one kernel.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::cache::{Cache, Key, Step};
use super::kernel::{self, Flavour, KernelTree};
use super::progress::Progress;
use super::series::Series;

/// What the modules are made of, besides the kernel: the patches, and the data plane that is linked
/// into them.
const INPUTS: [&str; 7] = [
    "kernel-patches/build.sh",
    "kernel-patches/series",
    "host-nic/kernel-object",
    "host-nic/switch/src",
    "guest-lib/abi/src",
    "Cargo.toml",
    ".cargo/config.toml",
];

/// Patched modules.
#[derive(Clone, Debug)]
pub struct Modules {
    /// `kvm.ko`.
    pub kvm: PathBuf,
    /// `kvm-intel.ko`.
    pub kvm_intel: PathBuf,
}

/// Defences that the modules have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defences {
    /// All of them.
    Complete,
    /// All that a parameter does not leave out; for tests of attacks only.
    Omittable,
}

/// Builds the modules.
///
/// # Errors
///
/// A sentence that says what failed.
pub fn build(
    cache: &Cache,
    progress: &Progress,
    root: &Path,
    series: &Series,
    (tree, flavour): (&KernelTree, Flavour),
    defences: Defences,
) -> Result<Modules> {
    let source = kernel::source(cache, progress, series)?;
    let inputs: Vec<PathBuf> = INPUTS.iter().map(|path| root.join(path)).collect();
    let key = Key::new()
        .files(&inputs)?
        .identity(&source)?
        .identity(&tree.kernel.image)?;
    let (mut name, mut title) = match flavour {
        Flavour::Small => ("modules".to_owned(), "patched KVM".to_owned()),
        Flavour::Debug => (
            "modules-debug".to_owned(),
            "patched KVM with checks".to_owned(),
        ),
        Flavour::Debian => (
            "modules-debian".to_owned(),
            "patched KVM for Debian's kernel".to_owned(),
        ),
    };
    let mut more = Vec::new();
    if defences == Defences::Omittable {
        name += "-weakened";
        title += ", with defences that can be left out";
        more.extend(["--extra".into(), series.omit_defences()]);
    }
    let step = Step {
        name: &name,
        title: &title,
        key,
        megabytes: 500,
    };
    let directory = cache.step(progress, &step, |directory, task| {
        task.run(
            Command::new(root.join("kernel-patches/build.sh"))
                .arg("build")
                .arg("--series")
                .arg(series.name())
                .arg("--kdir")
                .arg(&tree.build)
                .arg("--out")
                .arg(directory)
                .args(&more)
                .env("POSTERN_CACHE", cache.path(""))
                .env("POSTERN_LINUX_SOURCE", &source),
        )
    })?;
    Ok(Modules {
        kvm: directory.join("kvm.ko"),
        kvm_intel: directory.join("kvm-intel.ko"),
    })
}
