//! The suite: all tests, one line each. `cargo suite` runs it.
//!
//! | names begin with | are |
//! | --- | --- |
//! | `native/` | checks of the sources on this host |
//! | `unit/` | tests that cargo runs on this host |
//! | `emulated/` | tests in the emulated machine |
//! | `hardware/` | tests on this host's KVM, where it can make views |
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`native`] | checks of the sources, and unit tests, by cargo |
//! | [`patches`] | style of the kernel patches |
//! | [`machine_test`] | definition of a test that runs in a machine |
//! | `tests` | the tests that run in machines, by area |
//! | [`in_machines`] | runs those tests, several in one boot |
//! | `own_boots` | tests that boot machines by themselves |
//! | [`testbeds`] | the emulated testbeds that they need |
//! | [`libtest`] | reads what Rust's test programs print |
//! | [`report`] | prints and counts verdicts |

#![forbid(unsafe_code)]

pub mod in_machines;
pub mod libtest;
pub mod machine_test;
pub mod native;
mod own_boots;
pub mod patches;
pub mod report;
pub mod testbeds;
mod tests;

use anyhow::{Result, bail};
use clap::Args;
use postern_lab::setup::{self, Setup};

use machine_test::Judge;
use report::TestReport;
use testbeds::Testbeds;

/// Flags of `cargo suite`.
#[derive(Args, Clone, Debug, Default)]
pub struct SuiteOptions {
    /// Run only tests with one of these in their names
    #[arg(value_name = "NAME")]
    names: Vec<String>,

    /// Print the names of the tests, without the unit tests, and run none
    #[arg(long)]
    list: bool,
}

impl SuiteOptions {
    fn wants(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|part| name.contains(part.as_str()))
    }

    /// True if a test in a machine is wanted, whatever the machine is.
    fn wants_in_machine(&self, name: &str) -> bool {
        self.wants(&format!("emulated/{name}")) || self.wants(&format!("hardware/{name}"))
    }
}

/// Runs the tests that are wanted; true if none failed.
///
/// # Errors
///
/// What tests need cannot be made, or no test has the name.
pub fn run(options: &SuiteOptions) -> Result<bool> {
    let root = setup::root();
    let in_machines: Vec<_> = tests::all()
        .into_iter()
        .filter(|test| options.wants_in_machine(test.name))
        .collect();
    let own_boots: Vec<_> = own_boots::ALL
        .iter()
        .filter(|test| options.wants_in_machine(test.name))
        .collect();
    let patches = patches::all(root)?;
    let mut names: Vec<&str> = native::names();
    names.extend(patches.iter().map(|(name, _)| name.as_str()));
    names.retain(|name| options.wants(name));
    let machine_names = own_boots
        .iter()
        .map(|test| test.name)
        .chain(in_machines.iter().map(|test| test.name));
    if options.list {
        names.iter().for_each(|name| println!("{name}"));
        machine_names.for_each(|name| println!("emulated/{name}"));
        return Ok(true);
    }
    // Unit tests have to be built before their names are known.
    let units = options.names.is_empty()
        || options.names.iter().any(|name| name.starts_with("unit"))
        || (names.is_empty() && machine_names.count() == 0);

    let report = TestReport::new();
    let target = setup::target()?;
    native::run_checks(&report, root, &target, |name| options.wants(name))?;
    let source = || Setup::open()?.kernel_source();
    patches::run(&report, root, source, |name| options.wants(name))?;
    if units {
        let elsewhere: Vec<&str> = in_machines
            .iter()
            .filter_map(|test| match test.judge {
                Judge::VmmTests(program) => Some(program),
                Judge::Whole(_) | Judge::Lines => None,
            })
            .filter(|program| *program != tests::vmm::UNIT_TESTS)
            .collect();
        native::run_unit_tests(&report, root, &target, &elsewhere, |name| {
            options.wants(name)
        })?;
    }
    let mut testbeds = Testbeds::new();
    own_boots::run(&report, &mut testbeds, &own_boots)?;
    in_machines::run(&report, &mut testbeds, &in_machines)?;
    if report.count() == 0 {
        bail!(
            "no test has {} in its name; --list shows the names",
            options.names.join(" or ")
        );
    }
    Ok(report.close())
}
