//! Kernels that the emulated machine boots.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use super::cache::{Cache, Key, Step};
use super::distributed;
use super::download::Release;
use super::kernel_tree::KernelTree;
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

/// Debian's source of the kernel of a series, a compressed archive.
///
/// # Errors
///
/// A sentence that says what to do.
pub fn source(cache: &Cache, progress: &Progress, series: &Series) -> Result<PathBuf> {
    if series.source_archive.exists() {
        return Ok(series.source_archive.clone());
    }
    let name = series.name();
    let step = Step {
        name: &format!("linux-source-{name}"),
        title: &format!("source of Linux {name}"),
        about: "a few seconds, by network",
        key: Key::new().bytes(series.source_package.as_bytes()),
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
    let release = series.name();
    let own = format!("{release}.config");
    let own_debug = format!("debug-{release}.config");
    let (name, title, configs): (_, _, &[&str]) = match flavour {
        Flavour::Small => (
            format!("linux-{release}"),
            format!("Linux {release}"),
            &["kernel.config", &own],
        ),
        Flavour::Debug => (
            format!("linux-debug-{release}"),
            format!("Linux {release} with checks"),
            &["kernel.config", &own, "debug.config", &own_debug],
        ),
        Flavour::Debian => return distributed::fetch(cache, progress, series),
    };
    let configs: Vec<PathBuf> = configs
        .iter()
        .map(|config| root.join(CONFIGURATIONS).join(config))
        .filter(|config| config.exists())
        .collect();
    configured(cache, progress, series, (&name, &title), &configs)
}

/// Folder of the kernels' configurations, from the top of the checkout: `kernel.config`, what a
/// series adds to it (`6.12.config`), and the same for kernels with checks (`debug.config`,
/// `debug-6.12.config`).
const CONFIGURATIONS: &str = "eval/lab/kernel";

/// Drivers of the machine's disks, in the order of loading. They are no part of the kernel: finding
/// a disk takes as long as the rest of a boot, and most machines have none.
const DISK_DRIVERS: [&str; 5] = [
    "drivers/scsi/scsi_common.ko",
    "drivers/scsi/scsi_mod.ko",
    "drivers/scsi/sd_mod.ko",
    "drivers/ata/libata.ko",
    "drivers/ata/ata_piix.ko",
];

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
            disk_drivers: DISK_DRIVERS.map(|path| tree.join(path)).to_vec(),
        },
        irqbypass: tree.join("virt/lib/irqbypass.ko"),
        stock: ["kvm", "kvm-intel"].map(|name| tree.join(format!("arch/x86/kvm/{name}.ko"))),
        modules: None,
        leaking: Some(tree.join("samples/kmemleak/kmemleak-test.ko")).filter(|path| path.exists()),
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
