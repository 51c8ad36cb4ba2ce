//! Postern's own programs, built for where they run: the emulated machine, VMs and views.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::cache::{Cache, Key, Step};
use super::checkout;
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
    /// Instructions that VM exits cost.
    pub exitcost: PathBuf,
    /// First process of a Linux guest that uses its disk.
    pub disktest: PathBuf,
    /// Program that sends and receives frames, in Linux guests and in their hosts.
    pub nettest: PathBuf,
    /// Takes over threads of a running VMM.
    pub inject: PathBuf,
    /// The guest without an operating system.
    pub bare_guest: PathBuf,
    /// The switch, for the NIC view.
    pub nic_image: PathBuf,
    /// The switch with a lock that a stopped sender keeps, for the NIC view, for tests.
    pub locking_image: PathBuf,
    /// The switch that serves requests without their tenancy's secret, for the NIC view, for tests.
    pub open_image: PathBuf,
    /// The switch that relies on the state of its caller's processor and leaves some of its own there,
    /// for the NIC view, for tests.
    pub careless_image: PathBuf,
    /// The switch whose calls are aborted, for the NIC view, with its symbols, for tests.
    pub faulty_image: PathBuf,
}

impl Programs {
    /// All of them, each with the name of its file.
    fn all(&self) -> [(&'static str, &Path); 13] {
        [
            (INIT.1, &self.init),
            (POSTERN.1, &self.postern),
            (VIEWTEST.1, &self.viewtest),
            (EXITCOST.1, &self.exitcost),
            (DISKTEST.1, &self.disktest),
            (NETTEST.1, &self.nettest),
            (INJECT.1, &self.inject),
            (GUEST.1, &self.bare_guest),
            (NIC_IMAGE, &self.nic_image),
            (LOCKING_IMAGE, &self.locking_image),
            (OPEN_IMAGE, &self.open_image),
            (CARELESS_IMAGE, &self.careless_image),
            (FAULTY_IMAGE, &self.faulty_image),
        ]
    }

    /// Copies them into a folder, each under its own name.
    ///
    /// # Errors
    ///
    /// Those of the file system.
    pub fn copy_to(&self, folder: &Path) -> Result<()> {
        for (name, file) in self.all() {
            let to = folder.join(name);
            fs::copy(file, &to).with_context(|| format!("cannot write {}", to.display()))?;
        }
        Ok(())
    }

    /// Those that lie in a folder, each under its own name.
    fn at(folder: &Path) -> Programs {
        let program = |name: &str| folder.join(name);
        Programs {
            init: program(INIT.1),
            postern: program(POSTERN.1),
            viewtest: program(VIEWTEST.1),
            exitcost: program(EXITCOST.1),
            disktest: program(DISKTEST.1),
            nettest: program(NETTEST.1),
            inject: program(INJECT.1),
            bare_guest: program(GUEST.1),
            nic_image: program(NIC_IMAGE),
            locking_image: program(LOCKING_IMAGE),
            open_image: program(OPEN_IMAGE),
            careless_image: program(CARELESS_IMAGE),
            faulty_image: program(FAULTY_IMAGE),
        }
    }

    /// Those that [`Programs::copy_to`] has left in a folder.
    ///
    /// # Errors
    ///
    /// The first one that is missing.
    pub fn in_folder(folder: &Path) -> Result<Programs> {
        let programs = Programs::at(folder);
        for (_, file) in programs.all() {
            ensure!(file.is_file(), "there is no program {}", file.display());
        }
        Ok(programs)
    }
}

/// A package of this workspace that has a program.
type Program = (&'static str, &'static str);

/// Package and program of the emulated machine's first process.
const INIT: Program = ("postern-init", "postern-init");
/// Package and program of the first process of Linux guests.
const GUEST_INIT: Program = ("postern-guest-init", "postern-guest-init");
/// Package and program of the VMM and the NIC.
const POSTERN: Program = ("postern-cli", "postern");
/// Package and program of the tests of the patched KVM's calls.
const VIEWTEST: Program = ("postern-viewtest", "postern-viewtest");
/// Package and program that counts what VM exits cost.
const EXITCOST: Program = ("postern-exitcost", "postern-exitcost");
/// Package and program of a Linux guest that uses its disk.
const DISKTEST: Program = ("postern-disktest", "postern-disktest");
/// Package and program that sends and receives frames.
const NETTEST: Program = ("postern-nettest", "postern-nettest");
/// Package and program that takes over threads of a running VMM.
const INJECT: Program = ("postern-inject", "postern-inject");
/// Package and program of the guest without an operating system.
const GUEST: Program = ("postern-guest-bare", "postern-guest-bare");
/// Package and program for Linux guests that sends and receives.
const LINUX_GUEST: Program = ("postern-guest-linux", "postern-guest-linux");
/// Package and program that joins the NIC port of a Linux guest to an interface.
const BRIDGE: Program = ("postern-bridge", "postern-bridge");
/// Package and program of `cargo paper`.
const PAPER: Program = ("postern-paper", "postern-paper");
/// Packages of the VMM, libraries and program, whose tests also run in the emulated machine.
const VMM: [&str; 3] = ["postern-kvm", "postern-vmm", POSTERN.0];
/// Files of integration tests of the VMM that need KVM.
const VMM_TESTS: [&str; 4] = ["attach_view", "boot", "console", "lifecycle"];

/// Packages that run without an operating system. They are not built for the host.
pub const FREESTANDING: [&str; 3] = [GUEST.0, "postern-nic-image", "postern-nic-kernel"];

/// Builds the first process of the emulated machine alone.
///
/// # Errors
///
/// A sentence that says what failed.
pub fn init(cache: &Cache, progress: &Progress) -> Result<PathBuf> {
    let builder = Builder::new(cache, progress)?;
    let _lock = cache.lock_target(progress, builder.target)?;
    let built = builder.build(&MUSL, &[INIT])?;
    Ok(builder.keep("init", &built, MEASURED)?.join(INIT.1))
}

/// Builds the first process of Linux guests alone.
///
/// # Errors
///
/// A sentence that says what failed.
pub fn guest_init(cache: &Cache, progress: &Progress) -> Result<PathBuf> {
    alone(cache, progress, "guest-init", GUEST_INIT)
}

/// Builds the program for Linux guests alone.
///
/// # Errors
///
/// A sentence that says what failed.
pub fn linux_guest(cache: &Cache, progress: &Progress) -> Result<PathBuf> {
    alone(cache, progress, "guest-linux", LINUX_GUEST)
}

/// Builds the program that joins the NIC port of a Linux guest to an interface, alone.
///
/// # Errors
///
/// A sentence that says what failed.
pub fn bridge(cache: &Cache, progress: &Progress) -> Result<PathBuf> {
    alone(cache, progress, "guest-bridge", BRIDGE)
}

/// Builds the program of `cargo paper`, static, alone.
///
/// # Errors
///
/// A sentence that says what failed.
pub fn paper(cache: &Cache, progress: &Progress) -> Result<PathBuf> {
    alone(cache, progress, "paper", PAPER)
}

/// Builds one static program, and keeps it under this name.
fn alone(cache: &Cache, progress: &Progress, name: &str, program: Program) -> Result<PathBuf> {
    let builder = Builder::new(cache, progress)?;
    // Until the program is copied: another run may build it of other sources.
    let _lock = cache.lock_target(progress, builder.target)?;
    let built = builder.build(&MUSL, &[program])?;
    Ok(builder.keep(name, &built, MEASURED)?.join(program.1))
}

/// Builds all programs.
///
/// # Errors
///
/// A sentence that says what failed.
pub fn build(cache: &Cache, progress: &Progress) -> Result<Programs> {
    let builder = Builder::new(cache, progress)?;
    // Until the programs are copied: another run may build them of other sources.
    let _lock = cache.lock_target(progress, builder.target)?;
    let mut built = builder.build(
        &MUSL,
        &[INIT, POSTERN, VIEWTEST, EXITCOST, DISKTEST, NETTEST, INJECT],
    )?;
    built.extend(builder.build(&NONE, &[GUEST])?);
    built.push(builder.image(NIC_IMAGE, "")?);
    built.push(builder.image(LOCKING_IMAGE, "attack-lock")?);
    built.push(builder.image(OPEN_IMAGE, "attack-no-secret")?);
    built.push(builder.image(CARELESS_IMAGE, "attack-caller-state")?);
    let faulty = builder.image(FAULTY_IMAGE, "attack-fault")?;
    let faulty = builder.keep("faulty-image", &[faulty], DEBUGGED)?;
    let directory = builder.keep("programs", &built, MEASURED)?;
    Ok(Programs {
        faulty_image: faulty.join(FAULTY_IMAGE),
        ..Programs::at(&directory)
    })
}

/// Builds the switch as an object for the kernel module.
///
/// # Errors
///
/// A sentence that says what failed.
pub fn kernel_object(cache: &Cache, progress: &Progress) -> Result<PathBuf> {
    let builder = Builder::new(cache, progress)?;
    let _lock = cache.lock_target(progress, builder.target)?;
    let script = "host-nic/kernel-object/build.sh";
    let built = builder.by_script("the switch for the kernel", script, KERNEL_OBJECT, &[])?;
    let kept = builder.keep("kernel-object", &[built], DEBUGGED)?;
    Ok(kept.join(KERNEL_OBJECT))
}

/// Builds the test programs of the VMM, by name.
///
/// # Errors
///
/// A sentence that says what failed.
pub fn vmm_tests(cache: &Cache, progress: &Progress) -> Result<BTreeMap<String, PathBuf>> {
    let builder = Builder::new(cache, progress)?;
    let _lock = cache.lock_target(progress, builder.target)?;
    let mut arguments = Vec::new();
    for package in VMM {
        arguments.extend(["--package", package]);
    }
    arguments.push("--lib");
    for test in VMM_TESTS {
        arguments.extend(["--test", test]);
    }
    builder.tests("the VMM's tests", "vmm_tests", &arguments)
}

/// Builds the owner's test of the switch beside Linux' bridge.
///
/// # Errors
///
/// A sentence that says what failed.
pub fn bridge_test(cache: &Cache, progress: &Progress) -> Result<PathBuf> {
    const TEST: &str = "bridge";
    let builder = Builder::new(cache, progress)?;
    let _lock = cache.lock_target(progress, builder.target)?;
    let arguments = ["--package", "postern-nic-owner", "--test", TEST];
    let mut built = builder.tests("the test of Linux' bridge", "bridge_test", &arguments)?;
    let program = built.remove(TEST);
    program.context("cargo has not built the test of Linux' bridge")
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
/// File name of the image that serves requests without a secret.
const OPEN_IMAGE: &str = "postern-nic-image-open";
/// File name of the switch that relies on its caller's state.
const CARELESS_IMAGE: &str = "postern-nic-image-careless";
/// File name of the image whose calls are aborted.
const FAULTY_IMAGE: &str = "postern-nic-image-fault";

/// File name of the switch as an object for the kernel module.
const KERNEL_OBJECT: &str = "postern-nic-kernel.o";

/// What is stripped of programs that are measured. Names of symbols contain a hash of the checkout's
/// path, and so does the build's ID; without them, what is loaded is the same wherever it was built,
/// and so are the counts.
const MEASURED: &[&str] = &["--strip-all", "--remove-section=.note.gnu.build-id"];
/// What is stripped of tests, and of what is linked to something else.
const DEBUGGED: &[&str] = &["--strip-debug"];

/// A builder of what is in the checkout.
struct Builder<'a> {
    cache: &'a Cache,
    progress: &'a Progress,
    /// Cargo's target directory.
    target: &'static Path,
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

impl<'a> Builder<'a> {
    fn new(cache: &'a Cache, progress: &'a Progress) -> Result<Self> {
        let target = checkout::target()?;
        let ours = target.join("postern");
        fs::create_dir_all(&ours).with_context(|| format!("cannot make {}", ours.display()))?;
        Ok(Self {
            cache,
            progress,
            target,
        })
    }

    /// Builds programs, each named by package and program, and returns their paths.
    fn build(&self, target: &Target, programs: &[Program]) -> Result<Vec<PathBuf>> {
        let mut command = self.command("build", target);
        for (package, program) in programs {
            command.args(["--package", package, "--bin", program]);
        }
        let names: Vec<&str> = programs.iter().map(|(_, program)| *program).collect();
        let log = self.cache.path(&format!("log/{}.log", names.join("-")));
        self.progress.build(&names.join(", "), &log, &mut command)?;
        let built = self.target.join(target.triple).join(target.profile);
        Ok(names.iter().map(|name| built.join(name)).collect())
    }

    /// A command of cargo for a target, to which packages are to be added.
    fn command(&self, subcommand: &str, target: &Target) -> Command {
        let mut command = checkout::cargo();
        command.args([subcommand, "--locked", "--target", target.triple]);
        command.args(["--profile", target.profile, "--target-dir"]);
        command.arg(self.target);
        command
    }

    /// Builds test programs, which cargo chooses by these arguments, and keeps them; by name.
    fn tests(
        &self,
        what: &str,
        name: &str,
        arguments: &[&str],
    ) -> Result<BTreeMap<String, PathBuf>> {
        let list = self.target.join(format!("postern/{name}.json"));
        let mut command = self.command("test", &MUSL);
        command.args(arguments);
        command.args(["--no-run", "--message-format=json-render-diagnostics"]);
        // Its messages for programs are no log.
        let mut shell = Command::new("sh");
        shell
            .args(["-c", "out=$1; shift; exec \"$@\" > \"$out\"", "sh"])
            .arg(&list);
        shell
            .arg(command.get_program())
            .args(command.get_args())
            .current_dir(checkout::root());
        let log = self.cache.path(&format!("log/{name}.log"));
        self.progress.build(what, &log, &mut shell)?;
        let messages = fs::read_to_string(&list).context("reading what cargo has built")?;
        let built: BTreeMap<String, PathBuf> = messages.lines().filter_map(test_program).collect();
        let paths: Vec<PathBuf> = built.values().cloned().collect();
        let directory = self.keep(name, &paths, DEBUGGED)?;
        let stripped = |path: PathBuf| directory.join(path.file_name().unwrap_or_default());
        Ok(built
            .into_iter()
            .map(|(name, path)| (name, stripped(path)))
            .collect())
    }

    /// Builds the image of the NIC view with these features.
    fn image(&self, name: &str, features: &str) -> Result<PathBuf> {
        let what = match features {
            "" => "the image of the NIC".to_owned(),
            features => format!("the image of the NIC ({features})"),
        };
        let script = "host-nic/image/build.sh";
        self.by_script(&what, script, name, &["--features", features])
    }

    /// Builds a file by the script of the checkout that knows how.
    fn by_script(
        &self,
        what: &str,
        script: &str,
        name: &str,
        arguments: &[&str],
    ) -> Result<PathBuf> {
        let built = self.target.join("postern").join(name);
        let log = self.cache.path(&format!("log/{name}.log"));
        let mut command = Command::new(checkout::root().join(script));
        command.arg("--out").arg(&built).args(arguments);
        command.arg("--target-dir").arg(self.target);
        self.progress.build(what, &log, &mut command)?;
        Ok(built)
    }

    /// Copies of what was built, stripped: most of a program are data for debuggers, which would
    /// have to be loaded into the machine. The copies also let a run keep the programs that it began
    /// with, whatever is built meanwhile.
    fn keep(&self, name: &str, built: &[PathBuf], strip: &[&str]) -> Result<PathBuf> {
        let step = Step {
            name,
            title: "programs without debug data",
            about: "",
            key: Key::new().bytes(strip.join(" ").as_bytes()).files(built)?,
            megabytes: 50,
        };
        let silent = Progress::silent();
        self.cache.step(&silent, &step, |directory, task| {
            for path in built {
                let copy = directory.join(path.file_name().unwrap_or_default());
                let mut command = Command::new("strip");
                task.run(command.args(strip).arg("-o").args([&copy, path]))?;
            }
            Ok(())
        })
    }
}
