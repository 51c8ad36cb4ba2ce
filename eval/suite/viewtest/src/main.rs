//! Tests of the patched KVM's calls, one architectural question each, on vCPUs whose guest is a few
//! bytes of code at CPL 3. Runs where the module is loaded: on hardware or in the emulated machine.
//!
//! Prints `ok NAME` or `FAILED NAME: reason` for each test; the exit status is 0 if all passed.
//! Arguments choose tests by a part of their name.

mod arguments;
mod calls;
mod guest;
mod hypercall;
mod lifetime;
mod sys;

use std::process::ExitCode;

/// A test: what it is called and what it does.
pub type Test = (&'static str, fn() -> anyhow::Result<()>);

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let tests = arguments::TESTS
        .iter()
        .chain(calls::TESTS)
        .chain(hypercall::TESTS)
        .chain(lifetime::TESTS);
    let (mut passed, mut failed) = (0, 0);
    for (name, test) in tests {
        if !wanted.is_empty() && !wanted.iter().any(|part| name.contains(part.as_str())) {
            continue;
        }
        match test() {
            Ok(()) => {
                passed += 1;
                println!("ok {name}");
            }
            Err(error) => {
                failed += 1;
                println!("FAILED {name}: {error:#}");
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 && passed > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
