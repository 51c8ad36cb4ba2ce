//! Views of a vCPU: attaching one that the NIC has made, and what the module counts of it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use kvm_ioctls::VcpuFd;
use postern_abi::kvm;
use vmm_sys_util::ioctl::{ioctl_with_mut_ref, ioctl_with_ref};

/// The ioctls' numbers.
mod number {
    use postern_abi::kvm;
    use vmm_sys_util::{ioctl_ior_nr, ioctl_iow_nr};

    ioctl_iow_nr!(
        KVM_ATTACH_EPT_VIEW,
        kvm::KVMIO,
        kvm::KVM_ATTACH_EPT_VIEW_NR,
        kvm::AttachEptView
    );
    ioctl_ior_nr!(
        KVM_GET_EPT_VIEW_STATS,
        kvm::KVMIO,
        kvm::KVM_GET_EPT_VIEW_STATS_NR,
        kvm::EptViewStats
    );
}

/// What can fail with a view.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The module would not attach it.
    #[error("KVM refused to attach the NIC's view to vCPU {vcpu}: {hint}")]
    Attach {
        /// The vCPU.
        vcpu: usize,
        /// What the error means.
        hint: &'static str,
        /// The error.
        source: io::Error,
    },
    /// The vCPU's descriptor cannot be duplicated.
    #[error("cannot keep a descriptor of vCPU {vcpu}")]
    Duplicate {
        /// The vCPU.
        vcpu: usize,
        /// Why not.
        source: io::Error,
    },
    /// The module's counters cannot be read.
    #[error("cannot read the view's counters of vCPU {vcpu}")]
    Stats {
        /// The vCPU.
        vcpu: usize,
        /// Why not.
        source: io::Error,
    },
}

/// How a view is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Entered by VMFUNC.
    Enter {
        /// Whether an aborted call also ends the VM.
        exit_on_abort: bool,
    },
    /// Its data is served by VMCALL.
    Hypercall,
}

impl Use {
    fn flags(self) -> u32 {
        match self {
            Use::Enter {
                exit_on_abort: true,
            } => kvm::ATTACH_EXIT_ON_ABORT,
            Use::Enter { .. } => 0,
            Use::Hypercall => kvm::ATTACH_HYPERCALL,
        }
    }
}

/// A view that is attached to a vCPU, until the vCPU's end.
#[derive(Debug)]
pub struct Attached {
    number: usize,
    vcpu: OwnedFd,
}

impl Attached {
    /// Attaches the sealed view `view` to vCPU `number`, whose CPUID is set.
    ///
    /// # Errors
    ///
    /// When the module refuses: its reasons are in the documentation of `KVM_ATTACH_EPT_VIEW`.
    pub fn attach(
        number: usize,
        vcpu: &VcpuFd,
        view: BorrowedFd<'_>,
        usage: Use,
    ) -> Result<Attached, Error> {
        let argument = kvm::AttachEptView {
            view_fd: view.as_raw_fd(),
            slot: 0,
            flags: usage.flags(),
            reserved: [0; 5],
        };
        // SAFETY: the ioctl reads the argument, which has the size that its number says.
        let result = unsafe { ioctl_with_ref(vcpu, number::KVM_ATTACH_EPT_VIEW(), &argument) };
        if result < 0 {
            let source = io::Error::last_os_error();
            return Err(Error::Attach {
                vcpu: number,
                hint: hint(source.raw_os_error()),
                source,
            });
        }
        // SAFETY: the descriptor is open for as long as `vcpu` is borrowed.
        let borrowed = unsafe { BorrowedFd::borrow_raw(vcpu.as_raw_fd()) };
        let vcpu = borrowed
            .try_clone_to_owned()
            .map_err(|source| Error::Duplicate {
                vcpu: number,
                source,
            })?;
        Ok(Attached { number, vcpu })
    }

    /// The module's counters. KVM answers only while the vCPU is not running: call it from the vCPU's
    /// own thread.
    ///
    /// # Errors
    ///
    /// When the module refuses.
    pub fn stats(&self) -> Result<kvm::EptViewStats, Error> {
        let mut stats = kvm::EptViewStats::default();
        // SAFETY: the ioctl writes the argument, which has the size that its number says.
        let result =
            unsafe { ioctl_with_mut_ref(&self.vcpu, number::KVM_GET_EPT_VIEW_STATS(), &mut stats) };
        if result < 0 {
            return Err(Error::Stats {
                vcpu: self.number,
                source: io::Error::last_os_error(),
            });
        }
        Ok(stats)
    }
}

fn hint(errno: Option<i32>) -> &'static str {
    match errno {
        Some(libc::ENOTTY) => {
            "this KVM knows no views; load the patched module (`postern check` tells)"
        }
        Some(libc::EBADF) => "what the NIC gave is not a view",
        Some(libc::EBUSY) => "no views with nested virtualization, guest debugging or SMM",
        Some(libc::EEXIST) => "it has a view already, or memory in the range of views",
        Some(libc::EOPNOTSUPP) => {
            "this CPU has too few physical address bits, or the module lacks the service"
        }
        Some(libc::EPERM | libc::EACCES) => "not permitted (`postern check` tells what is missing)",
        _ => "`postern check` tells what is missing",
    }
}
