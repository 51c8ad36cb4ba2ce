//! KVM with Postern's patches, for one kernel.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::cache::{Cache, Key, Step};
use super::kernel::Flavour;
use super::kernel_tree::KernelTree;
use super::progress::Progress;
use super::series::Series;

/// What modules are made of, besides the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The top of the checkout.
    pub root: &'a Path,
    /// The patches.
    pub series: &'a Series,
    /// Debian's source of the kernel, a compressed archive.
    pub source: &'a Path,
    /// The switch that is linked into them, an object.
    pub service: &'a Path,
}

impl Inputs<'_> {
    /// The script that builds them.
    fn script(&self) -> PathBuf {
        self.root.join("kernel-patches/build.sh")
    }

    /// Stands for all of them by their contents: whatever changes the switch's object, a crate in it
    /// or how it is built, makes other modules.
    fn key(&self, tree: &KernelTree) -> Result<Key> {
        let folder = |name| self.root.join("kernel-patches").join(name);
        let mut files = self.series.patches()?;
        files.extend([folder("new"), folder("build"), self.script()]);
        files.push(self.service.to_owned());
        Key::new()
            .files(&files)?
            .identity(self.source)?
            .identity(&tree.kernel.image)
    }
}

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
    inputs: &Inputs<'_>,
    (tree, flavour): (&KernelTree, Flavour),
    defences: Defences,
) -> Result<Modules> {
    let mut key = inputs.key(tree)?;
    let series = inputs.series.name();
    let (mut name, mut title) = match flavour {
        Flavour::Small => (
            "modules".to_owned(),
            format!("patched KVM of Linux {series}"),
        ),
        Flavour::Debug => (
            "modules-debug".to_owned(),
            format!("patched KVM of Linux {series} with checks"),
        ),
        Flavour::Debian => (
            "modules-debian".to_owned(),
            format!("patched KVM for Debian's Linux {series}"),
        ),
    };
    let mut more = Vec::new();
    if defences == Defences::Omittable {
        name += "-weakened";
        title += ", with defences that can be left out";
        let patch = inputs.series.omit_defences();
        key = key.files(std::slice::from_ref(&patch))?;
        more.extend(["--extra".into(), patch]);
    }
    let step = Step {
        name: &format!("{name}-{series}"),
        title: &title,
        about: "about a minute",
        key,
        megabytes: 500,
    };
    let directory = cache.step(progress, &step, |directory, task| {
        task.run(
            Command::new(inputs.script())
                .arg("build")
                .arg("--series")
                .arg(&series)
                .arg("--kdir")
                .arg(&tree.build)
                .arg("--out")
                .arg(directory)
                .arg("--service")
                .arg(inputs.service)
                .args(&more)
                .env("POSTERN_CACHE", cache.path(""))
                .env("POSTERN_LINUX_SOURCE", inputs.source),
        )
    })?;
    Ok(Modules {
        kvm: directory.join("kvm.ko"),
        kvm_intel: directory.join("kvm-intel.ko"),
    })
}
