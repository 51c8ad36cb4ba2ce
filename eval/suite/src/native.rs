//! Checks and unit tests that cargo runs on this host.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::Result;
use postern_lab::setup;
use postern_lab::setup::cache::Cache;
use postern_lab::setup::programs::FREESTANDING;
use postern_lab::setup::progress::Progress;

use crate::libtest;
use crate::report::{TestReport, Verdict};
use crate::unit_tests::Selection;

/// A check that is one command.
struct Check {
    name: &'static str,
    /// Time that it takes at first, for people.
    about: &'static str,
    arguments: Vec<&'static str>,
    rustdoc_flags: &'static str,
}

fn checks() -> Vec<Check> {
    let mut freestanding = vec!["clippy", "--locked", "--target", "x86_64-unknown-none"];
    freestanding.extend(FREESTANDING.iter().flat_map(|name| ["--package", name]));
    freestanding.extend(["--", "-D", "warnings"]);
    let mut lints = vec!["clippy", "--locked", "--all-targets"];
    lints.extend(["--", "-D", "warnings"]);
    vec![
        Check {
            name: "native/format",
            about: "a few seconds",
            arguments: vec!["fmt", "--all", "--check"],
            rustdoc_flags: "",
        },
        Check {
            name: "native/lints",
            about: "about a minute",
            arguments: lints,
            rustdoc_flags: "",
        },
        Check {
            name: "native/lints of freestanding code",
            about: "a few seconds",
            arguments: freestanding,
            rustdoc_flags: "",
        },
        Check {
            name: "native/documentation",
            about: "half a minute",
            arguments: vec!["doc", "--locked", "--no-deps"],
            rustdoc_flags: "-D warnings",
        },
    ]
}

/// Names of the checks.
pub fn names() -> Vec<&'static str> {
    checks().iter().map(|check| check.name).collect()
}

/// Runs the checks that are wanted.
///
/// # Errors
///
/// Cargo cannot be run.
pub fn run_checks(report: &TestReport, wanted: impl Fn(&str) -> bool) -> Result<()> {
    for check in checks().iter().filter(|check| wanted(check.name)) {
        let start = Instant::now();
        let mut command = cargo();
        command
            .args(&check.arguments)
            .env("RUSTDOCFLAGS", check.rustdoc_flags);
        let title = format!("{} (at first {})", check.name, check.about);
        let (success, output) = capture(&title, &mut command)?;
        let verdict = if success {
            Verdict::Passed
        } else {
            Verdict::Failed(summary(&output))
        };
        report.line(check.name, &verdict, Some(start.elapsed()));
    }
    Ok(())
}

/// Runs the unit tests that are selected, each of which becomes a line. Where tests of the programs
/// `elsewhere` cannot be run here, nothing is said: they run in a machine and are told there.
///
/// # Errors
///
/// Cargo cannot be run.
pub fn run_unit_tests(
    report: &TestReport,
    selection: &Selection,
    elsewhere: &[&str],
    wanted: impl Fn(&str) -> bool,
) -> Result<()> {
    // Models of memory try so many orders that they need what the compiler can do.
    for (models, title) in [
        (false, "unit tests (at first 4 minutes)"),
        (true, "models of memory (at first a minute)"),
    ] {
        let packages = selection.packages(models);
        if packages.is_empty() {
            continue;
        }
        let start = Instant::now();
        let mut command = cargo();
        command.args(["test", "--locked", "--no-fail-fast"]);
        command.args(models.then_some("--release"));
        for package in packages {
            command.args(["--package", package]);
        }
        command.args(["--", "--show-output"]);
        command.args(selection.filters());
        let (success, output) = capture(title, &mut command)?;
        let tests = libtest::parse(&output);
        let failed = tests
            .iter()
            .any(|test| matches!(test.verdict, Verdict::Failed(_)));
        for test in &tests {
            let name = format!("unit/{}", test.name);
            let program = test.name.split("::").next().unwrap_or_default();
            let skipped = matches!(test.verdict, Verdict::Skipped(_));
            if wanted(&name) && !(skipped && elsewhere.contains(&program)) {
                report.line(&name, &test.verdict, None);
            }
        }
        // Tests that do not compile have no lines of their own.
        if !success && !failed {
            report.line(
                "unit",
                &Verdict::Failed(summary(&output)),
                Some(start.elapsed()),
            );
        }
    }
    Ok(())
}

/// A command of cargo in the checkout, whose output is text.
fn cargo() -> Command {
    let mut command = setup::cargo();
    command
        .env("CARGO_TERM_COLOR", "never")
        .stdin(Stdio::null());
    command
}

/// Runs a command, says so if it takes a while, and returns whether it succeeded, and what it
/// printed, in order.
pub(super) fn capture(title: &str, command: &mut Command) -> Result<(bool, String)> {
    let name = title
        .split(" (")
        .next()
        .unwrap_or(title)
        .replace(['/', ' '], "-");
    let log = Cache::open()?.path("log").join(format!("suite-{name}.log"));
    let (status, output) = Progress::new().quick_task(title, &log)?.capture(command)?;
    Ok((status.success(), output))
}

/// The part of a failed command's output that tells why: from the first error on, or its end.
pub(super) fn summary(output: &str) -> String {
    const LINES: usize = 40;
    let lines: Vec<&str> = output.lines().collect();
    let error = lines
        .iter()
        .position(|line| line.starts_with("error") || line.starts_with("Diff in"));
    let from = error.unwrap_or(lines.len().saturating_sub(LINES));
    lines[from..]
        .iter()
        .take(LINES)
        .map(|line| format!("{line}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_begins_with_the_first_error() {
        let output = "   Compiling x\nwarning: y\nerror[E1]: z\n  --> a.rs\n";
        assert_eq!(summary(output), "error[E1]: z\n  --> a.rs\n");
    }
}
