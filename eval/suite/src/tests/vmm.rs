//! The VMM's own tests that need KVM.

use std::time::Duration;

use crate::machine_test::{Boot, Judge, Test};
use postern_lab::job::Job;
use postern_lab::setup::Programs;

/// The VMM's unit tests, of which only a few run in a machine.
pub const UNIT_TESTS: &str = "postern_vmm";

pub(super) const TESTS: &[Test] = &[
    Test {
        name: "vmm/attach_view",
        boot: Boot::VIEWS,
        job: |programs| job(programs, ""),
        judge: Judge::VmmTests("attach_view"),
    },
    Test {
        name: "vmm/boot",
        boot: Boot::VIEWS,
        job: |programs| job(programs, ""),
        judge: Judge::VmmTests("boot"),
    },
    Test {
        name: "vmm/console",
        boot: Boot::VIEWS,
        job: |programs| job(programs, ""),
        judge: Judge::VmmTests("console"),
    },
    Test {
        name: "vmm/lifecycle",
        boot: Boot::VIEWS,
        job: |programs| job(programs, ""),
        judge: Judge::VmmTests("lifecycle"),
    },
    Test {
        name: "vmm/library",
        boot: Boot::VIEWS,
        job: |programs| {
            job(
                programs,
                "statistics_of_a_real_vm this_machine_can_be_judged",
            )
        },
        judge: Judge::VmmTests(UNIT_TESTS),
    },
    Test {
        name: "vmm/confined",
        boot: Boot::VIEWS,
        job: |programs| {
            Job::new("confined", "./inject ./postern ./image")
                .file("inject", &programs.inject)
                .file("postern", &programs.postern)
                .file("image", &programs.nic_image)
                .timeout(Duration::from_secs(600))
        },
        judge: Judge::Lines,
    },
];

/// Runs the tests that are named, or all of the program.
fn job(programs: &Programs, names: &str) -> Job {
    let script = format!("POSTERN=$PWD/postern ./test --test-threads 1 --show-output {names}");
    Job::new("vmm", &script)
        .file("postern", &programs.postern)
        .timeout(Duration::from_secs(600))
}
