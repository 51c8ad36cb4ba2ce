//! The topologies of vmm/examples, as they stand.

use std::time::Duration;

use postern_lab::job::Job;
use postern_lab::setup::{self, Programs};

use crate::machine_test::{Boot, Judge, Test};

/// Folder of the topologies, from the top of the checkout.
const FOLDER: &str = "vmm/examples";

macro_rules! example {
    ($file:literal) => {
        Test {
            name: concat!("examples/", $file, " runs as it stands"),
            boot: Boot::VIEWS,
            job: |programs| job(programs, $file),
            judge: Judge::Whole(|outcome| outcome.success().map(drop)),
        }
    };
}

pub(super) const TESTS: &[Test] = &[
    example!("mixed-paths.toml"),
    example!("two-vms.toml"),
    example!("without-views.toml"),
];

fn job(programs: &Programs, file: &str) -> Job {
    Job::new(file, &format!("./postern up {file}"))
        .file(file, setup::root().join(FOLDER).join(file))
        .file("postern", &programs.postern)
        // What all of them name.
        .file("guest", &programs.bare_guest)
        .file("nic-image", &programs.nic_image)
        .timeout(Duration::from_secs(300))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_example_has_a_test() {
        let folder = setup::root().join(FOLDER);
        let entries = std::fs::read_dir(folder).unwrap();
        let mut files: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            // Those with Linux guests need a machine of their own.
            .filter(|name| name.ends_with(".toml") && !name.starts_with("linux-"))
            .map(|name| format!("examples/{name} runs as it stands"))
            .collect();
        files.sort();
        let names: Vec<&str> = TESTS.iter().map(|test| test.name).collect();
        assert_eq!(names, files);
    }
}
