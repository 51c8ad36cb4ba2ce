//! The tests that run in machines, by area.

mod attacks;
mod examples;
mod machine;
mod paths;
mod views;
pub mod vmm;

use crate::machine_test::Test;

/// All tests, in the order of running.
pub fn all() -> Vec<&'static Test> {
    [
        machine::TESTS,
        views::TESTS,
        paths::TESTS,
        vmm::TESTS,
        examples::TESTS,
        attacks::TESTS,
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod names {
    use std::collections::BTreeSet;

    #[test]
    fn each_name_is_there_once() {
        let all = super::all();
        let names: BTreeSet<&str> = all.iter().map(|test| test.name).collect();
        assert_eq!(names.len(), all.len());
    }
}
