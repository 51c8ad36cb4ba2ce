//! Linux processes over the exit-less NIC: in VMs whose only program is `postern-guest-linux`, on
//! kernels that are not modified.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use postern_abi::platform::CallPath;
use postern_lab::job::{Job, JobOutcome};
use postern_lab::machine::initramfs::Initramfs;
use postern_lab::setup::{self, Flavour, Series, Setup};
use postern_lab::testbed::{EmulatedTestbed, VIEWS};

use crate::own_boots::OwnBootTest;

pub mod ends;

/// Functions for scripts.
const PRELUDE: &str = include_str!("prelude.sh");

/// Real time that a machine has.
const REAL_TIME: Duration = Duration::from_secs(3600);

/// Frames of an exchange: rings wrap hundreds of times, and each thread moves dozens of times.
const FRAMES: u64 = 40_000;
/// Frames of an exchange between VMs of four vCPUs, which share the machine's only processor: each
/// takes several times as long there.
const FRAMES_OF_FOUR: u64 = 20_000;

macro_rules! exchange {
    ($name:literal, $path:expr) => {
        OwnBootTest::new(
            concat!(
                "linux/nic ",
                $name,
                ": every frame arrives, from threads that move between 1, 2 and 4 vCPUs"
            ),
            |testbed| exchange(testbed, $path, &[1, 2, 4]),
        )
    };
}

/// The tests.
pub const TESTS: &[OwnBootTest] = &[
    exchange!("elisa", CallPath::Elisa),
    exchange!("elisa-strict", CallPath::ElisaStrict).on_request(),
    exchange!("exit-kernel", CallPath::ExitKernel),
    exchange!("exit-user", CallPath::ExitUser).on_request(),
    exchange!("direct", CallPath::Direct).on_request(),
    OwnBootTest::new(
        "linux/nic Debian 12: every frame arrives on elisa, with KPTI and KASLR",
        |testbed| debian(testbed, "bookworm"),
    ),
    OwnBootTest::new(
        "linux/nic Debian 13: every frame arrives on elisa, with KPTI and KASLR",
        |testbed| debian(testbed, "trixie"),
    ),
];

/// What a test boots and runs.
struct Scene<'a> {
    /// Kernel of the guests, and memory of each in MiB.
    kernel: &'a std::path::Path,
    memory: &'a str,
    script: String,
    /// Seconds of the machine's clock.
    seconds: u64,
}

impl Scene<'_> {
    /// Boots the machine and runs the script, which must end well; gives what it printed.
    fn play(self, testbed: &EmulatedTestbed) -> Result<String> {
        let text = self.outcome(testbed)?.success()?.text();
        Ok(text)
    }

    fn outcome(self, testbed: &EmulatedTestbed) -> Result<JobOutcome> {
        let script = format!(
            "{PRELUDE}\nmemory={}\nline= flags=\n{}",
            self.memory, self.script
        );
        let job = Job::new("linux-nic", &script)
            .file("postern", &testbed.programs.postern)
            .file("nic-image", &testbed.programs.nic_image)
            .file("kernel", self.kernel)
            .bytes("initrd", initrd()?)
            .timeout(Duration::from_secs(self.seconds));
        let machine = testbed.machine(VIEWS)?.memory_mb(1024);
        Ok(machine.timeout(REAL_TIME).run(job)?)
    }
}

/// An initial file system with the program as the only one.
fn initrd() -> Result<Vec<u8>> {
    let mut root = Initramfs::with_program(&Setup::open()?.linux_guest()?)?;
    for directory in ["proc", "sys", "tmp"] {
        root.directory(directory);
    }
    Ok(root.archive()?)
}

/// The value of a word `KEY=VALUE` in a line `result role=ROLE ...` of a console.
fn value<'t>(text: &'t str, role: &str, key: &str) -> Result<&'t str> {
    let begin = format!("result role={role} ");
    let words = text
        .lines()
        .find_map(|line| line.trim_end().split_once(&*begin))
        .with_context(|| format!("no line '{begin}' in {text:?}"))?
        .1;
    let value = words
        .split(' ')
        .find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    value.with_context(|| format!("no {key} in '{words}'"))
}

fn number(text: &str, role: &str, key: &str) -> Result<u64> {
    let value = value(text, role, key)?;
    value
        .parse()
        .with_context(|| format!("{key} of {role} is '{value}'"))
}

/// Two VMs exchange frames, each thread with a queue of its own, moving from vCPU to vCPU.
fn exchange_script(path: CallPath, vcpus: u32, frames: u64) -> String {
    let traffic = format!("--frames {frames} --threads {vcpus} --migrate 20 --patience 120");
    format!(
        "path={} vcpus={vcpus}
         nic {vcpus}
         begin receiver 0 receive {traffic}
         begin sender 1 send {traffic}
         ended sender 0; ended receiver 0
         no_nic
         echo vcpus {vcpus}; cat sender.log receiver.log
        ",
        path.name()
    )
}

/// Judges the consoles of an exchange.
fn all_came(text: &str, path: CallPath, vcpus: u32, frames: u64) -> Result<()> {
    let vcpus = u64::from(vcpus);
    ensure!(
        value(text, "receive", "path")? == path.name(),
        "another path: {text}"
    );
    ensure!(
        number(text, "send", "frames")? == frames,
        "not all were sent: {text}"
    );
    ensure!(
        number(text, "receive", "frames")? == frames,
        "not all came: {text}"
    );
    ensure!(
        number(text, "receive", "streams")? == vcpus,
        "a thread sent nothing: {text}"
    );
    if vcpus > 1 {
        for role in ["send", "receive"] {
            let moves = number(text, role, "moves")?;
            ensure!(moves >= 4 * vcpus, "{role} made only {moves} moves: {text}");
        }
        let lanes = number(text, "receive", "lanes")?;
        ensure!(lanes >= vcpus, "{lanes} lanes were used: {text}");
    }
    Ok(())
}

fn exchange(testbed: &EmulatedTestbed, path: CallPath, all_vcpus: &[u32]) -> Result<()> {
    let frames = |vcpus| if vcpus < 4 { FRAMES } else { FRAMES_OF_FOUR };
    let script = |&vcpus: &u32| exchange_script(path, vcpus, frames(vcpus));
    let scene = Scene {
        kernel: &testbed.kernel_tree.kernel.image,
        memory: "96M",
        script: all_vcpus.iter().map(script).collect(),
        seconds: 1200,
    };
    let text = scene.play(testbed)?;
    let parts: Vec<&str> = text.split("vcpus ").skip(1).collect();
    ensure!(parts.len() == all_vcpus.len(), "it printed {text:?}");
    for (part, &vcpus) in parts.into_iter().zip(all_vcpus) {
        all_came(part, path, vcpus, frames(vcpus))?;
    }
    Ok(())
}

fn debian(testbed: &EmulatedTestbed, codename: &str) -> Result<()> {
    const VCPUS: u32 = 2;
    let all = Series::all(setup::root())?;
    let series = all.into_iter().find(|series| series.debian == codename);
    let series = series.with_context(|| format!("there is no series of {codename}"))?;
    let tree = Setup::of(&series)?.kernel(Flavour::Debian)?;
    let script = exchange_script(CallPath::Elisa, VCPUS, FRAMES);
    let scene = Scene {
        kernel: &tree.kernel.image,
        memory: "192M",
        script: format!("line=pti=on\n{script}"),
        seconds: 1200,
    };
    let text = scene.play(testbed)?;
    all_came(&text, CallPath::Elisa, VCPUS, FRAMES)?;
    // Of both kernels: where text begins without KASLR is in no line.
    const UNMOVED: &str = "text=ffffffff81000000";
    let facts: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("kernel "))
        .collect();
    ensure!(facts.len() == 2, "it printed {text:?}");
    for line in facts {
        ensure!(line.contains("pti=true"), "no KPTI: {line}");
        ensure!(
            line.contains("text=ffffffff") && !line.contains(UNMOVED),
            "no KASLR: {line}"
        );
    }
    Ok(())
}
