//! The emulated machine as a testbed: machines with the KVM that a job needs.

use std::path::Path;

use anyhow::{Context, Result};

use crate::machine::{EmulatedMachine, MachineFiles};
use crate::setup::{Defences, Flavour, KernelTree, Modules, Programs, Setup};

/// Parameters with which the patched kvm-intel makes views in the emulated machine: its processor is
/// of a model that leaks data between views, while the emulation of it does not.
pub const VIEWS: &str = "ept_views=1 ept_views_insist=1";

/// All that is needed to run VMs in the emulated machine.
#[derive(Clone, Debug)]
pub struct EmulatedTestbed {
    flavour: Flavour,
    /// Programs and firmware of the machine.
    pub files: MachineFiles,
    /// Its kernel, and what modules for that are built with.
    pub kernel_tree: KernelTree,
    /// The patched KVM for that kernel.
    pub modules: Modules,
    /// The patched KVM whose defences can be left out, for tests of attacks.
    weakened: Option<Modules>,
    /// Programs that run in the machine.
    pub programs: Programs,
}

impl EmulatedTestbed {
    /// Makes all that is missing.
    ///
    /// # Errors
    ///
    /// A sentence that says what is missing and what to do.
    pub fn prepare(flavour: Flavour) -> Result<Self> {
        let setup = Setup::open()?;
        let bochs = setup.bochs()?;
        let programs = setup.programs()?;
        let files = setup.machine_files(bochs, programs.init.clone());
        let kernel_tree = setup.kernel(flavour)?;
        let modules = setup.modules(&kernel_tree, flavour, Defences::Complete)?;
        Ok(Self {
            flavour,
            files,
            kernel_tree,
            modules,
            weakened: None,
            programs,
        })
    }

    /// Makes the modules for [`Self::weakened_machine`].
    ///
    /// # Errors
    ///
    /// A sentence that says what failed.
    pub fn prepare_weakened(&mut self) -> Result<()> {
        if self.weakened.is_none() {
            let setup = Setup::open()?;
            let built = setup.modules(&self.kernel_tree, self.flavour, Defences::Omittable)?;
            self.weakened = Some(built);
        }
        Ok(())
    }

    /// A machine with the patched KVM, whose `kvm-intel` gets these parameters.
    pub fn machine(&self, parameters: &str) -> EmulatedMachine<'_> {
        self.with_kvm(&self.modules.kvm, &self.modules.kvm_intel, parameters)
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
