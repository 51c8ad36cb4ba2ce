//! Emulated testbeds that tests need, each made when the first test needs it.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use anyhow::{Context, Result};
use postern_lab::job::Job;
use postern_lab::machine::EmulatedMachine;
use postern_lab::setup::{Flavour, Setup};
use postern_lab::testbed::{EmulatedTestbed, VIEWS};

use crate::machine_test::{Boot, Judge, Kvm, Test};

/// Testbeds by kernel, and the test programs of the VMM.
#[derive(Debug, Default)]
pub struct Testbeds {
    by_flavour: HashMap<Flavour, EmulatedTestbed>,
    vmm_tests: BTreeMap<String, PathBuf>,
}

impl Testbeds {
    /// No testbed yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The testbed with this kernel.
    ///
    /// # Errors
    ///
    /// The testbed cannot be made.
    pub fn with(&mut self, flavour: Flavour) -> Result<&mut EmulatedTestbed> {
        Ok(match self.by_flavour.entry(flavour) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(EmulatedTestbed::prepare(flavour)?),
        })
    }

    /// Makes what a test needs.
    ///
    /// # Errors
    ///
    /// What the test needs cannot be made.
    pub fn prepare(&mut self, test: &Test) -> Result<()> {
        let testbed = self.with(test.boot.flavour)?;
        if matches!(test.boot.kvm, Kvm::Weakened(_)) {
            testbed.prepare_weakened()?;
        }
        if matches!(test.judge, Judge::VmmTests(_)) && self.vmm_tests.is_empty() {
            self.vmm_tests = Setup::open()?.vmm_tests()?;
        }
        Ok(())
    }

    /// A machine that boots this.
    ///
    /// # Errors
    ///
    /// [`Testbeds::prepare`] has not made what the machine needs.
    pub fn machine(&self, boot: Boot) -> Result<EmulatedMachine<'_>> {
        let testbed = self.testbed(boot)?;
        Ok(match boot.kvm {
            Kvm::None => testbed.bare_machine(),
            Kvm::Stock => testbed.stock_machine(),
            Kvm::Patched(parameters) => testbed.machine(parameters),
            Kvm::Weakened(omitted) => {
                testbed.weakened_machine(&format!("{VIEWS} ept_view_omit={omitted}"))?
            }
        })
    }

    /// The job of a test.
    ///
    /// # Errors
    ///
    /// [`Testbeds::prepare`] has not made what the job needs.
    pub fn job(&self, test: &Test) -> Result<Job> {
        let job = (test.job)(&self.testbed(test.boot)?.programs);
        Ok(match test.judge {
            Judge::VmmTests(name) => {
                let program = self.vmm_tests.get(name);
                let program = program.with_context(|| format!("the VMM has no tests {name}"))?;
                job.file("test", program)
            }
            Judge::Whole(_) | Judge::Lines => job,
        })
    }

    fn testbed(&self, boot: Boot) -> Result<&EmulatedTestbed> {
        self.by_flavour
            .get(&boot.flavour)
            .context("the kernel is not made ready")
    }
}
