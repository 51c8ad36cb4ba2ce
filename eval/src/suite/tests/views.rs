//! The patched KVM's calls.

use std::time::Duration;

use crate::job::Job;
use crate::suite::machine::{Boot, Judge, Test};

pub(super) const TESTS: &[Test] = &[Test {
    name: "views",
    boot: Boot::VIEWS,
    job: |programs| {
        Job::new("views", "./viewtest")
            .file("viewtest", &programs.viewtest)
            .timeout(Duration::from_secs(600))
    },
    judge: Judge::Lines,
}];
