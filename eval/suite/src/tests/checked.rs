//! Views on a kernel that watches itself: locks, memory that is used after it was freed, leaks.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::machine_test::{Boot, Judge, Kvm, Test};
use crate::testbeds::LEAKING;
use postern_lab::job::{Job, JobOutcome};
use postern_lab::setup::Flavour;
use postern_lab::testbed::VIEWS;

const CHECKED: Boot = Boot {
    flavour: Flavour::Debug,
    kvm: Kvm::Patched(VIEWS),
};

pub(super) const TESTS: &[Test] = &[
    Test {
        name: "checked/views keep to the rules of locks and memory, and leak nothing",
        boot: CHECKED,
        job: |programs| {
            let script = format!("{FORGET_LEAKS}; ./viewtest || exit 1; {FIND_LEAKS}");
            Job::new("checked", &script)
                .file("viewtest", &programs.viewtest)
                .timeout(Duration::from_secs(2400))
        },
        judge: Judge::Whole(|outcome| {
            let text = outcome.success()?.text();
            ensure!(!text.contains(LEAK), "the kernel lost memory: {text}");
            Ok(())
        }),
    },
    Test {
        name: "checked/leaks of the kernel's own test are found",
        boot: CHECKED,
        job: |_| {
            let script = format!("insmod {LEAKING}; {FIND_LEAKS}");
            Job::new("leaks", &script).timeout(Duration::from_secs(600))
        },
        judge: Judge::Whole(finds_leaks),
    },
];

/// Forgets what was lost before.
const FORGET_LEAKS: &str = "echo clear > /sys/kernel/debug/kmemleak";

/// Prints what the kernel has lost. An object is suspected when it is some seconds old, and told
/// when it was the same in two scans.
const FIND_LEAKS: &str = "
leaks=/sys/kernel/debug/kmemleak
sleep 6; echo scan > $leaks; sleep 1; echo scan > $leaks; cat $leaks
";

/// Beginning of what is told of a lost object.
const LEAK: &str = "unreferenced object";

/// The module loses memory in its init function. The kernel frees that function with its name, so
/// the backtrace names only its caller.
fn finds_leaks(outcome: JobOutcome) -> Result<()> {
    let text = outcome.success()?.text();
    ensure!(
        text.contains(LEAK) && text.contains("do_init_module"),
        "the leaks were not found, so the test of views could not fail: {text:?}"
    );
    Ok(())
}
