//! A grant on one vCPU.
#![deny(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use postern_abi::kvm::{ATTACH_EXIT_ON_ABORT, AttachEptView, DetachEptView, EptViewStats};

use crate::ioctl;
use crate::rights::Right;
use crate::template::Grant;

/// How a vCPU is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachTerms {
    /// Number of the vCPU's gate ([`postern_abi::view::SLOTS`]). Each service that a vCPU has takes
    /// another one.
    pub slot: u32,
    /// Number of the vCPU among those of the grant. It is attached to one vCPU at a time.
    pub member: u32,
    /// The way to call the service: one that the grant gives.
    pub right: Right,
    /// Whether an aborted call also returns from `KVM_RUN`
    /// ([`postern_abi::kvm::KVM_EXIT_EPT_VIEW`]).
    pub exit_on_abort: bool,
}

/// A service that is attached to a vCPU. It stays so until the vCPU's end, also when the value is
/// dropped, unless it is detached.
#[derive(Debug)]
pub struct Attachment {
    vcpu: OwnedFd,
    slot: u32,
}

impl Attachment {
    /// Attaches a member of a grant to a vCPU, whose CPUID is set.
    ///
    /// # Errors
    ///
    /// When KVM refuses (`kvm_ept_view.h` has the reasons), or no descriptor is left.
    pub fn attach(
        vcpu: BorrowedFd<'_>,
        grant: &Grant,
        terms: &AttachTerms,
    ) -> io::Result<Attachment> {
        let own = vcpu.try_clone_to_owned()?;
        let argument = AttachEptView {
            grant_fd: grant.as_fd().as_raw_fd(),
            slot: terms.slot,
            member: terms.member,
            right: terms.right.bit(),
            flags: if terms.exit_on_abort {
                ATTACH_EXIT_ON_ABORT
            } else {
                0
            },
            ..AttachEptView::default()
        };
        ioctl::attach(&vcpu, &argument)?;
        Ok(Attachment {
            vcpu: own,
            slot: terms.slot,
        })
    }

    /// What KVM has counted of the service on this vCPU. KVM answers only while the vCPU is not
    /// running: call it from the vCPU's own thread.
    ///
    /// # Errors
    ///
    /// When KVM refuses.
    pub fn stats(&self) -> io::Result<EptViewStats> {
        ioctl::stats(&self.vcpu, self.slot)
    }

    /// Takes the service from the vCPU, and gives the member back.
    ///
    /// # Errors
    ///
    /// When KVM refuses.
    pub fn detach(self) -> io::Result<()> {
        let argument = DetachEptView {
            slot: self.slot,
            ..DetachEptView::default()
        };
        ioctl::detach(&self.vcpu, &argument)
    }
}
