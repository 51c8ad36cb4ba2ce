//! Emulated testbeds that tests need, each made when the first test needs it.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use anyhow::{Context, Result};
use postern_lab::job::Job;
use postern_lab::machine::EmulatedMachine;
use postern_lab::setup::{Flavour, Series, Setup};
use postern_lab::testbed::{EmulatedTestbed, VIEWS};

use crate::machine_test::{Judge, Kvm, SeriesTest};

/// File of jobs on a kernel that finds leaks: a module that leaks memory.
pub const LEAKING: &str = "leaking.ko";

/// Testbeds by series and kernel, and the test programs of the VMM.
#[derive(Debug, Default)]
pub struct Testbeds {
    by_kernel: HashMap<(String, Flavour), EmulatedTestbed>,
    vmm_tests: BTreeMap<String, PathBuf>,
    /// The selftests, by series.
    selftests: BTreeMap<String, PathBuf>,
}

impl Testbeds {
    /// No testbed yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The testbed with this kernel of a series, whose patched KVM need not be ready.
    ///
    /// # Errors
    ///
    /// The testbed cannot be made.
    pub fn with(&mut self, series: &Series, flavour: Flavour) -> Result<&mut EmulatedTestbed> {
        Ok(match self.by_kernel.entry((series.name(), flavour)) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(EmulatedTestbed::prepare_stock(series, flavour)?),
        })
    }

    /// Makes what a test needs.
    ///
    /// # Errors
    ///
    /// What the test needs cannot be made.
    pub fn prepare(&mut self, test: &SeriesTest<'_>) -> Result<()> {
        let boot = test.test.boot;
        let testbed = self.with(test.series, boot.flavour)?;
        match boot.kvm {
            Kvm::None | Kvm::Stock => {}
            Kvm::Patched(_) => testbed.prepare_patched()?,
            Kvm::Weakened(_) => testbed.prepare_weakened()?,
        }
        if matches!(test.test.judge, Judge::VmmTests(_)) && self.vmm_tests.is_empty() {
            self.vmm_tests = Setup::open()?.vmm_tests()?;
        }
        let series = test.series.name();
        if matches!(test.test.judge, Judge::Selftest) && !self.selftests.contains_key(&series) {
            let program = Setup::of(test.series)?.selftest()?;
            self.selftests.insert(series, program);
        }
        Ok(())
    }

    /// A machine that boots what a test needs.
    ///
    /// # Errors
    ///
    /// [`Testbeds::prepare`] has not made what the machine needs.
    pub fn machine(&self, test: &SeriesTest<'_>) -> Result<EmulatedMachine<'_>> {
        let testbed = self.testbed(test)?;
        Ok(match test.test.boot.kvm {
            Kvm::None => testbed.bare_machine(),
            Kvm::Stock => testbed.stock_machine(),
            Kvm::Patched(parameters) => testbed.machine(parameters)?,
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
    pub fn job(&self, test: &SeriesTest<'_>) -> Result<Job> {
        let testbed = self.testbed(test)?;
        let mut job = (test.test.job)(&testbed.programs);
        if let Some(module) = &testbed.kernel_tree.leaking {
            job = job.file(LEAKING, module);
        }
        Ok(match test.test.judge {
            Judge::VmmTests(name) => {
                let program = self.vmm_tests.get(name);
                let program = program.with_context(|| format!("the VMM has no tests {name}"))?;
                job.file("test", program)
            }
            Judge::Selftest => {
                let program = self.selftests.get(&test.series.name());
                job.file("test", program.context("the selftest is not made ready")?)
            }
            Judge::Whole(_) | Judge::Lines => job,
        })
    }

    fn testbed(&self, test: &SeriesTest<'_>) -> Result<&EmulatedTestbed> {
        self.by_kernel
            .get(&(test.series.name(), test.test.boot.flavour))
            .context("the kernel is not made ready")
    }
}
