//! Tests of the patched KVM's calls, one architectural question each, on vCPUs whose guest is a few
//! bytes of code at CPL 3. Runs where the module is loaded: on hardware or in the emulated machine.
//!
//! Prints `ok NAME` or `FAILED NAME: reason` for each test; the exit status is 0 if all passed.
//! Arguments choose tests by a part of their name.

mod arguments;
mod bells;
mod calls;
mod cost;
mod grants;
mod guest;
mod hypercall;
mod large_pages;
mod lifetime;
mod observers;
mod revoke;
mod slots;
mod sys;
mod vectors;
mod weakened;

use std::fmt;
use std::process::ExitCode;

use anyhow::{Context, Result};

/// A test: what it is called and what it does.
pub type Test = (&'static str, fn() -> Result<()>);

/// Reason why a test was not run.
#[derive(Debug)]
struct Skipped(&'static str);

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Skipped {}

/// The result of a test that cannot be run here.
pub fn skip(reason: &'static str) -> Result<()> {
    Err(Skipped(reason).into())
}

/// Bit of `ept_view_omit`, which the build for tests of attacks has: views are armed while
/// breakpoints are enabled.
pub const DEBUG: u32 = 1 << 5;
/// Bit of `ept_view_omit`: calls that set state abort no call.
pub const SETTERS: u32 = 1 << 7;

/// Whether the module leaves out this defence.
pub fn omits(defence: u32) -> Result<bool> {
    match std::fs::read_to_string("/sys/module/kvm_intel/parameters/ept_view_omit") {
        Ok(text) => {
            let omitted: u32 = text.trim().parse().context("ept_view_omit")?;
            Ok(omitted & defence != 0)
        }
        // Any other build.
        Err(_) => Ok(false),
    }
}

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if let [first, arguments @ ..] = &wanted[..]
        && first == "cost"
    {
        return match cost::run(arguments) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                println!("{error:#}");
                ExitCode::FAILURE
            }
        };
    }
    let tests = [
        arguments::TESTS,
        calls::TESTS,
        slots::TESTS,
        grants::TESTS,
        revoke::TESTS,
        observers::TESTS,
        vectors::TESTS,
        large_pages::TESTS,
        hypercall::TESTS,
        bells::TESTS,
        lifetime::TESTS,
        weakened::TESTS,
    ];
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (name, test) in tests.into_iter().flatten() {
        if !wanted.is_empty() && !wanted.iter().any(|part| name.contains(part.as_str())) {
            continue;
        }
        match test() {
            Ok(()) => {
                passed += 1;
                println!("ok {name}");
            }
            Err(error) if error.is::<Skipped>() => {
                skipped += 1;
                println!("SKIP {name}: {error}");
            }
            Err(error) => {
                failed += 1;
                println!("FAILED {name}: {error:#}");
            }
        }
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    if failed == 0 && passed > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
