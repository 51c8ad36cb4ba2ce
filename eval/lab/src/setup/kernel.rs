//! Kernels that the emulated machine boots.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use super::cache::{Cache, Key, Step};
use super::download::Release;
use super::make::make;
use super::progress::{Progress, Task};
use super::series::Series;
use crate::machine::Kernel;

/// Kind of kernel that a machine boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
pub enum Flavour {
    /// A small one, made from Debian's source: quick to boot.
    Small,
    /// The small one with checks of locks and memory: slow, its counts mean nothing.
    Debug,
    /// Debian's own for virtual machines, as it is distributed.
    Debian,
}

/// A kernel, and what modules for it are built with.
#[derive(Clone, Debug)]
pub struct KernelTree {
    /// The kernel that a machine boots.
    pub kernel: Kernel,
    /// Build tree or headers.
    pub build: PathBuf,
    /// `irqbypass.ko`, on which KVM depends.
    pub irqbypass: PathBuf,
    /// `kvm.ko` and `kvm-intel.ko` without Postern's patches.
    pub stock: [PathBuf; 2],
}

/// Debian's source of the kernel of a series, a compressed archive.
///
/// # Errors
///
/// A sentence that says what to do.
pub fn source(cache: &Cache, progress: &Progress, series: &Series) -> Result<PathBuf> {
    if series.source_archive.exists() {
        return Ok(series.source_archive.clone());
    }
    let step = Step {
        name: "linux-source",
        title: "source of Linux",
        about: "a few seconds, by network",
        key: Key::new().bytes(series.linux.as_bytes()),
        megabytes: 400,
    };
    let directory = cache.step(progress, &step, |directory, task| {
        let release = Release::open(cache, task, &series.debian)?;
        release.unpack(&series.source_package, directory)
    })?;
    let archive = series.source_archive.strip_prefix("/");
    Ok(directory.join(archive.unwrap_or(&series.source_archive)))
}

/// Makes or fetches a kernel.
///
/// # Errors
///
/// A sentence that says what failed.
pub fn build(
    cache: &Cache,
    progress: &Progress,
    root: &Path,
    series: &Series,
    flavour: Flavour,
) -> Result<KernelTree> {
    let (name, title, configs): (_, _, &[&str]) = match flavour {
        Flavour::Small => ("linux", "Linux", &["kernel.config"]),
        Flavour::Debug => (
            "linux-debug",
            "Linux with checks",
            &["kernel.config", "debug.config"],
        ),
        Flavour::Debian => return distributed(cache, progress, series),
    };
    let configs: Vec<PathBuf> = configs
        .iter()
        .map(|config| root.join(CONFIGURATIONS).join(config))
        .collect();
    configured(cache, progress, series, (name, title), &configs)
}

/// Folder of the kernels' configurations, from the top of the checkout.
const CONFIGURATIONS: &str = "eval/lab/kernel";

/// A kernel of Debian's source with a configuration of our own.
fn configured(
    cache: &Cache,
    progress: &Progress,
    series: &Series,
    (name, title): (&str, &str),
    configs: &[PathBuf],
) -> Result<KernelTree> {
    let source = source(cache, progress, series)?;
    let key = Key::new().identity(&source)?.files(configs)?;
    let step = Step {
        name,
        title,
        about: "about 7 minutes",
        key,
        megabytes: 2500,
    };
    let directory = cache.step(progress, &step, |directory, task| {
        let tree = unpack(task, directory, &source)?;
        configure(task, &tree, configs)?;
        task.run(repeatable_make(&tree).args(["bzImage", "modules"]))
    })?;
    let tree = directory.join("tree");
    Ok(KernelTree {
        kernel: Kernel {
            image: tree.join("arch/x86/boot/bzImage"),
        },
        irqbypass: tree.join("virt/lib/irqbypass.ko"),
        stock: ["kvm", "kvm-intel"].map(|name| tree.join(format!("arch/x86/kvm/{name}.ko"))),
        build: tree,
    })
}

/// The source; in one piece, or not at all.
fn unpack(task: &Task, directory: &Path, source: &Path) -> Result<PathBuf> {
    let tree = directory.join("tree");
    if tree.exists() {
        return Ok(tree);
    }
    let part = directory.join("tree.part");
    if part.exists() {
        fs::remove_dir_all(&part).context("removing an interrupted try")?;
    }
    fs::create_dir_all(&part).context("making a directory")?;
    task.show_line("unpacking");
    task.run(
        Command::new("tar")
            .args(["--strip-components=1", "-xf"])
            .arg(source)
            .arg("-C")
            .arg(&part),
    )?;
    fs::rename(&part, &tree).context("keeping the source of Linux")?;
    Ok(tree)
}

/// Kernels of the same source are equal, whoever builds them and when.
fn repeatable_make(tree: &Path) -> Command {
    let mut command = make(tree);
    command
        .env("KBUILD_BUILD_TIMESTAMP", "2000-01-01")
        .env("KBUILD_BUILD_USER", "postern")
        .env("KBUILD_BUILD_HOST", "postern")
        .env("KBUILD_BUILD_VERSION", "1");
    command
}

fn configure(task: &Task, tree: &Path, configs: &[PathBuf]) -> Result<()> {
    let mut wanted = String::new();
    for config in configs {
        wanted +=
            &fs::read_to_string(config).with_context(|| format!("reading {}", config.display()))?;
    }
    let fragment = tree.join("postern.config");
    fs::write(&fragment, &wanted).context("writing the kernel's configuration")?;
    task.run(
        repeatable_make(tree)
            .arg("allnoconfig")
            .env("KCONFIG_ALLCONFIG", &fragment),
    )?;
    // An option that depends on another that is missing, or has another name, vanishes silently.
    let config = fs::read_to_string(tree.join(".config")).context("reading .config")?;
    let options = |text: &str| -> Vec<String> {
        text.lines()
            .filter(|line| line.starts_with("CONFIG_"))
            .map(str::to_owned)
            .collect()
    };
    let (wanted, got) = (options(&wanted), options(&config));
    let name = |option: &str| option.split('=').next().unwrap_or_default().to_owned();
    let lost: Vec<&String> = wanted
        .iter()
        .enumerate()
        // Of an option that is named twice, the last one counts.
        .filter(|(index, option)| !wanted[index + 1..].iter().any(|o| name(o) == name(option)))
        .filter_map(|(_, option)| (!got.contains(option)).then_some(option))
        .collect();
    ensure!(
        lost.is_empty(),
        "the kernel does not take these of its options: {lost:?}"
    );
    Ok(())
}

/// Debian's kernel for virtual machines, with the headers of exactly that one.
fn distributed(cache: &Cache, progress: &Progress, series: &Series) -> Result<KernelTree> {
    let step = Step {
        name: "linux-debian",
        title: "Debian's kernel",
        about: "half a minute, by network",
        key: Key::new().bytes(series.linux.as_bytes()).bytes(b"any gcc"),
        megabytes: 600,
    };
    let directory = cache.step(progress, &step, |directory, task| {
        let release = Release::open(cache, task, &series.debian)?;
        let image = release.dependency(&series.image_package, "linux-image-")?;
        let headers = image.replacen("linux-image-", "linux-headers-", 1);
        let common = headers.replace("-cloud-amd64", "-common");
        for package in [&*image, &*headers, &*common, &*series.kbuild_package] {
            release.unpack(package, directory)?;
        }
        let version = image.trim_start_matches("linux-image-");
        fs::write(directory.join("version"), version).context("noting the kernel's version")?;
        // The headers name each other by where they would be installed.
        let source = directory.join("usr/src");
        let makefile = source.join(&headers).join("Makefile");
        let include = format!(
            "include {}\n",
            source.join(&common).join("Makefile").display()
        );
        fs::write(&makefile, include).context("adapting the kernel's headers")?;
        // They ask for the compiler of their own release, by its version.
        let variables = source.join(&headers).join(".kernelvariables");
        let text = fs::read_to_string(&variables).context("reading the kernel's headers")?;
        let text: String = text
            .lines()
            .map(|line| without_version(line) + "\n")
            .collect();
        fs::write(&variables, text).context("adapting the kernel's headers")
    })?;
    let version = fs::read_to_string(directory.join("version")).context("reading a version")?;
    let modules = directory.join("lib/modules").join(&version).join("kernel");
    Ok(KernelTree {
        kernel: Kernel {
            image: directory.join(format!("boot/vmlinuz-{version}")),
        },
        build: directory.join(format!("usr/src/linux-headers-{version}")),
        irqbypass: modules.join("virt/lib/irqbypass.ko"),
        stock: ["kvm", "kvm-intel"].map(|name| modules.join(format!("arch/x86/kvm/{name}.ko"))),
    })
}

/// The line with which Debian's headers choose a compiler, changed to choose the default one.
fn without_version(line: &str) -> String {
    match (line.starts_with("CC ="), line.rfind("gcc-")) {
        (true, Some(at)) => line[..at].to_owned() + "gcc",
        _ => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compilers_version_is_taken_away() {
        let line = "CC = $(if $(X),$(CCACHE)) $(CROSS_COMPILE)gcc-12";
        assert_eq!(
            without_version(line),
            "CC = $(if $(X),$(CCACHE)) $(CROSS_COMPILE)gcc"
        );
        assert_eq!(
            without_version("override ARCH = x86"),
            "override ARCH = x86"
        );
    }
}
