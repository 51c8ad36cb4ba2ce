//! The VM monitor's own tests, where KVM runs guests as they are.

use std::time::Duration;

use crate::job::Job;
use crate::setup::Programs;
use crate::suite::VMM;
use crate::suite::machine::{Boot, Judge, Test};

pub(super) const TESTS: &[Test] = &[
    Test {
        name: "vmm",
        boot: Boot::VIEWS,
        job: |programs| job(programs, ""),
        judge: Judge::VmmTests("boot"),
    },
    Test {
        name: "vmm",
        boot: Boot::VIEWS,
        job: |programs| job(programs, ""),
        judge: Judge::VmmTests("lifecycle"),
    },
    Test {
        name: "vmm",
        boot: Boot::VIEWS,
        job: |programs| {
            job(
                programs,
                "statistics_of_a_real_vm this_machine_can_be_judged",
            )
        },
        judge: Judge::VmmTests(VMM),
    },
];

/// Runs the tests that are named, or all of the program.
fn job(programs: &Programs, names: &str) -> Job {
    let script = format!("POSTERN=$PWD/postern ./test --test-threads 1 --show-output {names}");
    Job::new("vmm", &script)
        .file("postern", &programs.postern)
        .timeout(Duration::from_secs(600))
}
