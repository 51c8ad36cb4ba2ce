//! Checks and unit tests that cargo runs on this host.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};

use super::report::{Report, Verdict};
use crate::interrupt;

/// Crates that run without an operating system. They are not built for the host.
const FREESTANDING: [&str; 3] = [
    "postern-testguest",
    "postern-nic-image",
    "postern-nic-kernel",
];

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
    report: &Report,
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

/// Runs the unit tests of the crates for the host, each of which becomes a line.
///
/// # Errors
///
/// Cargo cannot be run.
pub fn run_unit_tests(
    report: &Report,
    root: &Path,
    target: &Path,
    wanted: impl Fn(&str) -> bool,
) -> Result<()> {
    let start = Instant::now();
    let mut command = cargo(root, target);
    command.args(["test", "--locked", "--no-fail-fast", "--", "--show-output"]);
    let (success, output) = capture(&mut command)?;
    let tests = parse(&output);
    let failed = tests
        .iter()
        .any(|test| matches!(test.verdict, Verdict::Failed(_)));
    for test in tests.iter().filter(|test| wanted(&test.name)) {
        report.line(&test.name, &test.verdict, None);
    }
    // A test that does not compile, or takes its whole program down, has no line of its own.
    if !success && !failed {
        report.line(
            "unit",
            &Verdict::Failed(summary(&output)),
            Some(start.elapsed()),
        );
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
    let output = std::io::read_to_string(reader).with_context(|| format!("reading from {name}"))?;
    let status = child
        .wait()
        .with_context(|| format!("waiting for {name}"))?;
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

/// A unit test and how it ended.
#[derive(Debug, PartialEq, Eq)]
struct UnitTest {
    name: String,
    verdict: Verdict,
}

/// Reads what `cargo test -- --show-output` prints. A test that has printed a line beginning with
/// `SKIP` counts as skipped.
fn parse(output: &str) -> Vec<UnitTest> {
    let mut tests: Vec<UnitTest> = Vec::new();
    let mut program = "unknown".to_owned();
    let mut first_of_program = 0;
    // The test whose output is being read, as an index.
    let mut printing: Option<usize> = None;
    for line in output.lines() {
        if let Some(name) = program_of(line) {
            (program, first_of_program, printing) = (name, tests.len(), None);
        } else if let Some((name, result)) = line.strip_prefix("test ").and_then(split_result) {
            let verdict = match result {
                "ok" => Verdict::Passed,
                "FAILED" => Verdict::Failed("it printed nothing".to_owned()),
                ignored => {
                    let reason = ignored.strip_prefix("ignored").unwrap_or(ignored);
                    Verdict::Skipped(reason.trim_start_matches(", ").to_owned())
                }
            };
            tests.push(UnitTest {
                name: format!("unit/{program}::{name}"),
                verdict,
            });
        } else if let Some(name) = line
            .strip_prefix("---- ")
            .and_then(|rest| rest.strip_suffix(" stdout ----"))
        {
            let name = format!("unit/{program}::{name}");
            let position = tests[first_of_program..]
                .iter()
                .position(|test| test.name == name);
            printing = position.map(|at| first_of_program + at);
            if let Some(Verdict::Failed(reason)) = printing.map(|at| &mut tests[at].verdict) {
                reason.clear();
            }
        } else if line == "failures:" || line == "successes:" || line.starts_with("test result:") {
            printing = None;
        } else if let Some(at) = printing {
            match &mut tests[at].verdict {
                Verdict::Failed(reason) => *reason += &format!("{line}\n"),
                verdict @ Verdict::Passed => {
                    if let Some(reason) = line.strip_prefix("SKIP") {
                        *verdict =
                            Verdict::Skipped(reason.trim_start_matches(':').trim().to_owned());
                    }
                }
                Verdict::Skipped(_) => {}
            }
        }
    }
    tests
}

/// `name ... ok`, which a name with blanks may precede.
fn split_result(rest: &str) -> Option<(&str, &str)> {
    let (name, result) = rest.rsplit_once(" ... ")?;
    let known = ["ok", "FAILED"].contains(&result) || result.starts_with("ignored");
    known.then_some((name.trim_end_matches(" - should panic"), result))
}

/// The crate, or the file of integration tests, whose tests follow.
fn program_of(line: &str) -> Option<String> {
    let line = line.trim();
    if let Some(name) = line.strip_prefix("Doc-tests ") {
        return Some(name.to_owned());
    }
    // Running tests/x.rs (target/debug/deps/x-0123456789abcdef)
    let (_, path) = line.strip_prefix("Running ")?.rsplit_once('(')?;
    let file = path.trim_end_matches(')').rsplit('/').next()?;
    file.rsplit_once('-').map(|(name, _)| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "   Compiling x v0.1.0
     Running unittests src/lib.rs (target/debug/deps/x_lib-0a1b)

running 4 tests
test a::good ... ok
test a::bad ... FAILED
test b::away ... ignored, needs a device
test b::cannot ... ok

successes:

---- b::cannot stdout ----
SKIP: no network

successes:
    a::good

failures:

---- a::bad stdout ----
thread 'a::bad' panicked at src/lib.rs:1:
oops

failures:
    a::bad

test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out
   Doc-tests x_lib

running 1 test
test src/lib.rs - thing (line 3) ... ok
";

    #[test]
    fn output_of_cargo_test_is_read() {
        let tests = parse(OUTPUT);
        let expected = [
            ("unit/x_lib::a::good", Verdict::Passed),
            (
                "unit/x_lib::a::bad",
                Verdict::Failed("thread 'a::bad' panicked at src/lib.rs:1:\noops\n\n".into()),
            ),
            (
                "unit/x_lib::b::away",
                Verdict::Skipped("needs a device".into()),
            ),
            (
                "unit/x_lib::b::cannot",
                Verdict::Skipped("no network".into()),
            ),
            ("unit/x_lib::src/lib.rs - thing (line 3)", Verdict::Passed),
        ];
        let expected = expected.map(|(name, verdict)| UnitTest {
            name: name.to_owned(),
            verdict,
        });
        assert_eq!(tests, expected);
    }

    #[test]
    fn a_summary_begins_with_the_first_error() {
        let output = "   Compiling x\nwarning: y\nerror[E1]: z\n  --> a.rs\n";
        assert_eq!(summary(output), "error[E1]: z\n  --> a.rs\n");
    }
}
