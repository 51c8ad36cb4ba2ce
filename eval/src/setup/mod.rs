//! Everything that must exist before the machine can run, made once and kept in the [`cache`].

pub mod bochs;
pub mod cache;
pub mod download;
pub mod kernel;
pub mod modules;
pub mod packages;
pub mod programs;
pub mod progress;

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::machine::{Machine, Platform};
use cache::Cache;
pub use kernel::{Flavour, KernelTree};
pub use modules::Modules;
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
    /// The machine.
    pub platform: Platform,
    /// Its kernel.
    pub tree: KernelTree,
    /// KVM for that kernel.
    pub modules: Modules,
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
        let _lock = cache.lock(&progress)?;
        packages::install(&cache, &progress)?;
        packages::add_targets(&cache, &progress)?;
        let bochs = bochs::build(&cache, &progress, root())?;
        let programs = programs::build(&cache, &progress, root())?;
        let source = kernel::source(&cache, &progress)?;
        let tree = kernel::build(&cache, &progress, root(), flavour)?;
        let modules = modules::build(&cache, &progress, root(), &source, &tree, flavour)?;
        let platform = platform(&cache, bochs, programs.init.clone());
        Ok(Self {
            platform,
            tree,
            modules,
            programs,
        })
    }

    /// A machine with KVM, whose `kvm-intel` has these parameters.
    pub fn machine(&self, parameters: &str) -> Machine<'_> {
        Machine::new(&self.platform, &self.tree.kernel)
            .module(&self.tree.irqbypass, "")
            .module(&self.modules.kvm, "")
            .module(&self.modules.kvm_intel, parameters)
    }
}

/// A machine's kernel without KVM of any kind, for those who bring their own modules.
///
/// # Errors
///
/// As for [`Lab::prepare`].
pub fn bare(flavour: Flavour) -> Result<(Platform, KernelTree)> {
    let (cache, progress) = (Cache::open()?, Progress::new());
    let _lock = cache.lock(&progress)?;
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
    let _lock = cache.lock(&progress)?;
    packages::install(&cache, &progress)?;
    packages::add_targets(&cache, &progress)?;
    programs::build(&cache, &progress, root())
}

/// Debian's source of the kernel.
///
/// # Errors
///
/// As for [`Lab::prepare`].
pub fn kernel_source() -> Result<PathBuf> {
    let (cache, progress) = (Cache::open()?, Progress::new());
    let _lock = cache.lock(&progress)?;
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
