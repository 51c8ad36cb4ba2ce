//! Everything that must exist before the machine can run, made once and kept in the [`cache`].

pub mod bochs;
pub mod cache;
pub mod download;
pub mod kernel;
pub mod modules;
pub mod packages;
pub mod programs;
pub mod progress;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::machine::{Machine, Platform};
use cache::Cache;
pub use kernel::{Flavour, KernelTree};
pub use modules::{Modules, Strength};
pub use programs::Programs;
use progress::Progress;

/// The top of the checkout that this program was built from.
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// How many processes a build may use, as an argument of `make`.
fn jobs() -> String {
    format!(
        "-j{}",
        std::thread::available_parallelism().map_or(2, usize::from)
    )
}

/// A laboratory: all that is needed to run VMs in the emulated machine.
#[derive(Clone, Debug)]
pub struct Lab {
    flavour: Flavour,
    /// The machine.
    pub platform: Platform,
    /// Its kernel.
    pub tree: KernelTree,
    /// KVM for that kernel.
    pub modules: Modules,
    /// KVM for tests of attacks.
    weakened: Option<Modules>,
    /// What runs in it.
    pub programs: Programs,
}

impl Lab {
    /// Makes all that is missing.
    ///
    /// # Errors
    ///
    /// A sentence that says what is missing and what to do.
    pub fn prepare(flavour: Flavour) -> Result<Self> {
        let (cache, progress) = (Cache::open()?, Progress::new());
        packages::install(&cache, &progress)?;
        packages::add_targets(&cache, &progress)?;
        let bochs = bochs::build(&cache, &progress, root())?;
        let programs = programs::build(&cache, &progress, root())?;
        let tree = kernel::build(&cache, &progress, root(), flavour)?;
        let modules = modules::build(&cache, &progress, root(), (&tree, flavour), Strength::Full)?;
        let platform = platform(&cache, bochs, programs.init.clone());
        Ok(Self {
            flavour,
            platform,
            tree,
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
            let (cache, progress) = (Cache::open()?, Progress::new());
            let tree = (&self.tree, self.flavour);
            let built = modules::build(&cache, &progress, root(), tree, Strength::Weakened)?;
            self.weakened = Some(built);
        }
        Ok(())
    }

    /// A machine with KVM, whose `kvm-intel` has these parameters.
    pub fn machine(&self, parameters: &str) -> Machine<'_> {
        self.with_kvm(&self.modules.kvm, &self.modules.kvm_intel, parameters)
    }

    /// A machine with KVM as it comes with the kernel.
    pub fn stock_machine(&self) -> Machine<'_> {
        let [kvm, kvm_intel] = &self.tree.stock;
        self.with_kvm(kvm, kvm_intel, "")
    }

    /// A machine with a KVM whose parameters can leave out defences.
    ///
    /// # Errors
    ///
    /// [`Self::prepare_weakened`] has not been called.
    pub fn weakened_machine(&self, parameters: &str) -> Result<Machine<'_>> {
        let modules = self
            .weakened
            .as_ref()
            .context("the weakened modules are not made ready")?;
        Ok(self.with_kvm(&modules.kvm, &modules.kvm_intel, parameters))
    }

    fn with_kvm(&self, kvm: &Path, kvm_intel: &Path, parameters: &str) -> Machine<'_> {
        Machine::new(&self.platform, &self.tree.kernel)
            .module(&self.tree.irqbypass, "")
            .module(kvm, "")
            .module(kvm_intel, parameters)
    }
}

/// A machine's kernel without KVM of any kind, for those who bring their own modules.
///
/// # Errors
///
/// As for [`Lab::prepare`].
pub fn bare(flavour: Flavour) -> Result<(Platform, KernelTree)> {
    let (cache, progress) = (Cache::open()?, Progress::new());
    packages::install(&cache, &progress)?;
    packages::add_targets(&cache, &progress)?;
    let bochs = bochs::build(&cache, &progress, root())?;
    let init = programs::init(&cache, &progress, root())?;
    let tree = kernel::build(&cache, &progress, root(), flavour)?;
    Ok((platform(&cache, bochs, init), tree))
}

/// What runs on any machine with KVM.
///
/// # Errors
///
/// As for [`Lab::prepare`].
pub fn programs() -> Result<Programs> {
    let (cache, progress) = (Cache::open()?, Progress::new());
    packages::install(&cache, &progress)?;
    packages::add_targets(&cache, &progress)?;
    programs::build(&cache, &progress, root())
}

/// The VM monitor's test programs by name, for the emulated machine.
///
/// # Errors
///
/// As for [`Lab::prepare`].
pub fn vmm_tests() -> Result<BTreeMap<String, PathBuf>> {
    programs::vmm_tests(&Cache::open()?, Progress::new(), root())
}

/// Where cargo builds, so that it outlives a checkout.
///
/// # Errors
///
/// As for [`Cache::open`].
pub fn target() -> Result<PathBuf> {
    Ok(Cache::open()?.target(root()))
}

/// Debian's source of the kernel.
///
/// # Errors
///
/// As for [`Lab::prepare`].
pub fn kernel_source() -> Result<PathBuf> {
    let (cache, progress) = (Cache::open()?, Progress::new());
    kernel::source(&cache, &progress)
}

fn platform(cache: &Cache, bochs: PathBuf, init: PathBuf) -> Platform {
    Platform {
        bochs,
        init,
        bios: "/usr/share/bochs/BIOS-bochs-latest".into(),
        vga_bios: "/usr/share/vgabios/vgabios.bin".into(),
        isolinux: "/usr/lib/ISOLINUX/isolinux.bin".into(),
        ldlinux: "/usr/lib/syslinux/modules/bios/ldlinux.c32".into(),
        busybox: "/bin/busybox".into(),
        run: cache.path("run"),
    }
}
