//! Reader of what Rust's test programs print.

use crate::report::Verdict;

/// A test of such a program and how it ended.
#[derive(Debug, PartialEq, Eq)]
pub struct LibTest {
    /// `program::path::of::test`.
    pub name: String,
    /// How the test ended.
    pub verdict: Verdict,
}

/// Reads what `cargo test -- --show-output` prints. A test that has printed a line beginning with
/// `SKIP:` counts as skipped; a program that has not told its result is a failure of its own.
pub fn parse(output: &str) -> Vec<LibTest> {
    let mut reader = Reader::default();
    output.lines().for_each(|line| reader.line(line));
    reader.finish_program();
    reader.tests
}

/// Reads the output of a single test program, which does not tell its name.
pub fn parse_program(program: &str, output: &str) -> Vec<LibTest> {
    parse(&format!("Running {program} ({program}-0)\n{output}"))
}

#[derive(Default)]
struct Reader {
    tests: Vec<LibTest>,
    /// The program whose output is being read.
    program: Option<String>,
    /// The program's first test, as an index into `tests`.
    first: usize,
    /// The test whose output is being read, as an index into `tests`.
    printing: Option<usize>,
}

impl Reader {
    fn line(&mut self, line: &str) {
        if let Some(program) = program_of(line) {
            self.finish_program();
            (self.program, self.first) = (Some(program), self.tests.len());
        } else if line.starts_with("test result:") {
            (self.program, self.printing) = (None, None);
        } else if let Some((name, result)) = line.strip_prefix("test ").and_then(split_result) {
            let verdict = match result {
                "ok" => Verdict::Passed,
                "FAILED" => Verdict::Failed("it printed nothing".to_owned()),
                ignored => {
                    let reason = ignored.strip_prefix("ignored").unwrap_or(ignored);
                    Verdict::Skipped(reason.trim_start_matches(", ").to_owned())
                }
            };
            let name = self.full_name(name);
            self.tests.push(LibTest { name, verdict });
        } else if let Some(name) = printing_of(line) {
            self.begin_printing(name);
        } else if line == "failures:" || line == "successes:" {
            self.printing = None;
        } else if let Some(at) = self.printing {
            self.printed(at, line);
        }
    }

    fn full_name(&self, name: &str) -> String {
        format!("{}::{name}", self.program.as_deref().unwrap_or("unknown"))
    }

    fn begin_printing(&mut self, name: &str) {
        let name = self.full_name(name);
        let position = self.tests[self.first..]
            .iter()
            .position(|test| test.name == name);
        self.printing = position.map(|at| self.first + at);
        if let Some(at) = self.printing
            && let Verdict::Failed(reason) = &mut self.tests[at].verdict
        {
            reason.clear();
        }
    }

    fn printed(&mut self, at: usize, line: &str) {
        match &mut self.tests[at].verdict {
            Verdict::Failed(reason) => *reason += &format!("{line}\n"),
            verdict @ Verdict::Passed => {
                if let Some(reason) = line.strip_prefix("SKIP:") {
                    *verdict = Verdict::Skipped(reason.trim().to_owned());
                }
            }
            Verdict::Skipped(_) => {}
        }
    }

    fn finish_program(&mut self) {
        self.printing = None;
        if let Some(name) = self.program.take() {
            let reason = "the program ended before it told the result of its tests".to_owned();
            self.tests.push(LibTest {
                name,
                verdict: Verdict::Failed(reason),
            });
        }
    }
}

/// `name ... ok`.
fn split_result(rest: &str) -> Option<(&str, &str)> {
    let (name, result) = rest.rsplit_once(" ... ")?;
    let known = ["ok", "FAILED"].contains(&result) || result.starts_with("ignored");
    known.then_some((name.trim_end_matches(" - should panic"), result))
}

/// The test whose output follows.
fn printing_of(line: &str) -> Option<&str> {
    line.strip_prefix("---- ")?.strip_suffix(" stdout ----")
}

/// The crate, or the file of integration tests, whose tests follow.
fn program_of(line: &str) -> Option<String> {
    let line = line.trim();
    if let Some(name) = line.strip_prefix("Doc-tests ") {
        return Some(name.to_owned());
    }
    // Running tests/x.rs (target/debug/deps/x-0123456789abcdef)
    let (_, path) = line.strip_prefix("Running ")?.rsplit_once('(')?;
    let file = path.strip_suffix(')')?.rsplit('/').next()?;
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
     Running tests/crash.rs (target/debug/deps/crash-0a1b)
test a::good ... ok
   Doc-tests x_lib

running 1 test
test src/lib.rs - thing (line 3) ... ok

test result: ok. 1 passed
";

    fn test(name: &str, verdict: Verdict) -> LibTest {
        LibTest {
            name: name.to_owned(),
            verdict,
        }
    }

    #[test]
    fn output_of_cargo_test_is_read() {
        let why = "thread 'a::bad' panicked at src/lib.rs:1:\noops\n\n";
        let end = "the program ended before it told the result of its tests";
        let expected = [
            test("x_lib::a::good", Verdict::Passed),
            test("x_lib::a::bad", Verdict::Failed(why.into())),
            test("x_lib::b::away", Verdict::Skipped("needs a device".into())),
            test("x_lib::b::cannot", Verdict::Skipped("no network".into())),
            test("crash::a::good", Verdict::Passed),
            test("crash", Verdict::Failed(end.into())),
            test("x_lib::src/lib.rs - thing (line 3)", Verdict::Passed),
        ];
        assert_eq!(parse(OUTPUT), expected);
    }

    #[test]
    fn a_single_program_has_the_name_that_it_is_given() {
        let tests = parse_program(
            "boot",
            "running 1 test\ntest a ... ok\n\ntest result: ok.\n",
        );
        assert_eq!(tests, [test("boot::a", Verdict::Passed)]);
    }
}
