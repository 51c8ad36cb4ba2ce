//! A sealed view on a vCPU.
#![deny(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use postern_abi::kvm::{
    ATTACH_EXIT_ON_ABORT, ATTACH_HYPERCALL, AttachEptView, DetachEptView, EptViewStats,
};

use crate::ioctl;

/// How a vCPU reaches the service of a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// By VMFUNC, into the view.
    Enter {
        /// Whether an aborted call also returns from `KVM_RUN`
        /// ([`postern_abi::kvm::KVM_EXIT_EPT_VIEW`]).
        exit_on_abort: bool,
    },
    /// By VMCALL: the module serves the view's data itself.
    Hypercall,
}

impl AttachMode {
    fn flags(self) -> u32 {
        match self {
            AttachMode::Enter {
                exit_on_abort: true,
            } => ATTACH_EXIT_ON_ABORT,
            AttachMode::Enter { .. } => 0,
            AttachMode::Hypercall => ATTACH_HYPERCALL,
        }
    }
}

/// The slot of a vCPU's views that is used: there is one.
const SLOT: u32 = 0;

/// A view that is attached to a vCPU. It stays so until the vCPU's end, also when the value is
/// dropped, unless it is detached.
#[derive(Debug)]
pub struct Attachment {
    vcpu: OwnedFd,
}

impl Attachment {
    /// Attaches a sealed view to a vCPU, whose CPUID is set.
    ///
    /// # Errors
    ///
    /// When KVM refuses (`kvm_ept_view.h` has the reasons), or no descriptor is left.
    pub fn attach(
        vcpu: BorrowedFd<'_>,
        view: BorrowedFd<'_>,
        mode: AttachMode,
    ) -> io::Result<Attachment> {
        let own = vcpu.try_clone_to_owned()?;
        let argument = AttachEptView {
            view_fd: view.as_raw_fd(),
            slot: SLOT,
            flags: mode.flags(),
            reserved: [0; 5],
        };
        ioctl::attach(&vcpu, &argument)?;
        Ok(Attachment { vcpu: own })
    }

    /// What KVM has counted of the view on this vCPU. KVM answers only while the vCPU is not
    /// running: call it from the vCPU's own thread.
    ///
    /// # Errors
    ///
    /// When KVM refuses.
    pub fn stats(&self) -> io::Result<EptViewStats> {
        ioctl::stats(&self.vcpu)
    }

    /// Takes the view from the vCPU.
    ///
    /// # Errors
    ///
    /// When KVM refuses.
    pub fn detach(self) -> io::Result<()> {
        let argument = DetachEptView {
            slot: SLOT,
            ..DetachEptView::default()
        };
        ioctl::detach(&self.vcpu, &argument)
    }
}
