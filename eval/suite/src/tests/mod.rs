//! The tests that run in machines, by area.

mod attacks;
mod bells;
mod checked;
mod examples;
pub mod linux;
pub mod linux_nic;
mod machine;
mod paths;
mod preemption;
mod self_test;
mod views;
pub mod vmm;

use postern_lab::setup::Series;

use crate::machine_test::{SeriesTest, Test};

/// Tests that run on the kernels of all series.
const OF_ALL_SERIES: [&[Test]; 5] = [
    machine::OF_ALL_SERIES,
    views::TESTS,
    bells::TESTS,
    self_test::TESTS,
    attacks::TESTS,
];

/// Tests that run on the kernels of the default series: another kernel makes no difference to what
/// they test, or takes too long to build.
const OF_THE_DEFAULT: [&[Test]; 6] = [
    machine::TESTS,
    checked::TESTS,
    paths::TESTS,
    vmm::TESTS,
    preemption::TESTS,
    examples::TESTS,
];

/// All tests on these series, in the order of running.
pub fn all(series: &[Series]) -> Vec<SeriesTest<'_>> {
    let mut all = Vec::new();
    let tests = |areas: &[&'static [Test]]| areas.iter().copied().flatten().collect::<Vec<_>>();
    for series in series.iter().filter(|series| series.default) {
        let tests = tests(&OF_THE_DEFAULT).into_iter();
        all.extend(tests.map(|test| SeriesTest::alone(test, series)));
    }
    for series in series {
        let tests = tests(&OF_ALL_SERIES).into_iter();
        all.extend(tests.map(|test| SeriesTest::of_many(test, series)));
    }
    all
}

#[cfg(test)]
mod names {
    use std::collections::BTreeSet;

    use postern_lab::setup::{self, Series};

    #[test]
    fn each_name_is_there_once() {
        let series = Series::all(setup::root()).unwrap();
        let all = super::all(&series);
        let names: BTreeSet<&str> = all.iter().map(|test| &*test.name).collect();
        assert_eq!(names.len(), all.len());
    }

    #[test]
    fn names_of_tests_on_all_series_have_the_series_after_the_area() {
        let series = Series::all(setup::root()).unwrap();
        let all = super::all(&series);
        for series in &series {
            let name = format!("machine/{}/a guest runs on the stock KVM", series.name());
            assert!(all.iter().any(|test| test.name == name), "{name}");
        }
        assert!(all.iter().any(|test| test.name == "views/6.1"));
    }
}
