//! KVM with Postern's patches, for one kernel.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::cache::{Cache, Key, Step};
use super::kernel::{Flavour, KernelTree};
use super::progress::Progress;

/// What the modules are made of, besides the kernel: the patches, and the data plane that is linked
/// into them.
const INPUTS: [&str; 4] = [
    "kernel-patches",
    "host-nic",
    "guest-lib/abi/src",
    "Cargo.toml",
];

/// Patched modules.
#[derive(Clone, Debug)]
pub struct Modules {
    /// `kvm.ko`.
    pub kvm: PathBuf,
    /// `kvm-intel.ko`.
    pub kvm_intel: PathBuf,
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
    source: &Path,
    tree: &KernelTree,
    flavour: Flavour,
) -> Result<Modules> {
    let inputs: Vec<PathBuf> = INPUTS.iter().map(|path| root.join(path)).collect();
    let key = Key::new()
        .files(&inputs)?
        .identity(source)?
        .identity(&tree.kernel.image)?;
    let (name, title) = match flavour {
        Flavour::Small => ("modules", "patched KVM"),
        Flavour::Debug => ("modules-debug", "patched KVM with checks"),
        Flavour::Debian => ("modules-debian", "patched KVM for Debian's kernel"),
    };
    let step = Step {
        name,
        title,
        key,
        megabytes: 500,
    };
    let directory = cache.step(progress, &step, |directory, task| {
        task.run(
            Command::new(root.join("kernel-patches/build.sh"))
                .arg("build")
                .arg("--kdir")
                .arg(&tree.build)
                .arg("--out")
                .arg(directory)
                .env("POSTERN_CACHE", cache.path(""))
                .env("POSTERN_LINUX_SOURCE", source),
        )
    })?;
    Ok(Modules {
        kvm: directory.join("kvm.ko"),
        kvm_intel: directory.join("kvm-intel.ko"),
    })
}
