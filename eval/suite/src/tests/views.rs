//! The patched KVM's calls.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::machine_test::{Boot, Judge, Kvm, Test};
use postern_lab::job::{Job, JobOutcome};
use postern_lab::setup::{Flavour, Programs};
use postern_lab::testbed::VIEWS;

/// Debian's kernel as it is distributed, with modules built against its headers.
const DEBIAN: Boot = Boot {
    flavour: Flavour::Debian,
    kvm: Kvm::Patched(VIEWS),
};

pub(super) const TESTS: &[Test] = &[
    Test {
        name: "views",
        boot: Boot::VIEWS,
        job: |programs| job(programs, "./viewtest"),
        judge: Judge::Lines,
    },
    Test {
        name: "views/calls work on Debian's own kernel",
        boot: DEBIAN,
        job: |programs| job(programs, "uname -r; ./viewtest 'a call'"),
        judge: Judge::Whole(|outcome| {
            let text = outcome.success()?.text();
            ensure!(
                text.contains("-cloud-amd64\nok a call"),
                "it printed {text:?}"
            );
            Ok(())
        }),
    },
    Test {
        name: "views/a million calls on elisa under a timer of 5 kHz",
        boot: Boot::VIEWS,
        job: |programs| calls_under_timer(programs, "elisa"),
        judge: Judge::Whole(interrupts_waited),
    },
    Test {
        name: "views/a million calls on elisa-strict under a timer of 5 kHz",
        boot: Boot::VIEWS,
        job: |programs| calls_under_timer(programs, "elisa-strict"),
        judge: Judge::Whole(interrupts_waited),
    },
];

fn calls_under_timer(programs: &Programs, path: &str) -> Job {
    let script = format!(
        "
./postern nic --socket nic.sock --ports 2 --image nic-image > nic.log 2>&1 & nic=$!
while [ ! -S nic.sock ]; do kill -0 $nic || {{ cat nic.log; exit 90; }}; sleep 0.01; done
./postern run --kernel guest --memory 16M --nic nic.sock --port 0 --path {path} --serial - \
    --stats stats.json --cmdline 'role=calls calls=1000000 timer=5000'; status=$?
kill $nic; wait $nic; exit $status
"
    );
    Job::new("calls", &script)
        .file("postern", &programs.postern)
        .file("guest", &programs.bare_guest)
        .file("nic-image", &programs.nic_image)
        .fetch("stats.json")
        .timeout(Duration::from_secs(600))
}

/// Interrupts came while a view was active, each waited for the call's return, and no call was
/// lost.
fn interrupts_waited(outcome: JobOutcome) -> Result<()> {
    let outcome = outcome.success()?;
    let stats: Value = serde_json::from_slice(outcome.file("stats.json")?)?;
    let counter = |name: &str| {
        stats["final"]["statistics"]["views"][0][name]
            .as_u64()
            .with_context(|| format!("no counter {name} in {stats}"))
    };
    ensure!(
        counter("aborts")? == 0,
        "{} calls were aborted",
        counter("aborts")?
    );
    ensure!(
        counter("deferred_leaves")? > 0,
        "no interrupt came during a call, so the test shows nothing"
    );
    Ok(())
}

fn job(programs: &Programs, script: &str) -> Job {
    Job::new("views", script)
        .file("viewtest", &programs.viewtest)
        .timeout(Duration::from_secs(600))
}
