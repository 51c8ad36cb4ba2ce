//! Laboratories that tests need, made when the first one does.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::machine::{Boot, Judge, Kvm, Test};
use crate::job::Job;
use crate::machine::Machine;
use crate::setup::{self, Flavour, Lab};

/// Laboratories by kernel, and the test programs of the VM monitor.
#[derive(Default)]
pub struct Labs {
    labs: HashMap<Flavour, Lab>,
    vmm_tests: BTreeMap<String, PathBuf>,
}

impl Labs {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The one with this kernel.
    ///
    /// # Errors
    ///
    /// It cannot be made.
    pub fn with(&mut self, flavour: Flavour) -> Result<&mut Lab> {
        Ok(match self.labs.entry(flavour) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Lab::prepare(flavour)?),
        })
    }

    /// Makes what a test needs.
    ///
    /// # Errors
    ///
    /// It cannot be made.
    pub fn prepare(&mut self, test: &Test) -> Result<()> {
        let lab = self.with(test.boot.flavour)?;
        if matches!(test.boot.kvm, Kvm::Weakened(_)) {
            lab.prepare_weakened()?;
        }
        if matches!(test.judge, Judge::VmmTests(_)) && self.vmm_tests.is_empty() {
            self.vmm_tests = setup::vmm_tests()?;
        }
        Ok(())
    }

    /// A machine that boots this.
    ///
    /// # Errors
    ///
    /// It was not made before.
    pub fn machine(&self, boot: Boot) -> Result<Machine<'_>> {
        let lab = self.lab(boot)?;
        Ok(match boot.kvm {
            Kvm::None => Machine::new(&lab.platform, &lab.tree.kernel),
            Kvm::Stock => lab.stock_machine(),
            Kvm::Patched(parameters) => lab.machine(parameters),
            Kvm::Weakened(parameters) => lab.weakened_machine(parameters)?,
        })
    }

    /// What a test runs.
    ///
    /// # Errors
    ///
    /// It was not made before.
    pub fn job(&self, test: &Test) -> Result<Job> {
        let job = (test.job)(&self.lab(test.boot)?.programs);
        Ok(match test.judge {
            Judge::VmmTests(name) => {
                let program = self.vmm_tests.get(name);
                let program =
                    program.with_context(|| format!("the VM monitor has no tests {name}"))?;
                job.file("test", program)
            }
            Judge::Whole(_) | Judge::Lines => job,
        })
    }

    fn lab(&self, boot: Boot) -> Result<&Lab> {
        self.labs
            .get(&boot.flavour)
            .context("the kernel is not made ready")
    }
}
