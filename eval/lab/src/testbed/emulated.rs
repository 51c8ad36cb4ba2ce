//! The emulated machine as a testbed: machines with the KVM that a job needs.

use std::path::Path;

use anyhow::{Context, Result};

use crate::machine::{EmulatedMachine, MachineFiles};
use crate::setup::{Defences, Flavour, KernelTree, Modules, Programs, Series, Setup};

/// Parameters with which the patched kvm-intel makes views in the emulated machine: its processor is
/// of a model that leaks data between views, while the emulation of it does not.
pub const VIEWS: &str = "ept_views=1 ept_views_insist=1 ept_views_hypercall=1";

/// All that is needed to run VMs in the emulated machine.
#[derive(Clone, Debug)]
pub struct EmulatedTestbed {
    setup: Setup,
    flavour: Flavour,
    /// Programs and firmware of the machine.
    pub files: MachineFiles,
    /// Its kernel, and what modules for that are built with.
    pub kernel_tree: KernelTree,
    /// The patched KVM for that kernel.
    patched: Option<Modules>,
    /// The patched KVM whose defences can be left out, for tests of attacks.
    weakened: Option<Modules>,
    /// Programs that run in the machine.
    pub programs: Programs,
}

impl EmulatedTestbed {
    /// Makes all that is missing for machines with a kernel of a series and the patched KVM.
    ///
    /// # Errors
    ///
    /// A sentence that says what is missing and what to do.
    pub fn prepare(series: &Series, flavour: Flavour) -> Result<Self> {
        let mut testbed = Self::prepare_stock(series, flavour)?;
        testbed.prepare_patched()?;
        Ok(testbed)
    }

    /// Makes all that is missing for machines with a kernel of a series, and no KVM but its own.
    ///
    /// # Errors
    ///
    /// A sentence that says what is missing and what to do.
    pub fn prepare_stock(series: &Series, flavour: Flavour) -> Result<Self> {
        let setup = Setup::of(series)?;
        let bochs = setup.bochs()?;
        let programs = setup.programs()?;
        let files = setup.machine_files(bochs, programs.init.clone());
        let kernel_tree = setup.kernel(flavour)?;
        Ok(Self {
            setup,
            flavour,
            files,
            kernel_tree,
            patched: None,
            weakened: None,
            programs,
        })
    }

    /// Makes the modules for [`Self::machine`].
    ///
    /// # Errors
    ///
    /// A sentence that says what failed.
    pub fn prepare_patched(&mut self) -> Result<()> {
        if self.patched.is_none() {
            self.patched = Some(self.build(Defences::Complete)?);
        }
        Ok(())
    }

    /// Makes the modules for [`Self::weakened_machine`].
    ///
    /// # Errors
    ///
    /// A sentence that says what failed.
    pub fn prepare_weakened(&mut self) -> Result<()> {
        if self.weakened.is_none() {
            self.weakened = Some(self.build(Defences::Omittable)?);
        }
        Ok(())
    }

    fn build(&self, defences: Defences) -> Result<Modules> {
        self.setup
            .modules(&self.kernel_tree, self.flavour, defences)
    }

    /// The patched KVM.
    ///
    /// # Errors
    ///
    /// [`Self::prepare_patched`] has not been called.
    pub fn modules(&self) -> Result<&Modules> {
        let modules = self.patched.as_ref();
        modules.context("the patched modules are not made ready")
    }

    /// A machine with the patched KVM, whose `kvm-intel` gets these parameters.
    ///
    /// # Errors
    ///
    /// [`Self::prepare_patched`] has not been called.
    pub fn machine(&self, parameters: &str) -> Result<EmulatedMachine<'_>> {
        let modules = self.modules()?;
        Ok(self.with_kvm(&modules.kvm, &modules.kvm_intel, parameters))
    }

    /// A machine with KVM as it comes with the kernel.
    pub fn stock_machine(&self) -> EmulatedMachine<'_> {
        let [kvm, kvm_intel] = &self.kernel_tree.stock;
        self.with_kvm(kvm, kvm_intel, "")
    }

    /// A machine with a KVM whose parameters can leave out defences.
    ///
    /// # Errors
    ///
    /// [`Self::prepare_weakened`] has not been called.
    pub fn weakened_machine(&self, parameters: &str) -> Result<EmulatedMachine<'_>> {
        let modules = self
            .weakened
            .as_ref()
            .context("the weakened modules are not made ready")?;
        Ok(self.with_kvm(&modules.kvm, &modules.kvm_intel, parameters))
    }

    /// A machine without KVM of any kind.
    pub fn bare_machine(&self) -> EmulatedMachine<'_> {
        EmulatedMachine::new(&self.files, &self.kernel_tree.kernel)
    }

    fn with_kvm(&self, kvm: &Path, kvm_intel: &Path, parameters: &str) -> EmulatedMachine<'_> {
        self.bare_machine()
            .module(&self.kernel_tree.irqbypass, "")
            .module(kvm, "")
            .module(kvm_intel, parameters)
    }
}
