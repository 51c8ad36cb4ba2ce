//! The emulated machine itself: what other tests rely on.

use anyhow::{Context, Result, ensure};

use crate::machine_test::{Boot, Judge, Kvm, Test};
use postern_lab::job::{Job, JobOutcome};
use postern_lab::setup::{Flavour, Programs};

const BARE: Boot = Boot {
    flavour: Flavour::Small,
    kvm: Kvm::None,
};
const STOCK: Boot = Boot {
    flavour: Flavour::Small,
    kvm: Kvm::Stock,
};
const DEBIAN: Boot = Boot {
    flavour: Flavour::Debian,
    kvm: Kvm::Stock,
};

pub(super) const TESTS: &[Test] = &[
    Test {
        name: "machine/output and status of a command come back",
        boot: BARE,
        job: |_| Job::new("status", "pwd; ls; echo err >&2; exit 3").bytes("a", b"x".as_slice()),
        judge: Judge::Whole(|outcome| {
            let text = outcome.text();
            ensure!(
                outcome.status == Some(3),
                "status {:?}, not 3",
                outcome.status
            );
            ensure!(
                text.ends_with("\na\nerr\n") && text.starts_with("/job/"),
                "it printed {text:?}"
            );
            Ok(())
        }),
    },
    Test {
        name: "machine/files come back byte for byte",
        boot: BARE,
        job: |_| {
            Job::new("files", "cat in in > out; : > empty")
                .bytes("in", pattern())
                .fetch("out")
                .fetch("empty")
        },
        judge: Judge::Whole(|outcome| {
            let outcome = outcome.success()?;
            ensure!(
                outcome.file("out")? == [pattern(), pattern()].concat(),
                "the bytes differ"
            );
            ensure!(
                outcome.file("empty")?.is_empty(),
                "an empty file is not empty"
            );
            Ok(())
        }),
    },
    Test {
        name: "machine/a missing file is a failure",
        boot: BARE,
        job: |_| Job::new("missing", "true").fetch("nothing"),
        judge: Judge::Whole(|outcome| fails_with(outcome, "it made no file nothing: No such file")),
    },
    Test {
        name: "machine/a command that takes too long is killed",
        boot: BARE,
        job: |_| {
            Job::new("timeout", "echo begun; sleep 100").timeout(std::time::Duration::from_secs(2))
        },
        judge: Judge::Whole(|outcome| {
            ensure!(
                outcome.status.is_none() && outcome.text() == "begun\n",
                "{outcome:?}"
            );
            fails_with(outcome, "it was not done in time")
        }),
    },
    Test {
        name: "machine/nothing of a command stays behind",
        boot: BARE,
        job: |_| {
            let script = "! ps | grep -v grep | grep -q 'sleep 100' && (sleep 1000 &) && \
                          (setsid sleep 1000 > /dev/null 2>&1 &)";
            Job::new("leftovers", script)
        },
        judge: Judge::Whole(|outcome| outcome.success().map(drop)),
    },
    Test {
        name: "machine/the command before has left nothing",
        boot: BARE,
        job: |_| Job::new("after", "! ps | grep -v grep | grep 'sleep'"),
        judge: Judge::Whole(|outcome| outcome.success().map(drop)),
    },
    Test {
        name: "machine/processes whose parents were killed leave no zombies",
        boot: BARE,
        job: |_| {
            let script = "sh -c 'sleep 0.2 & sleep 0.3 & sleep 100' & parent=$!; sleep 0.1; \
                          kill -9 $parent; sleep 1; ! ps -o stat,comm | grep '^Z'";
            Job::new("zombies", script)
        },
        judge: Judge::Whole(|outcome| outcome.success().map(drop)),
    },
    Test {
        name: "machine/a kernel that complains is a failure",
        boot: BARE,
        job: |_| Job::new("complaint", "echo '<4>WARNING: made up' > /dev/kmsg"),
        judge: Judge::Whole(|outcome| fails_with(outcome, "the kernel complains: <4>")),
    },
    Test {
        name: "machine/counters",
        boot: BARE,
        job: |programs| {
            Job::new("counters", "./postern-init counters check")
                .file("postern-init", &programs.init)
        },
        judge: Judge::Lines,
    },
];

/// Tests of the kernels of all series.
pub(super) const OF_ALL_SERIES: &[Test] = &[
    Test {
        name: "machine/the processor has what views need",
        boot: STOCK,
        job: |_| {
            let script = "for flag in smep smap pcid; do grep -qw $flag /proc/cpuinfo || echo no \
                          $flag; done; test -c /dev/kvm; cat /sys/module/kvm_intel/parameters/ept";
            Job::new("processor", script)
        },
        judge: Judge::Whole(|outcome| {
            let text = outcome.success()?.text();
            ensure!(text == "Y\n", "it printed {text:?}");
            Ok(())
        }),
    },
    Test {
        name: "machine/a guest runs on the stock KVM",
        boot: STOCK,
        job: hello,
        judge: Judge::Whole(said_hello),
    },
    Test {
        name: "machine/a guest runs on the KVM of Debian's own kernel",
        boot: DEBIAN,
        job: hello,
        judge: Judge::Whole(said_hello),
    },
];

/// A guest that needs nothing but a processor, memory and a timer.
fn hello(programs: &Programs) -> Job {
    let run =
        "./postern run --kernel guest --memory 16M --serial - --cmdline 'role=hello timer=100'";
    Job::new("hello", run)
        .file("postern", &programs.postern)
        .file("guest", &programs.bare_guest)
}

fn said_hello(outcome: JobOutcome) -> Result<()> {
    let text = outcome.success()?.text();
    let said = text
        .lines()
        .any(|line| line.starts_with("result role=hello "));
    ensure!(said, "it printed {text:?}");
    Ok(())
}

/// Bytes of all values, more than one piece of output holds, and no multiple of four.
fn pattern() -> Vec<u8> {
    (0..100_001_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect()
}

fn fails_with(outcome: JobOutcome, reason: &str) -> Result<()> {
    let error = outcome.success().err().context("it passes for a success")?;
    ensure!(
        error.to_string().starts_with(reason),
        "the reason is: {error}"
    );
    Ok(())
}
