//! The NIC's view on a vCPU: attaching it, and what the module counts of it there.
#![deny(unsafe_code)]

use std::io;
use std::os::fd::BorrowedFd;

use postern_abi::kvm::EptViewStats;
use postern_abi::platform::NIC_SLOT;
use postern_kvm::{AttachTerms, Attachment, Grant, Right};

/// Why a view cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The module refused to attach the vCPU.
    #[error("KVM refused to attach vCPU {vcpu} to the NIC: {hint}")]
    Attach {
        /// The vCPU.
        vcpu: usize,
        /// Meaning of the error, for people.
        hint: String,
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

/// How the vCPUs of a VM call the NIC.
#[derive(Clone, Copy, Debug)]
pub struct NicAccess<'a> {
    /// What the NIC's owner has granted.
    pub grant: &'a Grant,
    /// The way to call.
    pub right: Right,
    /// Whether an aborted call also returns to the VMM.
    pub exit_on_abort: bool,
}

/// The NIC's view on one vCPU, until the vCPU's end.
#[derive(Debug)]
pub struct VcpuView {
    vcpu: usize,
    attachment: Attachment,
}

impl VcpuView {
    /// Attaches the vCPU of that number and descriptor, whose CPUID is set, as the grant's member of
    /// the same number.
    ///
    /// # Errors
    ///
    /// When the module refuses: its reasons are in the documentation of `KVM_ATTACH_EPT_VIEW`.
    pub fn attach(
        vcpu: usize,
        fd: BorrowedFd<'_>,
        access: NicAccess<'_>,
    ) -> Result<VcpuView, Error> {
        let NicAccess {
            grant,
            right,
            exit_on_abort,
        } = access;
        let terms = AttachTerms {
            slot: NIC_SLOT,
            member: vcpu as u32,
            right,
            exit_on_abort,
        };
        let attachment = Attachment::attach(fd, grant, &terms).map_err(|source| Error::Attach {
            vcpu,
            hint: hint(right, source.raw_os_error()),
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

/// What an error of `KVM_ATTACH_EPT_VIEW` means here, with the remedy.
fn hint(right: Right, errno: Option<i32>) -> String {
    let text = match errno {
        Some(libc::ENOTTY) => {
            "this KVM knows no views; load the patched module (`postern check` tells)"
        }
        Some(libc::EMFILE) => "no descriptor is left; raise the limit (ulimit -n)",
        Some(libc::EBADF) => {
            "what the NIC gave is not a grant: the NIC's owner and this program are of different \
             versions; build both from one revision"
        }
        Some(libc::EBUSY) => {
            "it is attached to another vCPU by the same grant, which is for one VM alone (end that \
             VM, or take another port for this one), or the vCPU uses nested virtualization, guest \
             debugging or SMM"
        }
        Some(libc::EKEYREVOKED) => "the NIC's owner has taken the port back; ask for a port again",
        Some(libc::EEXIST) => "it has a service there already, or memory in the range of views",
        Some(libc::EACCES) => {
            return format!(
                "the grant does not have the right {right}: ask the NIC for another path, or \
                 start it with that one (--paths)"
            );
        }
        Some(libc::EINVAL) => {
            "the grant has fewer members than the VM has vCPUs: start the NIC with more queues \
             (--queues), or give the VM fewer vCPUs"
        }
        Some(libc::EOPNOTSUPP) if right == Right::Hypercall => {
            return postern_kvm::why_no_hypercall();
        }
        Some(libc::EOPNOTSUPP) => {
            "this CPU has too few physical address bits, or the vCPU's CPUID has a feature that \
             views exclude (PCID, PDCM, LAM, a PMU)"
        }
        Some(libc::EPERM) => "not permitted (`postern check` tells what is missing)",
        _ => "`postern check` tells what is missing",
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_names_its_remedy() {
        for (errno, remedy) in [
            (libc::EBUSY, "for one VM alone"),
            (libc::EKEYREVOKED, "ask for a port again"),
            (libc::EACCES, "--paths"),
            (libc::EINVAL, "--queues"),
            (libc::EOPNOTSUPP, "a PMU"),
            (libc::EBADF, "one revision"),
            (libc::EIO, "postern check"),
        ] {
            let text = hint(Right::Fast, Some(errno));
            assert!(text.contains(remedy), "{errno}: {text}");
        }
        assert!(hint(Right::Strict, Some(libc::EACCES)).contains("right strict"));
        let hypercall = hint(Right::Hypercall, Some(libc::EOPNOTSUPP));
        assert!(hypercall.contains("kernel-patches/build.sh") || hypercall.contains("hypercall=1"));
    }
}
