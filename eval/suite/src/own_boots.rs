//! Tests that boot machines by themselves: of what a job in one good boot cannot show.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use postern_bench::demo::{self, DemoOptions};
use postern_bench::report::Pcap;
use postern_bench::traffic::Trace;
use postern_lab::interrupt;
use postern_lab::job::Job;
use postern_lab::machine::MachineError;
use postern_lab::setup::{self, Flavour, Series};
use postern_lab::testbed::{EmulatedTestbed, Testbed, VIEWS};

use crate::boots;
use crate::bridges;
use crate::disks;
use crate::networks;
use crate::papers;
use crate::report::{TestReport, Verdict};
use crate::stock_users;
use crate::testbeds::Testbeds;
use crate::tests::{linux, linux_nic};

/// A test that makes its own machines.
#[derive(Debug)]
pub struct OwnBootTest {
    /// `area/what holds`.
    pub name: &'static str,
    /// Runs it.
    pub run: fn(&EmulatedTestbed) -> Result<()>,
    /// True if it runs only where somebody names it, since it takes minutes.
    pub on_request: bool,
}

impl OwnBootTest {
    /// A test that runs with all others.
    pub const fn new(name: &'static str, run: fn(&EmulatedTestbed) -> Result<()>) -> Self {
        Self {
            name,
            run,
            on_request: false,
        }
    }

    /// The same test, which runs only where somebody names it.
    pub const fn on_request(self) -> Self {
        Self {
            on_request: true,
            ..self
        }
    }
}

/// All tests that boot machines by themselves.
pub fn all() -> impl Iterator<Item = &'static OwnBootTest> {
    OF_MACHINES
        .iter()
        .chain(linux::TESTS)
        .chain(linux::programs::TESTS)
        .chain(linux_nic::TESTS)
        .chain(linux_nic::ends::TESTS)
}

/// Those of machines, of stock KVM and of disks.
const OF_MACHINES: &[OwnBootTest] = &[
    OwnBootTest::new("machine/equal machines run equal instructions", repeatable),
    OwnBootTest::new("machine/a kernel that panics is a failure", kernel_panic),
    OwnBootTest::new("machine/a triple fault is a failure", triple_fault),
    OwnBootTest::new("machine/a machine that hangs is given up", hang),
    OwnBootTest::new("machine/a module that is none is named", no_module),
    OwnBootTest::new("machine/a module that does not fit is named", unfit_module),
    OwnBootTest::new("machine/nothing of a machine stays behind", nothing_left),
    OwnBootTest::new("machine/large files of jobs are disks", large_files),
    OwnBootTest::new(bridges::NAME, bridges::same_frames),
    OwnBootTest::new(
        "machine/four runs at once from one checkout do not disturb each other",
        runs_at_once,
    ),
    OwnBootTest::new(
        "stock-users/a VM exit costs at most 2 instructions more where no VM has a view",
        stock_users::costs,
    ),
    OwnBootTest::new(
        "stock-users/Linux in Debian's QEMU makes the same exits on the patched modules",
        stock_users::qemu,
    ),
    OwnBootTest::new(
        "linux/boot: of a small guest costs at most 1.05 times its kernel's own",
        boots::costs,
    ),
    OwnBootTest::new(
        "linux/disk: what a guest reads and writes is what the host has",
        disks::content,
    ),
    OwnBootTest::new(
        "linux/disk: a read costs at most the instructions of Debian's QEMU",
        disks::costs,
    ),
    OwnBootTest::new(
        "linux/net: a packet of virtio-net costs at most 1.05 times that of Debian's QEMU",
        networks::costs,
    )
    .on_request(),
    OwnBootTest::new(
        "linux/vsock: a guest and its host reach each other",
        networks::vsock,
    ),
    OwnBootTest::new("demo/the same run twice shows the same counts", demo_twice),
    OwnBootTest::new(
        "paper/a quick figure of each kind of work with bare guests gives its values",
        papers::bare,
    ),
    OwnBootTest::new("paper/a bundle measures its host", papers::bundle).on_request(),
    OwnBootTest::new(
        "paper/quick figures with Linux guests give their values",
        papers::linux,
    )
    .on_request(),
];

/// Makes what these tests need: the machine with the default series' small kernel and the patched KVM.
///
/// # Errors
///
/// The machine cannot be made.
pub fn prepare(testbeds: &mut Testbeds) -> Result<EmulatedTestbed> {
    let series = Series::default_one(setup::root())?;
    let testbed = testbeds.with(&series, Flavour::Small)?;
    testbed.prepare_patched()?;
    Ok(testbed.clone())
}

/// Runs a test and reports it.
///
/// # Errors
///
/// The suite is interrupted.
pub fn run(report: &TestReport, testbed: &EmulatedTestbed, test: &OwnBootTest) -> Result<()> {
    interrupt::check()?;
    let start = Instant::now();
    let verdict = Verdict::from((test.run)(testbed));
    report.line(
        &format!("emulated/{}", test.name),
        &verdict,
        Some(start.elapsed()),
    );
    Ok(())
}

/// Reads the counters, which tell every instruction since power-on apart, after work of all kinds.
fn repeatable(testbed: &EmulatedTestbed) -> Result<()> {
    let counters = || -> Result<String> {
        let job = Job::new(
            "count",
            "./postern check; ls -lR /sys/kernel /proc/1 | md5sum; ./postern-init counters",
        )
        .file("postern", &testbed.programs.postern)
        .file("postern-init", &testbed.programs.init);
        let done = testbed.machine(VIEWS)?.run(job)?;
        let text = done.text();
        let line = text.lines().last().context("it printed nothing")?;
        ensure!(line.starts_with("instructions "), "it printed {line:?}");
        Ok(line.to_owned())
    };
    let (first, second) = (counters()?, counters()?);
    ensure!(first == second, "first {first}, then {second}");
    Ok(())
}

fn kernel_panic(testbed: &EmulatedTestbed) -> Result<()> {
    // A kernel whose first process ends has nothing to go on with.
    match testbed
        .bare_machine()
        .arguments("rdinit=/bin/busybox")
        .run(Job::new("x", "true"))
    {
        Err(MachineError::KernelPanic { line, .. }) => {
            ensure!(
                line.contains("Attempted to kill init"),
                "the reason is: {line}"
            );
            Ok(())
        }
        other => bail!("the outcome is {other:?}"),
    }
}

fn triple_fault(testbed: &EmulatedTestbed) -> Result<()> {
    // The kernel restarts the machine by a triple fault, as `reboot=t` tells it.
    match testbed.bare_machine().run(Job::new("reboot", "reboot -f")) {
        Err(MachineError::Emulator { line, .. }) => {
            ensure!(
                line.contains("exception with no resolution"),
                "the reason is: {line}"
            );
            Ok(())
        }
        other => bail!("the outcome is {other:?}"),
    }
}

fn hang(testbed: &EmulatedTestbed) -> Result<()> {
    // In the first of these times the machine does not get to its job where the host is busy.
    for seconds in [6, 24, 96] {
        let job = Job::new("hang", "echo begun; while :; do :; done")
            .timeout(Duration::from_secs(10_000));
        let machine = testbed.bare_machine();
        let outcome = machine
            .timeout(Duration::from_secs(seconds))
            .run_all(&[job])?;
        match outcome.death {
            Some(MachineError::Timeout { .. }) => {}
            other => bail!("the outcome is {other:?}"),
        }
        if outcome.unfinished.text() == "begun\n" {
            return Ok(());
        }
    }
    bail!("its output is lost")
}

fn no_module(testbed: &EmulatedTestbed) -> Result<()> {
    match testbed
        .bare_machine()
        .module("/nonexistent/x.ko", "")
        .run(Job::new("x", "true"))
    {
        Err(error @ MachineError::Prepare { .. }) => {
            ensure!(
                error.to_string().contains("/nonexistent/x.ko"),
                "the reason is: {error}"
            );
            Ok(())
        }
        other => bail!("the outcome is {other:?}"),
    }
}

/// KVM's module for Intel does not load without the other two.
fn unfit_module(testbed: &EmulatedTestbed) -> Result<()> {
    match testbed
        .bare_machine()
        .module(&testbed.modules()?.kvm_intel, "")
        .run(Job::new("x", "true"))
    {
        Err(MachineError::Module { module, error, .. }) => {
            ensure!(module.ends_with("kvm-intel.ko"), "the module is {module}");
            ensure!(error.contains("No such file"), "the reason is: {error}");
            Ok(())
        }
        other => bail!("the outcome is {other:?}"),
    }
}

fn nothing_left(testbed: &EmulatedTestbed) -> Result<()> {
    // Of its own: in the cache's one, others make and remove directories meanwhile.
    let run = tempfile::tempdir().context("making a directory")?;
    let mut testbed = testbed.clone();
    testbed.files.run = run.path().to_owned();
    testbed.bare_machine().run(Job::new("x", "true"))?;
    let left: Vec<_> = std::fs::read_dir(run.path())
        .context("reading the directory of machines")?
        .flatten()
        .collect();
    ensure!(left.is_empty(), "these are left: {left:?}");
    Ok(())
}

/// Two disks, on both channels, with all of their content; what is written to them is lost.
fn large_files(testbed: &EmulatedTestbed) -> Result<()> {
    let directory = tempfile::tempdir().context("making a directory")?;
    let mut job = Job::new(
        "disks",
        "cat a b | md5sum; echo x | dd of=a conv=notrunc 2> /dev/null; sync; head -c 2 a",
    );
    let mut all = Vec::new();
    for (name, blocks) in [("a", 65_537), ("b", 65_539)] {
        let content: Vec<u8> = (0..blocks * 512_u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        let path = directory.path().join(name);
        std::fs::write(&path, &content).context("writing a large file")?;
        all.extend(content);
        job = job.file(name, path);
    }
    let path = directory.path().join("all");
    std::fs::write(&path, &all).context("writing a large file")?;
    let mut md5sum = std::process::Command::new("md5sum");
    let md5sum = md5sum.stdin(std::fs::File::open(&path).context("opening a large file")?);
    let sum = String::from_utf8(md5sum.output().context("running md5sum")?.stdout)?;
    let text = testbed.bare_machine().run(job)?.success()?.text();
    ensure!(
        text == format!("{sum}x\n"),
        "it printed {text:?}, not {sum}"
    );
    ensure!(
        std::fs::read(directory.path().join("a")).context("reading a file")? == all[..65_537 * 512],
        "the file has changed"
    );
    Ok(())
}

/// Four times what `cargo lab machine run` does: make what is missing, boot, run a command.
fn runs_at_once(_: &EmulatedTestbed) -> Result<()> {
    const RUNS: usize = 4;
    let run = || -> Result<()> {
        let series = Series::default_one(setup::root())?;
        let testbed = EmulatedTestbed::prepare(&series, Flavour::Small)?;
        let outcome = testbed.machine(VIEWS)?.run(Job::new("hi", "echo hi"))?;
        let text = outcome.success()?.text();
        ensure!(text == "hi\n", "it printed {text:?}");
        Ok(())
    };
    let results: Vec<Result<()>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..RUNS).map(|_| scope.spawn(run)).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        threads.into_iter().map(join).collect()
    });
    results.into_iter().collect()
}

/// Every figure of every path, from two demos with few frames.
fn demo_twice(testbed: &EmulatedTestbed) -> Result<()> {
    let emulated = Testbed::Emulated(Box::new(testbed.clone()));
    let options = DemoOptions {
        json: None,
        pcap: None,
        batch: vec![8],
        frames: 200,
        seccomp: true,
    };
    let trace = Trace::synthetic(200, 150);
    let input = Pcap::of(&trace, "made up");
    let demo = || -> Result<serde_json::Value> {
        let (report, failures) =
            demo::measure(&emulated, &options, &trace, input.clone(), &|_| ())?;
        ensure!(failures.is_empty(), "runs failed: {}", failures.join("\n"));
        ensure!(!report.traffic.is_empty() && !report.calls.is_empty());
        serde_json::to_value(&report).context("making JSON of a report")
    };
    let (first, second) = (demo()?, demo()?);
    ensure!(first == second, "first {first:#}, then {second:#}");
    Ok(())
}
