//! The patched KVM's calls.

use std::time::Duration;

use anyhow::ensure;

use crate::job::Job;
use crate::setup::{Flavour, Programs};
use crate::suite::machine::{Boot, Judge, Kvm, Test, VIEWS};

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
        judge: Judge::Whole(|done| {
            let text = done.success()?.text();
            ensure!(
                text.contains("-cloud-amd64\nok a call"),
                "it printed {text:?}"
            );
            Ok(())
        }),
    },
];

fn job(programs: &Programs, script: &str) -> Job {
    Job::new("views", script)
        .file("viewtest", &programs.viewtest)
        .timeout(Duration::from_secs(600))
}
