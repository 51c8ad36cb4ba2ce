//! Debian packages and Rust targets.

use std::io::IsTerminal;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::cache::Cache;
use super::progress::Progress;

/// A Debian package, and what it is needed for.
pub type Package = (&'static str, &'static str);

/// Shell and tools, linked statically: the program of the package `busybox-static`.
pub const BUSYBOX: &str = "/bin/busybox";

/// Packages that everything needs.
pub const PACKAGES: &[Package] = &[
    ("bc", "kernel"),
    (
        "binutils",
        "programs without debug data, the switch for the kernel",
    ),
    ("bison", "kernel"),
    ("bochsbios", "firmware of the emulated machine"),
    ("busybox-static", "shell of the emulated machine"),
    ("flex", "kernel"),
    ("g++", "Bochs"),
    ("gcc", "kernel"),
    ("genisoimage", "disc of the emulated machine"),
    ("iproute2", "traffic that the demo captures"),
    ("isolinux", "boot loader of the emulated machine"),
    ("libelf-dev", "kernel"),
    ("make", "Bochs, kernel"),
    ("patch", "Bochs, kernel"),
    ("syslinux-common", "boot loader of the emulated machine"),
    ("vgabios", "firmware of the emulated machine"),
    ("xz-utils", "sources of Bochs and kernel"),
];

/// Targets that Rust code is built for, besides the host.
pub const TARGETS: [&str; 2] = ["x86_64-unknown-linux-musl", "x86_64-unknown-none"];

/// Installs what is missing of these packages.
///
/// # Errors
///
/// A sentence that says what to do.
pub fn install(cache: &Cache, progress: &Progress, packages: &[Package]) -> Result<()> {
    let all: Vec<&str> = packages.iter().map(|(name, _)| *name).collect();
    if missing(&all)?.is_empty() {
        return Ok(());
    }
    let _lock = cache.lock(progress, "packages")?;
    let missing = missing(&all)?;
    if missing.is_empty() {
        return Ok(());
    }
    let by_hand = format!("apt-get install {}", missing.join(" "));
    let root = rustix::process::geteuid().is_root();
    if !root && !in_path("sudo") {
        bail!(
            "Debian packages are missing, and installing them needs root; as root, run `{by_hand}`"
        );
    }
    if !root && std::io::stdin().is_terminal() {
        // It asks for the password before the progress is shown.
        let asked = Command::new("sudo")
            .arg("-v")
            .status()
            .context("running sudo")?;
        ensure!(
            asked.success(),
            "installing Debian packages needs root; as root, run `{by_hand}`"
        );
    }
    let title = format!("Debian packages {} (about a minute)", missing.join(" "));
    let task = progress.task(&title, &cache.path("log/packages.log"))?;
    let apt = |arguments: &[&str]| {
        let mut command = Command::new(if root { "env" } else { "sudo" });
        // It was asked before; here it must not wait.
        command.args((!root).then_some("-n"));
        command
            .args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-y"])
            .args(arguments);
        command
    };
    let install = ["install", "--no-install-recommends"];
    let install = [&install[..], &missing].concat();
    task.run(&mut apt(&["update"]))
        .and_then(|()| task.run(&mut apt(&install)))
        .with_context(|| format!("Debian packages are missing; as root, run `{by_hand}`"))?;
    task.done();
    Ok(())
}

/// Those of these packages that are not installed.
fn missing<'a>(names: &[&'a str]) -> Result<Vec<&'a str>> {
    let output = Command::new("dpkg-query")
        .args(["-W", "-f", "${db:Status-Status} ${Package}\\n"])
        .args(names)
        .output()
        .context("this is not Debian: there is no dpkg-query; use Debian 12 or 13")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let installed: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("installed "))
        .collect();
    Ok(names
        .iter()
        .copied()
        .filter(|name| !installed.contains(name))
        .collect())
}

/// Adds what is missing of [`TARGETS`].
///
/// # Errors
///
/// A sentence that says what to do.
pub fn add_targets(cache: &Cache, progress: &Progress) -> Result<()> {
    if missing_targets()?.is_empty() {
        return Ok(());
    }
    // Two runs of rustup at once undo each other's work.
    let _lock = cache.lock(progress, "packages")?;
    for target in missing_targets()? {
        if !in_path("rustup") {
            bail!(
                "this Rust toolchain cannot build for {target}; install the toolchain with rustup \
                 (https://rustup.rs), or add the target's standard library to it"
            );
        }
        let title = format!("Rust target {target}");
        let task = progress.task(&title, &cache.path("log/target.log"))?;
        task.run(Command::new("rustup").args(["target", "add", target]))
            .with_context(|| {
                format!("Rust target {target} is missing; run `rustup target add {target}` once")
            })?;
        task.done();
    }
    Ok(())
}

/// Those of [`TARGETS`] that the toolchain does not have.
fn missing_targets() -> Result<Vec<&'static str>> {
    let mut missing = Vec::new();
    for target in TARGETS {
        if !has_target(target)? {
            missing.push(target);
        }
    }
    Ok(missing)
}

fn has_target(target: &str) -> Result<bool> {
    let output = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", target])
        .output()
        .context("there is no rustc; install Rust with rustup (https://rustup.rs)")?;
    let directory = String::from_utf8_lossy(&output.stdout);
    Ok(output.status.success() && Path::new(directory.trim()).is_dir())
}

fn in_path(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_packages_are_told_from_installed_ones() {
        if !in_path("dpkg-query") {
            eprintln!("no dpkg-query on this machine");
            return;
        }
        let missing = missing(&["dpkg", "postern-no-such-package"]).unwrap();
        assert_eq!(missing, ["postern-no-such-package"]);
    }
}
