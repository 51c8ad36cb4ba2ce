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

/// Functions for scripts.
const PRELUDE: &str = include_str!("linux_nic.sh");

/// Real time that a machine has.
const REAL_TIME: Duration = Duration::from_secs(3600);

/// Frames of an exchange.
const FRAMES: u64 = 100_000;
/// Frames of an exchange between VMs of four vCPUs, which share the machine's only processor: each
/// takes several times as long there.
const FRAMES_OF_FOUR: u64 = 20_000;
/// Frames of an exchange beside which other VMs end in all ways. With a pause after each 16 of them
/// it lasts one and a half minutes of the machine's time, longer than those take.
const FRAMES_BESIDE: u64 = 300_000;
/// That pause in microseconds.
const PAUSE: u64 = 5_000;

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
    exchange!("exit-kernel", CallPath::ExitKernel).on_request(),
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
    OwnBootTest::new(
        "linux/nic misuse: a process dies of it, and nobody else notices",
        |testbed| misuse(testbed, &[CallPath::Elisa, CallPath::ElisaStrict]),
    ),
    OwnBootTest::new(
        "linux/nic misuse without views: a process dies of it, and nobody else notices",
        |testbed| misuse(testbed, &[CallPath::ExitKernel, CallPath::ExitUser]),
    ),
    OwnBootTest::new(
        "linux/nic ends: of a VM in any way stop nobody, and its port is let at once",
        ends_stop_nobody,
    ),
    OwnBootTest::new(
        "linux/nic starts: starts and stops of a VM leave no memory behind",
        starts,
    ),
    OwnBootTest::new(
        "linux/nic debug kernel: starts and stops leave no memory and a clean log",
        |_| starts_under_checks(),
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
    let program = Setup::open()?.linux_guest()?;
    let program =
        std::fs::read(&program).with_context(|| format!("reading {}", program.display()))?;
    let mut root = Initramfs::new();
    root.file("init", program).device("dev/console", 5, 1);
    for directory in ["proc", "sys", "tmp"] {
        root.directory(directory);
    }
    let mut archive = Vec::new();
    root.write(&mut archive).context("writing an archive")?;
    Ok(archive)
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

/// A VM whose processes misuse views, while another process of it sends to another VM.
fn misuse(testbed: &EmulatedTestbed, paths: &[CallPath]) -> Result<()> {
    let script = |path: &CallPath| {
        let traffic = "--frames 20000 --migrate 10 --patience 120";
        format!(
            "path={} vcpus=2
             nic 2
             begin receiver 0 receive {traffic}
             begin sender 1 misuse send {traffic}
             ended sender 0; ended receiver 0
             no_nic
             echo path {}; cat sender.log receiver.log
            ",
            path.name(),
            path.name(),
        )
    };
    let scene = Scene {
        kernel: &testbed.kernel_tree.kernel.image,
        memory: "96M",
        script: paths.iter().map(script).collect(),
        seconds: 1200,
    };
    let text = scene.play(testbed)?;
    let parts: Vec<&str> = text.split("path ").skip(1).collect();
    ensure!(parts.len() == paths.len(), "it printed {text:?}");
    for part in parts {
        ensure!(number(part, "misuse", "acts")? >= 12, "{part}");
        ensure!(number(part, "receive", "frames")? == 20_000, "{part}");
    }
    Ok(())
}

/// Two VMs exchange frames all the time while a third one is killed in calls, stopped, panics and
/// reboots; after each, the next VM gets its port at once.
fn ends_stop_nobody(testbed: &EmulatedTestbed) -> Result<()> {
    let script = format!(
        "path=elisa vcpus=1
         nic 1
         traffic='--frames {FRAMES_BESIDE} --sizes 60 --pause {PAUSE} --patience 120'
         begin receiver 0 receive $traffic
         begin sender 1 send $traffic
         await receiver receiving
         flags='--on-reboot exit'
         noise() {{
             begin third 2 send --to 02:00:00:00:ff:ff --frames 1000000000 --sizes 60
             await third sending
         }}
         beside() {{
             kill -0 $(pid sender) || {{ echo the traffic ended before: $1; exit 84; }}
             echo $1
         }}
         noise
         sleep 0.3; kill -9 $(pid third); wait $(pid third); beside killed
         noise
         kill -STOP $(pid third); sleep 3; beside stopped
         kill -CONT $(pid third); sleep 0.2; kill $(pid third); ended third 143
         begin third 2 panic; wait $(pid third); [ $? = 71 ] || {{ show third; exit 86; }}
         beside panicked
         begin third 2 reboot; ended third 72; beside rebooted
         noise
         beside let
         kill -9 $(pid third)
         ended sender 0; ended receiver 0
         cat sender.log receiver.log
        "
    );
    let scene = Scene {
        kernel: &testbed.kernel_tree.kernel.image,
        memory: "96M",
        script,
        seconds: 3000,
    };
    let text = scene.play(testbed)?;
    for event in ["killed", "stopped", "panicked", "rebooted", "let"] {
        ensure!(text.lines().any(|line| line == event), "no {event}: {text}");
    }
    ensure!(
        number(&text, "receive", "frames")? == FRAMES_BESIDE,
        "{text}"
    );
    Ok(())
}

/// The script that starts and stops a VM so many times, and says how much memory there was before
/// and after.
fn starts_script(times: u32) -> String {
    format!(
        "path=elisa vcpus=2
         nic 2
         once() {{ begin one 0 info; ended one 0; grep -q 'result role=info' one.log || exit 85; }}
         once
         before=$(available)
         for i in $(seq {times}); do once; done
         after=$(available)
         no_nic
         echo memory before=$before after=$after
        "
    )
}

/// KiB that may be missing: what the kernel keeps in its caches of each CPU differs by so much from
/// one time to the next, whatever ran.
const SLACK: u64 = 1024;

fn no_memory_is_lost(text: &str) -> Result<()> {
    let line = text.lines().find(|line| line.starts_with("memory "));
    let line = line.with_context(|| format!("it printed {text:?}"))?;
    let number = |key: &str| -> Result<u64> {
        let value = line.split(' ').find_map(|word| word.strip_prefix(key));
        Ok(value
            .with_context(|| format!("no {key} in '{line}'"))?
            .parse()?)
    };
    let (before, after) = (number("before=")?, number("after=")?);
    ensure!(after + SLACK >= before, "memory was lost: {line}");
    Ok(())
}

/// Variable of the environment: how often to start a VM, instead of [`STARTS`] times.
const STARTS_VARIABLE: &str = "POSTERN_STARTS";
/// Starts and stops, each of which takes the machine some seconds.
const STARTS: u32 = 5;

fn starts(testbed: &EmulatedTestbed) -> Result<()> {
    let times = match std::env::var(STARTS_VARIABLE) {
        Ok(times) => times.parse().context(STARTS_VARIABLE)?,
        Err(_) => STARTS,
    };
    let scene = Scene {
        kernel: &testbed.kernel_tree.kernel.image,
        memory: "96M",
        script: starts_script(times),
        seconds: 3000,
    };
    no_memory_is_lost(&scene.play(testbed)?)
}

/// The same where the host's kernel checks locks and memory, and finds what it has lost.
fn starts_under_checks() -> Result<()> {
    let series = Series::default_one(setup::root())?;
    let testbed = EmulatedTestbed::prepare(&series, Flavour::Debug)?;
    let small = Setup::of(&series)?.kernel(Flavour::Small)?;
    let leaks = "/sys/kernel/debug/kmemleak";
    let script = format!(
        "echo clear > {leaks}
         {}
         sleep 6; echo scan > {leaks}; sleep 1; echo scan > {leaks}; cat {leaks}
        ",
        starts_script(2)
    );
    let scene = Scene {
        kernel: &small.kernel.image,
        memory: "96M",
        script,
        seconds: 3000,
    };
    let text = scene.play(&testbed)?;
    ensure!(
        !text.contains("unreferenced object"),
        "the kernel lost memory: {text}"
    );
    Ok(())
}
