//! The example that attaches a view does what it says.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

#[path = "../examples/attach_view.rs"]
mod example;

#[test]
fn the_example_that_attaches_a_view_runs() {
    example::main().unwrap();
}
