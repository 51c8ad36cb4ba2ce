//! Everything that must exist before the emulated machine can run, made once and kept in the
//! [`cache`].
//!
//! | module | what it makes |
//! | --- | --- |
//! | [`packages`] | Debian packages and Rust targets, installed on the host |
//! | [`bochs`] | the emulator |
//! | [`mod@programs`] | Postern's own programs: VMM, guest, images of the NIC, tests |
//! | [`kernel`] | kernels of a [`series`], of our own configuration or Debian's own |
//! | [`modules`] | the patched KVM for a kernel |
//! | [`guest`] | Linux guests: kernel, initial file system, root file system of Debian packages |
//! | [`clean_root`] | Debian systems in directories, in which packages are tried |
//! | [`qemu`] | Debian's QEMU |
//! | [`dynamic`] | programs with the libraries that they need |
//! | [`selftest`] | the series' own test, in the kernel's style |
//!
//! [`usage`] says what all that takes, and removes what is not needed any more.
//!
//! Any number of runs may do this at the same time: whoever makes something holds a lock of the
//! cache.

pub mod bochs;
pub mod cache;
pub mod checkout;
pub mod clean_root;
mod distributed;
pub mod download;
pub mod dynamic;
pub mod guest;
pub mod kernel;
pub mod kernel_tree;
mod make;
pub mod modules;
pub mod packages;
pub mod programs;
pub mod progress;
pub mod qemu;
pub mod selftest;
pub mod series;
pub mod usage;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::machine::MachineFiles;
use cache::Cache;
pub use checkout::{cargo, metadata, root};
pub use guest::{Guest, GuestOptions};
pub use kernel::Flavour;
pub use kernel_tree::KernelTree;
pub use modules::{Defences, Modules};
pub use packages::Package;
pub use programs::Programs;
use progress::Progress;
pub use qemu::Qemu;
pub use series::Series;

/// A set-up: where things are made, and for which series of kernels.
///
/// Its methods return what they make, or a sentence that says what is missing and what to do.
#[derive(Clone, Debug)]
pub struct Setup {
    cache: Cache,
    progress: Progress,
    series: Series,
}

impl Setup {
    /// Opens the cache for the default series, and installs packages and Rust targets that are
    /// missing.
    ///
    /// # Errors
    ///
    /// A sentence that says what is missing and what to do.
    pub fn open() -> Result<Self> {
        Self::of(&Series::default_one(root())?)
    }

    /// Opens the cache for a series, and installs packages and Rust targets that are missing.
    ///
    /// # Errors
    ///
    /// A sentence that says what is missing and what to do.
    pub fn of(series: &Series) -> Result<Self> {
        let setup = Self {
            cache: Cache::open()?,
            progress: Progress::new(),
            series: series.clone(),
        };
        usage::remove_old_builds(&setup.cache);
        packages::install(&setup.cache, &setup.progress, packages::PACKAGES)?;
        packages::add_targets(&setup.cache, &setup.progress)?;
        Ok(setup)
    }

    /// Makes the emulator.
    ///
    /// # Errors
    ///
    /// A sentence that says what failed.
    pub fn bochs(&self) -> Result<PathBuf> {
        bochs::build(&self.cache, &self.progress, root())
    }

    /// Makes Postern's own programs.
    ///
    /// # Errors
    ///
    /// A sentence that says what failed.
    pub fn programs(&self) -> Result<Programs> {
        programs::build(&self.cache, &self.progress)
    }

    /// Makes the first process of the emulated machine alone.
    ///
    /// # Errors
    ///
    /// A sentence that says what failed.
    pub fn init(&self) -> Result<PathBuf> {
        programs::init(&self.cache, &self.progress)
    }

    /// Makes the VMM's test programs for the emulated machine, by name.
    ///
    /// # Errors
    ///
    /// A sentence that says what failed.
    pub fn vmm_tests(&self) -> Result<BTreeMap<String, PathBuf>> {
        programs::vmm_tests(&self.cache, &self.progress)
    }

    /// Makes the owner's test of the switch beside Linux' bridge for the emulated machine.
    ///
    /// # Errors
    ///
    /// A sentence that says what failed.
    pub fn bridge_test(&self) -> Result<PathBuf> {
        programs::bridge_test(&self.cache, &self.progress)
    }

    /// Modules of a kernel's own, and those that they need, as files in the order of loading.
    ///
    /// # Errors
    ///
    /// The kernel has none, or they cannot be read.
    pub fn own_modules(&self, tree: &KernelTree, names: &[&str]) -> Result<Vec<PathBuf>> {
        guest::modules::files(&self.cache, &self.progress, tree, names)
    }

    /// Makes or fetches a kernel.
    ///
    /// # Errors
    ///
    /// A sentence that says what failed.
    pub fn kernel(&self, flavour: Flavour) -> Result<KernelTree> {
        kernel::build(&self.cache, &self.progress, root(), &self.series, flavour)
    }

    /// Fetches Debian's source of the kernel, a compressed archive.
    ///
    /// # Errors
    ///
    /// A sentence that says what failed.
    pub fn kernel_source(&self) -> Result<PathBuf> {
        kernel::source(&self.cache, &self.progress, &self.series)
    }

    /// Makes the program for Linux guests that sends and receives.
    ///
    /// # Errors
    ///
    /// A sentence that says what failed.
    pub fn linux_guest(&self) -> Result<PathBuf> {
        programs::linux_guest(&self.cache, &self.progress)
    }

    /// Makes a Linux guest. Its root file system takes root, the first time.
    ///
    /// # Errors
    ///
    /// A sentence that says what failed: no such package, no network, no root.
    pub fn guest(&self, options: &GuestOptions<'_>) -> Result<Guest> {
        if options.kernel == Flavour::Debug {
            bail!("a guest boots the small kernel or Debian's, not the one with checks");
        }
        let (cache, progress) = (&self.cache, &self.progress);
        let built = guest::Built {
            init: &programs::guest_init(cache, progress)?,
            traffic: &programs::linux_guest(cache, progress)?,
            bridge: &programs::bridge(cache, progress)?,
        };
        let tree = self.kernel(options.kernel)?;
        guest::make(cache, progress, &self.series, options, (tree, built))
    }

    /// Makes a clean Debian system in a directory, with the headers of the series' kernel.
    ///
    /// # Errors
    ///
    /// A sentence that says what failed.
    pub fn clean_root(&self) -> Result<PathBuf> {
        let host = Series::default_one(root())?;
        clean_root::make(&self.cache, &self.progress, &self.series, &host)
    }

    /// Makes the switch as an object for the kernel module.
    ///
    /// # Errors
    ///
    /// A sentence that says what failed.
    pub fn kernel_object(&self) -> Result<PathBuf> {
        programs::kernel_object(&self.cache, &self.progress)
    }

    /// Makes the patched KVM for a kernel.
    ///
    /// # Errors
    ///
    /// A sentence that says what failed.
    pub fn modules(
        &self,
        tree: &KernelTree,
        flavour: Flavour,
        defences: Defences,
    ) -> Result<Modules> {
        let source = self.kernel_source()?;
        let service = programs::kernel_object(&self.cache, &self.progress)?;
        let inputs = modules::Inputs {
            root: root(),
            series: &self.series,
            source: &source,
            service: &service,
        };
        modules::build(
            &self.cache,
            &self.progress,
            &inputs,
            (tree, flavour),
            defences,
        )
    }

    /// Builds the series' selftest.
    ///
    /// # Errors
    ///
    /// A sentence that says what failed.
    pub fn selftest(&self) -> Result<PathBuf> {
        let source = self.kernel_source()?;
        let of = (&*self.series.name(), &*source);
        selftest::build(&self.cache, &self.progress, root(), of)
    }

    /// Fetches QEMU of the Debian release that has the kernel.
    ///
    /// # Errors
    ///
    /// A sentence that says what failed.
    pub fn qemu(&self) -> Result<Qemu> {
        qemu::fetch(&self.cache, &self.progress, &self.series)
    }

    /// The files of machines with this emulator and this first process.
    pub fn machine_files(&self, bochs: PathBuf, init: PathBuf) -> MachineFiles {
        MachineFiles {
            bochs,
            init,
            bios: "/usr/share/bochs/BIOS-bochs-latest".into(),
            vga_bios: "/usr/share/vgabios/vgabios.bin".into(),
            isolinux: "/usr/lib/ISOLINUX/isolinux.bin".into(),
            ldlinux: "/usr/lib/syslinux/modules/bios/ldlinux.c32".into(),
            busybox: packages::BUSYBOX.into(),
            run: self.cache.path("run"),
        }
    }
}

/// Installs what is missing of the packages that everything needs, and of these.
///
/// # Errors
///
/// A sentence that says what to do.
pub fn install(more: &[Package]) -> Result<()> {
    let all = [packages::PACKAGES, more].concat();
    packages::install(&Cache::open()?, &Progress::new(), &all)
}

/// A machine's files and a series' kernel without the patched KVM, for those who bring their own
/// modules.
///
/// # Errors
///
/// A sentence that says what is missing and what to do.
pub fn bare(series: &Series, flavour: Flavour) -> Result<(MachineFiles, KernelTree)> {
    let setup = Setup::of(series)?;
    let (bochs, init) = (setup.bochs()?, setup.init()?);
    let tree = setup.kernel(flavour)?;
    Ok((setup.machine_files(bochs, init), tree))
}

/// Makes the program of `cargo paper`, static, for another host.
///
/// # Errors
///
/// A sentence that says what failed.
pub fn paper() -> Result<PathBuf> {
    let setup = Setup::open()?;
    programs::paper(&setup.cache, &setup.progress)
}

/// Programs that run on any host with KVM.
///
/// # Errors
///
/// A sentence that says what is missing and what to do.
pub fn programs() -> Result<Programs> {
    Setup::open()?.programs()
}
