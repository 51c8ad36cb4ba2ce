//! Postern's own programs, built for where they run: the emulated machine, VMs and views.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::cache::{Cache, Key, Step};
use super::progress::Progress;

/// Programs that run in the emulated machine or in its VMs, and on hardware just the same.
#[derive(Clone, Debug)]
pub struct Programs {
    /// First process of the emulated machine.
    pub init: PathBuf,
    /// VMM and NIC.
    pub postern: PathBuf,
    /// Tests of the patched KVM's calls.
    pub viewtest: PathBuf,
    /// The guest without an operating system.
    pub bare_guest: PathBuf,
    /// The switch, for the NIC view.
    pub nic_image: PathBuf,
    /// The switch with a lock that a stopped sender keeps, for the NIC view, for tests.
    pub locking_image: PathBuf,
}

/// A package of this workspace that has a program.
type Program = (&'static str, &'static str);

/// Package and program of the emulated machine's first process.
const INIT: Program = ("postern-init", "postern-init");
/// Package and program of the VMM and the NIC.
const POSTERN: Program = ("postern-cli", "postern");
/// Package and program of the tests of the patched KVM's calls.
const VIEWTEST: Program = ("postern-viewtest", "postern-viewtest");
/// Package and program of the guest without an operating system.
const GUEST: Program = ("postern-guest-bare", "postern-guest-bare");
/// Packages of the VMM, library and program, whose tests also run in the emulated machine.
const VMM: [&str; 2] = ["postern-vmm", POSTERN.0];

/// Packages that run without an operating system. They are not built for the host.
pub const FREESTANDING: [&str; 3] = [GUEST.0, "postern-nic-image", "postern-nic-kernel"];

/// Builds the first process of the emulated machine alone.
///
/// # Errors
///
/// A sentence that says what failed.
pub fn init(cache: &Cache, progress: &Progress, root: &Path) -> Result<PathBuf> {
    let cargo = Cargo {
        cache,
        progress,
        root,
    };
    let _lock = cache.lock_target(progress, root)?;
    let built = cargo.build(&MUSL, &[INIT])?;
    Ok(strip(cache, "init", &built)?.join(INIT.1))
}

/// Builds all programs.
///
/// # Errors
///
/// A sentence that says what failed.
pub fn build(cache: &Cache, progress: &Progress, root: &Path) -> Result<Programs> {
    let cargo = Cargo {
        cache,
        progress,
        root,
    };
    // Until the programs are copied: another run may build them of other sources.
    let _lock = cache.lock_target(progress, root)?;
    let mut built = cargo.build(&MUSL, &[INIT, POSTERN, VIEWTEST])?;
    built.extend(cargo.build(&NONE, &[GUEST])?);
    built.push(image(cache, progress, root, NIC_IMAGE, "")?);
    built.push(image(cache, progress, root, LOCKING_IMAGE, "attack-lock")?);
    let directory = strip(cache, "programs", &built)?;
    let program = |name| directory.join(name);
    Ok(Programs {
        init: program(INIT.1),
        postern: program(POSTERN.1),
        viewtest: program(VIEWTEST.1),
        bare_guest: program(GUEST.1),
        nic_image: program(NIC_IMAGE),
        locking_image: program(LOCKING_IMAGE),
    })
}

/// Builds the test programs of the VMM, by name.
///
/// # Errors
///
/// A sentence that says what failed.
pub fn vmm_tests(
    cache: &Cache,
    progress: &Progress,
    root: &Path,
) -> Result<BTreeMap<String, PathBuf>> {
    let cargo = Cargo {
        cache,
        progress,
        root,
    };
    let _lock = cache.lock_target(progress, root)?;
    let list = cache.target(root).join("vmm-tests.json");
    let mut command = cargo.command("test", &MUSL);
    command.args([
        "--package",
        VMM[0],
        "--package",
        VMM[1],
        "--no-run",
        "--message-format=json-render-diagnostics",
    ]);
    // Its messages for programs are no log.
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "out=$1; shift; exec \"$@\" > \"$out\"", "sh"])
        .arg(&list);
    shell
        .arg(command.get_program())
        .args(command.get_args())
        .current_dir(root);
    let log = cache.path("log/vmm-tests.log");
    progress
        .quick_task("building the VMM's tests", &log)?
        .run(&mut shell)?;
    let messages = fs::read_to_string(&list).context("reading what cargo has built")?;
    let built: BTreeMap<String, PathBuf> = messages.lines().filter_map(test_program).collect();
    let paths: Vec<PathBuf> = built.values().cloned().collect();
    let directory = strip(cache, "vmm_tests", &paths)?;
    let stripped = |path: PathBuf| directory.join(path.file_name().unwrap_or_default());
    Ok(built
        .into_iter()
        .map(|(name, path)| (name, stripped(path)))
        .collect())
}

/// Name and path of a test program, if that is what a message of cargo is about.
fn test_program(message: &str) -> Option<(String, PathBuf)> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    let test = message["profile"]["test"].as_bool()?;
    let (name, path) = (
        message["target"]["name"].as_str()?,
        message["executable"].as_str()?,
    );
    test.then(|| (name.to_owned(), path.into()))
}

/// File name of the NIC view's image.
const NIC_IMAGE: &str = "postern-nic-image";
/// File name of the image with a lock that a stopped sender keeps.
const LOCKING_IMAGE: &str = "postern-nic-image-lock";

/// Builds the image of the NIC view with these features, by the script that knows its flags.
fn image(
    cache: &Cache,
    progress: &Progress,
    root: &Path,
    name: &str,
    features: &str,
) -> Result<PathBuf> {
    let image = cache.target(root).join("images").join(name);
    let log = cache.path("log/nic-image.log");
    let script = root.join("host-nic/image/build.sh");
    let mut command = Command::new(script);
    command
        .arg("--out")
        .arg(&image)
        .args(["--features", features])
        .env("POSTERN_CACHE", cache.path(""));
    progress
        .quick_task("building the image of the NIC", &log)?
        .run(&mut command)?;
    Ok(image)
}

/// Debug data are most of a program, and would have to be loaded into the machine. The copies also
/// let a run keep the programs that it began with, whatever is built meanwhile.
fn strip(cache: &Cache, name: &str, built: &[PathBuf]) -> Result<PathBuf> {
    let step = Step {
        name,
        title: "programs without debug data",
        key: Key::new().files(built)?,
        megabytes: 50,
    };
    cache.step(&Progress::silent(), &step, |directory, task| {
        for path in built {
            let copy = directory.join(path.file_name().unwrap_or_default());
            task.run(
                Command::new("strip")
                    .arg("-g")
                    .arg("-o")
                    .args([&copy, path]),
            )?;
        }
        Ok(())
    })
}

/// A way to run cargo.
struct Cargo<'a> {
    cache: &'a Cache,
    progress: &'a Progress,
    root: &'a Path,
}

/// A target, and the profile for it.
struct Target {
    triple: &'static str,
    profile: &'static str,
}

const MUSL: Target = Target {
    triple: "x86_64-unknown-linux-musl",
    profile: "release",
};
const NONE: Target = Target {
    triple: "x86_64-unknown-none",
    profile: "freestanding",
};

impl Cargo<'_> {
    /// Builds programs, each named by package and program, and returns their paths.
    fn build(&self, target: &Target, programs: &[Program]) -> Result<Vec<PathBuf>> {
        let mut command = self.command("build", target);
        for (package, program) in programs {
            command.args(["--package", package, "--bin", program]);
        }
        let names: Vec<&str> = programs.iter().map(|(_, program)| *program).collect();
        let title = format!("building {}", names.join(", "));
        let log = self.cache.path(&format!("log/{}.log", names.join("-")));
        self.progress.quick_task(&title, &log)?.run(&mut command)?;
        let built = self
            .cache
            .target(self.root)
            .join(target.triple)
            .join(target.profile);
        Ok(names.iter().map(|name| built.join(name)).collect())
    }

    /// A command of cargo for a target, to which packages are to be added.
    fn command(&self, subcommand: &str, target: &Target) -> Command {
        let directory = self.cache.target(self.root);
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
        command.current_dir(self.root);
        command.args([
            subcommand,
            "--locked",
            "--target",
            target.triple,
            "--profile",
            target.profile,
        ]);
        command.arg("--target-dir").arg(&directory);
        // These say something about the build of this very program.
        for (name, _) in std::env::vars_os() {
            let bytes = name.as_encoded_bytes();
            if bytes.starts_with(b"CARGO_PKG_") || bytes.starts_with(b"CARGO_MANIFEST_") {
                command.env_remove(name);
            }
        }
        command
    }
}
