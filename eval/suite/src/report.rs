//! What `cargo suite` prints: a line for each test, details below a failed one, and the sum.

use std::sync::Mutex;
use std::time::Duration;

/// Verdict on a test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The test ran, and what it states holds.
    Passed,
    /// The test failed, for this reason, of which the first line is the most important.
    Failed(String),
    /// The test could not be run, for this reason.
    Skipped(String),
}

impl<E: std::fmt::Display> From<Result<(), E>> for Verdict {
    fn from(result: Result<(), E>) -> Self {
        match result {
            Ok(()) => Verdict::Passed,
            // With a context, the whole chain.
            Err(error) => Verdict::Failed(format!("{error:#}")),
        }
    }
}

/// Prints verdicts as they come, from several threads, and counts them.
#[derive(Debug, Default)]
pub struct TestReport(Mutex<Sums>);

#[derive(Debug, Default)]
struct Sums {
    passed: usize,
    failed: Vec<String>,
    skipped: usize,
}

impl TestReport {
    /// A report without verdicts.
    pub fn new() -> Self {
        Self::default()
    }

    /// Prints a line, and counts it.
    pub fn line(&self, name: &str, verdict: &Verdict, elapsed: Option<Duration>) {
        let time = elapsed.map(|time| format!("  ({:.1} s)", time.as_secs_f64()));
        let time = time.unwrap_or_default();
        let mut sums = self.sums();
        match verdict {
            Verdict::Passed => {
                sums.passed += 1;
                println!("PASS  {name}{time}");
            }
            Verdict::Failed(reason) => {
                sums.failed.push(name.to_owned());
                let (first, rest) = reason.trim_end().split_once('\n').unwrap_or((reason, ""));
                println!("FAIL  {name}: {}{time}", first.trim_end());
                for line in rest.lines() {
                    println!("      {line}");
                }
            }
            Verdict::Skipped(reason) => {
                sums.skipped += 1;
                println!(
                    "SKIP  {name}: {}",
                    reason.lines().next().unwrap_or("no reason given")
                );
            }
        }
    }

    /// Number of verdicts so far.
    pub fn count(&self) -> usize {
        let sums = self.sums();
        sums.passed + sums.failed.len() + sums.skipped
    }

    /// Prints the names of what failed once more, and the sum; true if nothing failed.
    pub fn close(&self) -> bool {
        let sums = self.sums();
        let failed = sums.failed.len();
        for name in &sums.failed {
            println!("failed: {name}");
        }
        println!(
            "{} passed, {failed} failed, {} skipped",
            sums.passed, sums.skipped
        );
        failed == 0
    }

    fn sums(&self) -> std::sync::MutexGuard<'_, Sums> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skip_is_not_a_pass_and_a_failure_fails() {
        let report = TestReport::new();
        report.line("a", &Verdict::Passed, None);
        report.line("b", &Verdict::Skipped("no such device".into()), None);
        assert!(report.close());
        report.line("c", &Verdict::Failed("first\nsecond".into()), None);
        assert!(!report.close());
        assert_eq!((report.count(), report.sums().passed), (3, 1));
    }
}
