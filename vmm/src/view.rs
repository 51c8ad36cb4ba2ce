//! The NIC's view on a vCPU: attaching it, and what the module counts of it there.
#![deny(unsafe_code)]

use std::io;
use std::os::fd::BorrowedFd;

use postern_abi::kvm::EptViewStats;
use postern_kvm::{AttachMode, Attachment};

/// Why a view cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The module refused to attach the view.
    #[error("KVM refused to attach the NIC's view to vCPU {vcpu}: {hint}")]
    Attach {
        /// The vCPU.
        vcpu: usize,
        /// Meaning of the error, for people.
        hint: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The module's counters cannot be read.
    #[error("cannot read the view's counters of vCPU {vcpu}")]
    Stats {
        /// The vCPU.
        vcpu: usize,
        /// The system's error.
        source: io::Error,
    },
}

/// The NIC's view on one vCPU, until the vCPU's end.
#[derive(Debug)]
pub struct VcpuView {
    vcpu: usize,
    attachment: Attachment,
}

impl VcpuView {
    /// Attaches the sealed view `view` to the vCPU of that number and descriptor, whose CPUID is
    /// set.
    ///
    /// # Errors
    ///
    /// When the module refuses: its reasons are in the documentation of `KVM_ATTACH_EPT_VIEW`.
    pub fn attach(
        vcpu: usize,
        fd: BorrowedFd<'_>,
        view: BorrowedFd<'_>,
        mode: AttachMode,
    ) -> Result<VcpuView, Error> {
        let attachment = Attachment::attach(fd, view, mode).map_err(|source| Error::Attach {
            vcpu,
            hint: hint(source.raw_os_error()),
            source,
        })?;
        Ok(VcpuView { vcpu, attachment })
    }

    /// The module's counters. KVM answers only while the vCPU is not running: call it from the
    /// vCPU's own thread.
    ///
    /// # Errors
    ///
    /// When the module refuses.
    pub fn stats(&self) -> Result<EptViewStats, Error> {
        self.attachment.stats().map_err(|source| Error::Stats {
            vcpu: self.vcpu,
            source,
        })
    }
}

fn hint(errno: Option<i32>) -> &'static str {
    match errno {
        Some(libc::ENOTTY) => {
            "this KVM knows no views; load the patched module (`postern check` tells)"
        }
        Some(libc::EMFILE) => "no descriptor is left; raise the limit (ulimit -n)",
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
