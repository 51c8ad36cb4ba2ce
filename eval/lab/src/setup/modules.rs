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
const INPUTS: [&str; 9] = [
    "kernel-patches/build.sh",
    "kernel-patches/series",
    "host-nic/kernel-object",
    "host-nic/switch/Cargo.toml",
    "host-nic/switch/src",
    "guest-lib/abi/Cargo.toml",
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use super::super::checkout::root;
    use super::*;

    fn manifest(folder: &Path) -> toml::Table {
        let text = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
        text.parse().unwrap()
    }

    /// Else modules of other sources would be taken for those of these.
    #[test]
    fn all_crates_in_the_modules_are_inputs() {
        let workspace = manifest(root());
        let known = &workspace["workspace"]["dependencies"];
        let mut left = vec!["host-nic/kernel-object".to_owned()];
        let mut folders = BTreeSet::new();
        while let Some(folder) = left.pop() {
            let manifest = manifest(&root().join(&folder));
            let names = manifest.get("dependencies").and_then(|all| all.as_table());
            let names = names.into_iter().flat_map(|all| all.keys());
            let paths = names.filter_map(|name| known[name].get("path")?.as_str());
            left.extend(paths.map(str::to_owned));
            folders.insert(folder);
        }
        assert_eq!(folders.len(), 3, "{folders:?}");
        for path in folders.iter().flat_map(|folder| {
            let parts = ["Cargo.toml", "src"];
            parts.map(|part| Path::new(folder).join(part))
        }) {
            let covered = INPUTS.iter().any(|input| path.starts_with(input));
            assert!(covered, "{}", path.display());
        }
        for input in INPUTS {
            assert!(root().join(input).exists(), "{input}");
        }
    }
}
