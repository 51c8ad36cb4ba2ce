//! The table of the view ioctls, with one function each: what is passed is what the kernel gets.
//!
//! Nothing is checked here, because tests of the kernel pass what is wrong; programs use the
//! methods of [`crate::Template`], [`crate::SealedTemplate`] and [`crate::Attachment`].

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use postern_abi::kvm::{
    AttachEptView, CreateEptView, DetachEptView, EptViewBells, EptViewGrant, EptViewInfo,
    EptViewMap, EptViewRevoke, EptViewSeal, EptViewStats,
};
use vmm_sys_util::ioctl::{ioctl_with_mut_ref, ioctl_with_ref, ioctl_with_val};

/// The numbers of the ioctls.
mod number {
    use postern_abi::kvm::*;
    use vmm_sys_util::{ioctl_io_nr, ioctl_ior_nr, ioctl_iow_nr, ioctl_iowr_nr};

    // KVM's own, of linux/kvm.h.
    ioctl_io_nr!(KVM_CHECK_EXTENSION, KVMIO, 0x03);
    ioctl_iow_nr!(
        KVM_CREATE_EPT_VIEW,
        KVMIO,
        KVM_CREATE_EPT_VIEW_NR,
        CreateEptView
    );
    ioctl_iow_nr!(KVM_EPT_VIEW_MAP, KVMIO, KVM_EPT_VIEW_MAP_NR, EptViewMap);
    ioctl_iow_nr!(KVM_EPT_VIEW_SEAL, KVMIO, KVM_EPT_VIEW_SEAL_NR, EptViewSeal);
    ioctl_iow_nr!(
        KVM_ATTACH_EPT_VIEW,
        KVMIO,
        KVM_ATTACH_EPT_VIEW_NR,
        AttachEptView
    );
    ioctl_iow_nr!(
        KVM_DETACH_EPT_VIEW,
        KVMIO,
        KVM_DETACH_EPT_VIEW_NR,
        DetachEptView
    );
    ioctl_iowr_nr!(
        KVM_GET_EPT_VIEW_STATS,
        KVMIO,
        KVM_GET_EPT_VIEW_STATS_NR,
        EptViewStats
    );
    ioctl_iow_nr!(
        KVM_EPT_VIEW_GRANT,
        KVMIO,
        KVM_EPT_VIEW_GRANT_NR,
        EptViewGrant
    );
    ioctl_iow_nr!(
        KVM_EPT_VIEW_REVOKE,
        KVMIO,
        KVM_EPT_VIEW_REVOKE_NR,
        EptViewRevoke
    );
    ioctl_ior_nr!(
        KVM_GET_EPT_VIEW_INFO,
        KVMIO,
        KVM_GET_EPT_VIEW_INFO_NR,
        EptViewInfo
    );
    ioctl_iow_nr!(
        KVM_EPT_VIEW_BELLS,
        KVMIO,
        KVM_EPT_VIEW_BELLS_NR,
        EptViewBells
    );
}

fn check(result: i32) -> io::Result<i32> {
    match result {
        ..0 => Err(io::Error::last_os_error()),
        _ => Ok(result),
    }
}

/// `KVM_CHECK_EXTENSION` on /dev/kvm: what KVM answers for a capability; 0 is that it lacks it.
///
/// # Errors
///
/// The `errno` of the ioctl.
pub fn check_extension(kvm: &impl AsRawFd, capability: u32) -> io::Result<i32> {
    // SAFETY: the call takes a number and touches no memory of this process.
    check(unsafe { ioctl_with_val(kvm, number::KVM_CHECK_EXTENSION(), capability.into()) })
}

/// A descriptor that a call has returned.
fn new_descriptor(result: i32) -> io::Result<OwnedFd> {
    let fd = check(result)?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `KVM_CREATE_EPT_VIEW` on /dev/kvm: a new template.
///
/// # Errors
///
/// The `errno` of the ioctl.
pub fn create(kvm: &impl AsRawFd, argument: &CreateEptView) -> io::Result<OwnedFd> {
    // SAFETY: the call reads the structure that its number says, which is borrowed throughout.
    new_descriptor(unsafe { ioctl_with_ref(kvm, number::KVM_CREATE_EPT_VIEW(), argument) })
}

/// `KVM_EPT_VIEW_MAP` on a template: pins pages of this process and maps them in its views.
///
/// # Errors
///
/// The `errno` of the ioctl.
///
/// # Safety
///
/// If this process has pages at the address that the argument names, guests read them, and write
/// them if the argument says so, while and after this call: nothing may refer to them as memory
/// that only changes by what this process does.
pub unsafe fn map(template: &impl AsRawFd, argument: &EptViewMap) -> io::Result<()> {
    // SAFETY: the call reads the structure that its number says, which is borrowed throughout; what
    // becomes of the pages that it names is the caller's promise.
    check(unsafe { ioctl_with_ref(template, number::KVM_EPT_VIEW_MAP(), argument) }).map(drop)
}

/// `KVM_EPT_VIEW_BELLS` on a template: what a hypercall of its service can ring.
///
/// # Errors
///
/// The `errno` of the ioctl.
pub fn bells(template: &impl AsRawFd, argument: &EptViewBells) -> io::Result<()> {
    // SAFETY: the call reads the structure that its number says, which is borrowed throughout, and
    // the numbers that it names, and writes no memory of this process.
    check(unsafe { ioctl_with_ref(template, number::KVM_EPT_VIEW_BELLS(), argument) }).map(drop)
}

/// `KVM_EPT_VIEW_SEAL` on a template: completes it.
///
/// # Errors
///
/// The `errno` of the ioctl.
pub fn seal(template: &impl AsRawFd, argument: &EptViewSeal) -> io::Result<()> {
    // SAFETY: the call reads the structure that its number says, which is borrowed throughout.
    check(unsafe { ioctl_with_ref(template, number::KVM_EPT_VIEW_SEAL(), argument) }).map(drop)
}

/// `KVM_EPT_VIEW_GRANT` on a sealed template: a new grant.
///
/// # Errors
///
/// The `errno` of the ioctl.
pub fn grant(template: &impl AsRawFd, argument: &EptViewGrant) -> io::Result<OwnedFd> {
    // SAFETY: the call reads the structure that its number says, which is borrowed throughout.
    new_descriptor(unsafe { ioctl_with_ref(template, number::KVM_EPT_VIEW_GRANT(), argument) })
}

/// `KVM_EPT_VIEW_REVOKE` on a sealed template; gives how many grants it was.
///
/// # Errors
///
/// The `errno` of the ioctl.
pub fn revoke(template: &impl AsRawFd, argument: &EptViewRevoke) -> io::Result<u32> {
    // SAFETY: the call reads the structure that its number says, which is borrowed throughout.
    check(unsafe { ioctl_with_ref(template, number::KVM_EPT_VIEW_REVOKE(), argument) })
        .map(i32::unsigned_abs)
}

/// `KVM_GET_EPT_VIEW_INFO` on a template.
///
/// # Errors
///
/// The `errno` of the ioctl.
pub fn info(template: &impl AsRawFd) -> io::Result<EptViewInfo> {
    let mut info = EptViewInfo::default();
    // SAFETY: the call writes the structure that its number says, which is borrowed throughout, and
    // whatever bytes it writes make integers.
    check(unsafe { ioctl_with_mut_ref(template, number::KVM_GET_EPT_VIEW_INFO(), &mut info) })?;
    Ok(info)
}

/// `KVM_ATTACH_EPT_VIEW` on a vCPU.
///
/// # Errors
///
/// The `errno` of the ioctl.
pub fn attach(vcpu: &impl AsRawFd, argument: &AttachEptView) -> io::Result<()> {
    // SAFETY: the call reads the structure that its number says, which is borrowed throughout.
    check(unsafe { ioctl_with_ref(vcpu, number::KVM_ATTACH_EPT_VIEW(), argument) }).map(drop)
}

/// `KVM_DETACH_EPT_VIEW` on a vCPU.
///
/// # Errors
///
/// The `errno` of the ioctl.
pub fn detach(vcpu: &impl AsRawFd, argument: &DetachEptView) -> io::Result<()> {
    // SAFETY: the call reads the structure that its number says, which is borrowed throughout.
    check(unsafe { ioctl_with_ref(vcpu, number::KVM_DETACH_EPT_VIEW(), argument) }).map(drop)
}

/// `KVM_GET_EPT_VIEW_STATS` on a vCPU, of one of its slots.
///
/// # Errors
///
/// The `errno` of the ioctl.
pub fn stats(vcpu: &impl AsRawFd, slot: u32) -> io::Result<EptViewStats> {
    let mut stats = EptViewStats {
        slot,
        ..EptViewStats::default()
    };
    stats_into(vcpu, &mut stats)?;
    Ok(stats)
}

/// `KVM_GET_EPT_VIEW_STATS` on a vCPU, with an argument as it is.
///
/// # Errors
///
/// The `errno` of the ioctl.
pub fn stats_into(vcpu: &impl AsRawFd, stats: &mut EptViewStats) -> io::Result<()> {
    // SAFETY: the call reads and writes the structure that its number says, which is borrowed
    // throughout, and whatever bytes it writes make integers.
    check(unsafe { ioctl_with_mut_ref(vcpu, number::KVM_GET_EPT_VIEW_STATS(), stats) }).map(drop)
}
