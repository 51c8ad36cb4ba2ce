//! The suite: all tests, one line each. `cargo suite` runs it.
//!
//! | names begin with | are |
//! | --- | --- |
//! | `native/` | checks of the sources on this host |
//! | `unit/` | tests that cargo runs on this host |
//! | `emulated/` | tests in the emulated machine |
//! | `hardware/` | tests on this host's KVM, where it can make views |
//! | `nested/` | the same, where a hypervisor is below this host |
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`native`] | checks of the sources, and unit tests, by cargo |
//! | [`unit_tests`] | which unit tests have a word in their names |
//! | [`packages`] | Debian packages that tests need |
//! | [`patches`] | style of the kernel patches |
//! | [`package`] | the Debian package of the modules |
//! | [`steps`] | builds of the kernel patches, one after another |
//! | [`machine_test`] | definition of a test that runs in a machine |
//! | `tests` | the tests that run in machines, by area |
//! | [`omit`] | defences that attacks are tried without |
//! | [`in_machines`] | runs those tests, several in one boot |
//! | `own_boots` | tests that boot machines by themselves |
//! | `boots` | those of them that count boots |
//! | `bridges` | the one of them that compares the switch with Linux' bridge |
//! | `disks` | those of them that use disks of Linux guests |
//! | `networks` | those of them that use networks of Linux guests |
//! | `marks` | what these count between marks of their guests |
//! | `stock_users` | those of them that compare the patched KVM with the kernel's own |
//! | [`testbeds`] | the emulated testbeds that they need |
//! | `workers` | work for several machines at the same time |
//! | [`libtest`] | reads what Rust's test programs print |
//! | [`report`] | prints and counts verdicts |
//!
//! # Example
//!
//! What Rust's own test programs print becomes lines of the suite, in which a test that was not run
//! is no test that passed.
//!
//! ```
//! use postern_suite::libtest;
//!
//! let printed = "test wrap ... ok\n\ntest result: ok. 1 passed; 0 failed; 0 ignored\n";
//! let tests = libtest::parse_program("rings", printed);
//! assert_eq!(tests[0].name, "rings::wrap");
//! ```
#![forbid(unsafe_code)]

mod boots;
mod bridges;
mod disks;
pub mod in_machines;
pub mod libtest;
pub mod machine_test;
mod marks;
pub mod native;
mod networks;
pub mod omit;
mod own_boots;
pub mod package;
pub mod packages;
mod papers;
pub mod patches;
pub mod report;
pub mod steps;
mod stock_users;
pub mod testbeds;
mod tests;
pub mod unit_tests;
mod workers;

use std::thread;

use anyhow::{Result, bail};
use clap::Args;
use postern_lab::setup::progress::{Progress, REMINDER, Reminder};
use postern_lab::setup::{self, Flavour, Series, Setup};
use postern_lab::source::Source;

use machine_test::{Judge, SeriesTest};
use own_boots::OwnBootTest;
use report::{TestReport, Verdict};
use unit_tests::Selection;

/// Flags of `cargo suite`.
#[derive(Args, Clone, Debug, Default)]
pub struct SuiteOptions {
    /// Run only tests with one of these in their names
    #[arg(value_name = "NAME")]
    names: Vec<String>,

    /// Print the names of the tests, without those of unit tests, and run none
    #[arg(long)]
    list: bool,

    /// Run also the tests that take minutes and differ little from others, which otherwise run only
    /// by name
    #[arg(long)]
    all: bool,
}

impl SuiteOptions {
    fn wants(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|part| name.contains(part.as_str()))
    }

    /// True if the test runs only where somebody asks for it, and nobody does.
    fn leaves_out(&self, test: &OwnBootTest) -> bool {
        test.on_request && self.names.is_empty() && !self.all
    }

    /// True if a test in a machine, or a part of it, is wanted under one of its names, whatever the
    /// machine is.
    fn wants_in_machine(&self, names: &[&str]) -> bool {
        let is_part = |word: &String, name: &str| word.starts_with(&format!("{name}: "));
        in_machine(names)
            .iter()
            .any(|name| self.wants(name) || self.names.iter().any(|word| is_part(word, name)))
    }
}

/// What the steps of a series are built with: Debian's own headers, which have more in them than a
/// small kernel.
fn steps_kernel(series: &Series) -> Result<steps::Kernel> {
    let setup = Setup::of(series)?;
    Ok(steps::Kernel {
        source: setup.kernel_source()?,
        headers: setup.kernel(Flavour::Debian)?.build,
    })
}

/// Names that a test in a machine can have, of the ones that it has wherever it is.
fn in_machine(names: &[&str]) -> Vec<String> {
    let on = |name: &&str| Source::ALL.map(|machine| format!("{}/{name}", machine.name()));
    names.iter().flat_map(on).collect()
}

/// Runs the tests that are wanted; true if none failed.
///
/// # Errors
///
/// What tests need cannot be made, or a word is in no test's name.
pub fn run(options: &SuiteOptions) -> Result<bool> {
    let root = setup::root();
    let all_series = Series::all(root)?;
    let all_in_machines = tests::all(&all_series);
    let mut patches = patches::names(root)?;
    patches.extend(steps::names(root)?);
    patches.extend(package::names(root)?);
    let sources = native::names().into_iter();
    let sources: Vec<&str> = sources.chain(patches.iter().map(String::as_str)).collect();
    // A test that runs on several series is known without the series, too.
    let machine_names: Vec<Vec<&str>> = own_boots::all()
        .map(|test| vec![test.name])
        .chain(all_in_machines.iter().map(SeriesTest::names))
        .collect();
    if options.list {
        for name in sources.iter().filter(|name| options.wants(name)) {
            println!("{name}");
        }
        let wanted = |names: &&Vec<&str>| options.wants_in_machine(names);
        for names in machine_names.iter().filter(wanted) {
            println!("{}/{}", Source::Emulated.name(), names[0]);
        }
        return Ok(true);
    }

    // Before anything is built.
    let units = Selection::new(setup::metadata()?, &options.names)?;
    for word in options.names.iter().filter(|word| units.lacks(word)) {
        let of_machines = machine_names.iter().flat_map(|names| in_machine(names));
        let mut names = of_machines.chain(sources.iter().map(|&name| name.to_owned()));
        // Names of parts of a test are known when it has run.
        let is_part = |name: &str| word.starts_with(&format!("{name}: "));
        if !names.any(|name| name.contains(word.as_str()) || is_part(&name)) {
            bail!("no test has {word} in its name; --list shows the names");
        }
    }

    let in_machines: Vec<_> = all_in_machines
        .iter()
        .filter(|test| options.wants_in_machine(&test.names()))
        .collect();
    let (left_out, own_boots): (Vec<_>, Vec<_>) = own_boots::all()
        .filter(|test| options.wants_in_machine(&[test.name]))
        .partition(|test| options.leaves_out(test));
    if !units.is_empty() || patches.iter().any(|name| options.wants(name)) {
        packages::install();
    }
    let report = TestReport::new();
    for test in left_out {
        let name = format!("{}/{}", Source::Emulated.name(), test.name);
        let why = "it takes minutes; `cargo suite NAME` runs it, `cargo suite --all` all of them"
            .to_owned();
        report.line(&name, &Verdict::Skipped(why), None);
    }
    let with_bridge = own_boots.iter().any(|test| test.name == bridges::NAME);
    let elsewhere: Vec<&str> = in_machines
        .iter()
        .filter_map(|test| match test.test.judge {
            Judge::VmmTests(program) => Some(program),
            Judge::Whole(_) | Judge::Lines | Judge::Selftest => None,
        })
        .filter(|program| *program != tests::vmm::UNIT_TESTS)
        .chain(with_bridge.then_some(bridges::PROGRAM))
        .collect();
    let on_host = || -> Result<()> {
        let wanted = |name: &str| options.wants(name);
        native::run_checks(&report, wanted)?;
        let source = |series: &Series| Setup::of(series)?.kernel_source();
        patches::run(&report, root, source, wanted)?;
        steps::run(&report, root, steps_kernel, wanted)?;
        package::run(&report, root, wanted)?;
        native::run_unit_tests(&report, &units, &elsewhere, wanted)
    };
    let in_machines = || -> Result<()> {
        let count = own_boots.len() + in_machines.len();
        // On a terminal lines of tests are enough.
        let _reminder = (count > 0 && Progress::new() == Progress::Plain).then(|| {
            let title = format!("tests in machines, {count} of them");
            Reminder::new(&title, REMINDER)
        });
        in_machines::run(&report, &own_boots, &in_machines)
    };
    // Neither keeps all processors busy all the time.
    thread::scope(|scope| {
        let on_host = scope.spawn(on_host);
        let in_machines = in_machines();
        match on_host.join() {
            Ok(on_host) => on_host.and(in_machines),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })?;
    if report.count() == 0 {
        bail!(
            "no test has {} in its name; --list shows the names",
            options.names.join(" or ")
        );
    }
    Ok(report.close())
}

#[cfg(test)]
mod tests_of_options {
    use super::*;

    #[test]
    fn a_test_on_request_runs_where_somebody_names_it() {
        let always = OwnBootTest::new("area/quick", |_| Ok(()));
        let on_request = OwnBootTest::new("area/slow", |_| Ok(())).on_request();
        let all = SuiteOptions::default();
        assert!(!all.leaves_out(&always) && all.leaves_out(&on_request));
        let named = SuiteOptions {
            names: vec!["slow".to_owned()],
            ..SuiteOptions::default()
        };
        assert!(!named.leaves_out(&on_request));
        let everything = SuiteOptions {
            all: true,
            ..SuiteOptions::default()
        };
        assert!(!everything.leaves_out(&on_request));
        assert!(named.wants_in_machine(&["area/slow"]) && !named.wants_in_machine(&["area/quick"]));
    }
}
