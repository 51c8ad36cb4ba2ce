//! The example that measures what templates cost does so.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

#[path = "../examples/template_costs.rs"]
#[allow(dead_code, reason = "the program's arguments are not the test's")]
mod example;

#[test]
fn the_example_that_measures_templates_runs() {
    example::measure("test", 2, &[4]).unwrap();
}
