//! The tests that run in machines, by area.

mod attacks;
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
        attacks::TESTS,
    ]
    .into_iter()
    .flatten()
    .collect()
}
