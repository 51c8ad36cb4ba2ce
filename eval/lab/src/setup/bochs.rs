//! The emulator: Bochs from Debian's source archive, with Postern's patches.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::cache::{Cache, Key, Step};
use super::download;
use super::make::make;
use super::progress::{Progress, Task};

/// Name and version of the emulator.
pub const TITLE: &str = "Bochs 3.0";

/// The source in Debian's archive. Its version is fixed: machines count the same with it.
const SOURCE: &str = "pool/main/b/bochs/bochs_3.0+dfsg.orig.tar.xz";
const SHA256: &str = "78f6c73d4a6472d5130a87ab9dc306d02c7c71ed8e25b3a8ef642e2a7acd282b";

/// Arguments of Bochs' configure. `--enable-show-ips` is not among them: its signal handler takes
/// the log's lock, which the main thread may hold.
const CONFIGURE: [&str; 15] = [
    "--enable-cpu-level=6",
    "--enable-x86-64",
    "--enable-vmx=2",
    "--enable-all-optimizations",
    "--enable-handlers-chaining",
    "--enable-long-phy-address",
    "--enable-avx",
    "--enable-evex",
    "--enable-memtype",
    "--enable-protection-keys",
    "--enable-cet",
    "--enable-pci",
    "--disable-docbook",
    "--disable-debugger",
    "--with-nogui",
];

/// Flags of the C++ compiler for x86-64 processors with AVX2.
const FLAGS: &str = "-O3 -march=x86-64-v3 -fomit-frame-pointer";
/// Flags of the C++ compiler for x86-64 processors without AVX2.
const BASELINE_FLAGS: &str = "-O3 -fomit-frame-pointer";

/// Builds the emulator and returns its path.
///
/// # Errors
///
/// A sentence that says what failed.
pub fn build(cache: &Cache, progress: &Progress, root: &Path) -> Result<PathBuf> {
    let patches = root.join("eval/lab/bochs");
    let flags = if is_x86_64_v3() {
        FLAGS
    } else {
        BASELINE_FLAGS
    };
    let key = Key::new()
        .bytes(SHA256.as_bytes())
        .bytes(CONFIGURE.join(" ").as_bytes())
        .bytes(flags.as_bytes())
        .files(std::slice::from_ref(&patches))?;
    let step = Step {
        name: "bochs",
        title: TITLE,
        about: "about 2 minutes",
        key,
        megabytes: 300,
    };
    let directory = cache.step(progress, &step, |directory, task| {
        let tree = unpack(cache, task, directory, &patches)?;
        if !tree.join("Makefile").exists() {
            let variables = [format!("CFLAGS={flags}"), format!("CXXFLAGS={flags}")];
            task.run(
                Command::new("./configure")
                    .args(CONFIGURE)
                    .args(variables)
                    .current_dir(&tree),
            )?;
        }
        task.run(&mut make(&tree))?;
        task.run(
            Command::new("strip")
                .args(["-o", "bochs", "tree/bochs"])
                .current_dir(directory),
        )?;
        fs::remove_dir_all(&tree).context("removing the build tree of Bochs")
    })?;
    Ok(directory.join("bochs"))
}

/// The patched source; in one piece, or not at all.
fn unpack(cache: &Cache, task: &Task, directory: &Path, patches: &Path) -> Result<PathBuf> {
    let tree = directory.join("tree");
    if tree.exists() {
        return Ok(tree);
    }
    let tarball = download::pinned(cache, task, SOURCE, SHA256)?;
    let part = directory.join("tree.part");
    if part.exists() {
        fs::remove_dir_all(&part).context("removing an interrupted try")?;
    }
    fs::create_dir(&part).context("making a directory")?;
    task.run(
        Command::new("tar")
            .args(["--strip-components=1", "-xf"])
            .arg(tarball)
            .arg("-C")
            .arg(&part),
    )?;
    let mut files: Vec<PathBuf> = fs::read_dir(patches)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .with_context(|| format!("reading {}", patches.display()))?;
    files.sort();
    for file in files
        .iter()
        .filter(|file| file.extension().is_some_and(|e| e == "patch"))
    {
        task.run(
            Command::new("patch")
                .args(["-p1", "-s", "-N", "-f", "-i"])
                .arg(file)
                .current_dir(&part),
        )?;
    }
    fs::rename(&part, &tree).context("keeping the source of Bochs")?;
    Ok(tree)
}

fn is_x86_64_v3() -> bool {
    std::is_x86_feature_detected!("avx2")
        && std::is_x86_feature_detected!("bmi1")
        && std::is_x86_feature_detected!("bmi2")
        && std::is_x86_feature_detected!("fma")
        && std::is_x86_feature_detected!("lzcnt")
        && std::is_x86_feature_detected!("movbe")
        && std::is_x86_feature_detected!("f16c")
}
