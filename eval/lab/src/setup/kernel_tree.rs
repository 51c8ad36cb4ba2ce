//! A kernel, with what modules for it are built with.

use std::path::PathBuf;

use crate::machine::Kernel;

/// A kernel, and what modules for it are built with.
#[derive(Clone, Debug)]
pub struct KernelTree {
    /// The kernel that a machine boots.
    pub kernel: Kernel,
    /// Build tree or headers.
    pub build: PathBuf,
    /// `irqbypass.ko`, on which KVM depends.
    pub irqbypass: PathBuf,
    /// `kvm.ko` and `kvm-intel.ko` without Postern's patches.
    pub stock: [PathBuf; 2],
    /// Directory of its modules with their list of what is built in, where guests need modules to
    /// reach their devices.
    pub modules: Option<PathBuf>,
    /// A module that leaks memory on purpose, where the kernel finds leaks.
    pub leaking: Option<PathBuf>,
}
