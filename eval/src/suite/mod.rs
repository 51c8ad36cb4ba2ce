//! `cargo suite`: all tests, one line each.
//!
//! | names begin with | are |
//! | --- | --- |
//! | `native/` | checks of the sources on this host |
//! | `unit/` | tests that cargo runs on this host |
//! | `emulated/`, `hardware/` | tests in machines: in the emulated one, or on this host's KVM where it can make views |

pub mod cargo;
pub mod labs;
pub mod libtest;
pub mod machine;
pub mod patches;
pub mod report;
mod special;
mod tests;

use anyhow::{Result, bail};
use clap::Args;

use crate::setup;
use labs::Labs;
use machine::Judge;
use report::Report;

/// The VM monitor's unit tests, of which only a few run in a machine.
const VMM: &str = "postern_vmm";

/// Flags of `cargo suite`.
#[derive(Args, Clone, Debug, Default)]
pub struct Options {
    /// Run only tests with one of these in their names
    #[arg(value_name = "NAME")]
    names: Vec<String>,

    /// Print the names of the tests, without the unit tests, and run none
    #[arg(long)]
    list: bool,
}

impl Options {
    fn wants(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|part| name.contains(part.as_str()))
    }

    /// Whether a test in a machine is wanted, whatever the machine is.
    fn wants_in_machine(&self, name: &str) -> bool {
        self.wants(&format!("emulated/{name}")) || self.wants(&format!("hardware/{name}"))
    }
}

/// Runs the tests that are wanted; true if none failed.
///
/// # Errors
///
/// What tests need cannot be made, or no test has the name.
pub fn run(options: &Options) -> Result<bool> {
    let root = setup::root();
    let in_machines: Vec<_> = tests::all()
        .into_iter()
        .filter(|test| options.wants_in_machine(test.name))
        .collect();
    let specials: Vec<_> = special::ALL
        .iter()
        .filter(|test| options.wants_in_machine(test.name))
        .collect();
    let patches = patches::all(root)?;
    let mut names: Vec<&str> = cargo::names();
    names.extend(patches.iter().map(|(name, _)| name.as_str()));
    names.retain(|name| options.wants(name));
    let machine_names = specials
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

    let report = Report::new();
    let target = setup::target()?;
    cargo::run_checks(&report, root, &target, |name| options.wants(name))?;
    patches::run(&report, root, setup::kernel_source, |name| {
        options.wants(name)
    })?;
    if units {
        let elsewhere: Vec<&str> = in_machines
            .iter()
            .filter_map(|test| match test.judge {
                Judge::VmmTests(program) => Some(program),
                Judge::Whole(_) | Judge::Lines => None,
            })
            .filter(|program| *program != VMM)
            .collect();
        cargo::run_unit_tests(&report, root, &target, &elsewhere, |name| {
            options.wants(name)
        })?;
    }
    let mut labs = Labs::new();
    special::run(&report, &mut labs, &specials)?;
    machine::run(&report, &mut labs, &in_machines)?;
    if report.count() == 0 {
        bail!(
            "no test has {} in its name; --list shows the names",
            options.names.join(" or ")
        );
    }
    Ok(report.close())
}
