//! Processes that misuse views, and VMs that end in all ways, beside others that go on.

use anyhow::{Context, Result, ensure};
use postern_abi::platform::CallPath;
use postern_lab::setup::{self, Flavour, Series, Setup};
use postern_lab::testbed::EmulatedTestbed;

use super::{Scene, number};
use crate::own_boots::OwnBootTest;

/// Frames of an exchange beside which other VMs end in all ways. With a pause after each 16 of them
/// it lasts one and a half minutes of the machine's time, longer than those take.
const FRAMES_BESIDE: u64 = 300_000;
/// That pause in microseconds.
const PAUSE: u64 = 5_000;

/// The tests.
pub const TESTS: &[OwnBootTest] = &[
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
    )
    .on_request(),
];

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
