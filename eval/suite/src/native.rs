//! Checks and unit tests that cargo runs on this host.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use postern_lab::interrupt;
use postern_lab::setup::programs::FREESTANDING;

use crate::libtest;
use crate::report::{TestReport, Verdict};

/// A check that is one command.
struct Check {
    name: &'static str,
    arguments: Vec<&'static str>,
    rustdoc_flags: &'static str,
}

fn checks() -> Vec<Check> {
    let check = |name, arguments: &[&'static str]| Check {
        name,
        arguments: arguments.to_vec(),
        rustdoc_flags: "",
    };
    let mut freestanding = vec!["clippy", "--locked", "--target", "x86_64-unknown-none"];
    freestanding.extend(FREESTANDING.iter().flat_map(|name| ["--package", name]));
    freestanding.extend(["--", "-D", "warnings"]);
    vec![
        check("native/format", &["fmt", "--all", "--check"]),
        check(
            "native/lints",
            &[
                "clippy",
                "--locked",
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ],
        ),
        check("native/lints of freestanding code", &freestanding),
        Check {
            name: "native/documentation",
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
pub fn run_checks(
    report: &TestReport,
    root: &Path,
    target: &Path,
    wanted: impl Fn(&str) -> bool,
) -> Result<()> {
    for check in checks().iter().filter(|check| wanted(check.name)) {
        let start = Instant::now();
        let mut command = cargo(root, target);
        command
            .args(&check.arguments)
            .env("RUSTDOCFLAGS", check.rustdoc_flags);
        let (success, output) = capture(&mut command)?;
        let verdict = if success {
            Verdict::Passed
        } else {
            Verdict::Failed(summary(&output))
        };
        report.line(check.name, &verdict, Some(start.elapsed()));
    }
    Ok(())
}

/// Runs the unit tests of the crates for the host, each of which becomes a line. Where tests of the
/// programs `elsewhere` cannot be run here, nothing is said: they run in a machine and are told
/// there.
///
/// # Errors
///
/// Cargo cannot be run.
pub fn run_unit_tests(
    report: &TestReport,
    root: &Path,
    target: &Path,
    elsewhere: &[&str],
    wanted: impl Fn(&str) -> bool,
) -> Result<()> {
    // Models of memory try so many orders that they need what the compiler can do.
    let models = ["--release", "--package", "postern-nic-models"];
    for packages in [&[][..], &models] {
        let start = Instant::now();
        let mut command = cargo(root, target);
        command
            .args(["test", "--locked", "--no-fail-fast"])
            .args(packages)
            .args(["--", "--show-output"]);
        let (success, output) = capture(&mut command)?;
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

fn cargo(root: &Path, target: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command
        .current_dir(root)
        .env("CARGO_TARGET_DIR", target)
        .env("CARGO_TERM_COLOR", "never");
    for (name, _) in std::env::vars_os() {
        let bytes = name.as_encoded_bytes();
        if bytes.starts_with(b"CARGO_PKG_") || bytes.starts_with(b"CARGO_MANIFEST_") {
            command.env_remove(name);
        }
    }
    command
}

/// Runs a command and returns whether it succeeded, and what it printed, in order.
pub(super) fn capture(command: &mut Command) -> Result<(bool, String)> {
    interrupt::check()?;
    let name = PathBuf::from(command.get_program()).display().to_string();
    let (reader, writer) = std::io::pipe().context("making a pipe")?;
    let child = command
        .stdin(std::process::Stdio::null())
        .stdout(writer.try_clone().context("making a pipe")?)
        .stderr(writer)
        .spawn()
        .with_context(|| format!("cannot run {name}"));
    // Else the command keeps the pipe open.
    command
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    let mut child = child?;
    let (output, status) = interrupt::watch(&mut child, |child| -> Result<_> {
        let output = std::io::read_to_string(reader);
        let status = child.wait();
        Ok((
            output.with_context(|| format!("reading from {name}"))?,
            status.with_context(|| format!("waiting for {name}"))?,
        ))
    })?;
    interrupt::check()?;
    Ok((status.success(), output))
}

/// The part of a failed command's output that tells why: from the first error on, or its end.
fn summary(output: &str) -> String {
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
