//! The module's ioctls: the Rust side of `kvm_ept_view.h`, which documents each call.
//!
//! All structures are 64-bit clean, and every reserved field must be zero. Addresses and sizes are
//! in bytes.
#![forbid(unsafe_code)]

/// Argument of `KVM_CHECK_EXTENSION`; the result is 1 where views can be created.
pub const KVM_CAP_EPT_VIEW: u32 = 0x4550_5401;

/// `kvm_run.exit_reason` when a call was aborted and the vCPU was attached with
/// [`ATTACH_EXIT_ON_ABORT`]; the payload is an [`AbortExit`].
pub const KVM_EXIT_EPT_VIEW: u32 = 0x4550;

/// Type of the ioctl numbers: KVM's own.
pub const KVMIO: u32 = 0xae;
/// Number of `KVM_CREATE_EPT_VIEW`, on /dev/kvm, with a [`CreateEptView`]: returns a view fd.
pub const KVM_CREATE_EPT_VIEW_NR: u32 = 0xf0;
/// Number of `KVM_EPT_VIEW_MAP`, on a view fd, with an [`EptViewMap`].
pub const KVM_EPT_VIEW_MAP_NR: u32 = 0xf1;
/// Number of `KVM_EPT_VIEW_SEAL`, on a view fd, with an [`EptViewSeal`].
pub const KVM_EPT_VIEW_SEAL_NR: u32 = 0xf2;
/// Number of `KVM_ATTACH_EPT_VIEW`, on a vCPU fd, with an [`AttachEptView`].
pub const KVM_ATTACH_EPT_VIEW_NR: u32 = 0xf3;
/// Number of `KVM_DETACH_EPT_VIEW`, on a vCPU fd, with a [`DetachEptView`].
pub const KVM_DETACH_EPT_VIEW_NR: u32 = 0xf4;
/// Number of `KVM_GET_EPT_VIEW_STATS`, on a vCPU fd, with an [`EptViewStats`].
pub const KVM_GET_EPT_VIEW_STATS_NR: u32 = 0xf5;

/// Argument of `KVM_CREATE_EPT_VIEW`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CreateEptView {
    /// Must be zero.
    pub flags: u32,
    /// Must be zero.
    pub reserved: [u32; 3],
}

/// [`EptViewMap::prot`]: readable.
pub const VIEW_READ: u32 = 1;
/// [`EptViewMap::prot`]: writable; needs [`VIEW_READ`], excludes [`VIEW_EXEC`].
pub const VIEW_WRITE: u32 = 2;
/// [`EptViewMap::prot`]: executable.
pub const VIEW_EXEC: u32 = 4;

/// Argument of `KVM_EPT_VIEW_MAP`: pins pages of the caller and maps them in the view. The kernel
/// chooses the guest-physical addresses.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EptViewMap {
    /// Guest-virtual address, page aligned.
    pub gva: u64,
    /// Address in the caller's address space, page aligned.
    pub user_addr: u64,
    /// Size in bytes, a multiple of the page size.
    pub size: u64,
    /// Rights: [`VIEW_READ`], [`VIEW_WRITE`], [`VIEW_EXEC`].
    pub prot: u32,
    /// Must be zero.
    pub flags: u32,
    /// Must be zero.
    pub reserved: [u64; 2],
}

/// [`EptViewSeal::mode`]: three VMFUNCs a call; needs `CAP_SYS_RAWIO`.
pub const VIEW_MODE_FAST: u32 = 0;
/// [`EptViewSeal::mode`]: four VMFUNCs a call; the service cannot reach the EPTP list.
pub const VIEW_MODE_STRICT: u32 = 1;

/// Argument of `KVM_EPT_VIEW_SEAL`: the view is immutable from then on.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EptViewSeal {
    /// [`VIEW_MODE_FAST`] or [`VIEW_MODE_STRICT`].
    pub mode: u32,
    /// Must be zero.
    pub flags: u32,
    /// Address of the service's entry, in an executable mapping.
    pub entry_gva: u64,
    /// First byte of the service's data, given to it on the hypercall path. Mapped read and write.
    pub data_gva: u64,
    /// Size of the data, in bytes.
    pub data_size: u64,
    /// The words that say who is calling; see [`crate::view::CallPage::caller`].
    pub caller: [u64; 8],
    /// Must be zero.
    pub reserved: [u64; 4],
}

/// [`AttachEptView::flags`]: an aborted call also returns to user space with [`KVM_EXIT_EPT_VIEW`].
pub const ATTACH_EXIT_ON_ABORT: u32 = 1;
/// [`AttachEptView::flags`]: no view is entered; the same data is served by VMCALL instead
/// ([`crate::service::HYPERCALL`]).
pub const ATTACH_HYPERCALL: u32 = 2;

/// Argument of `KVM_ATTACH_EPT_VIEW`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttachEptView {
    /// File descriptor of a sealed view.
    pub view_fd: i32,
    /// Number of the gate; only 0 exists.
    pub slot: u32,
    /// [`ATTACH_EXIT_ON_ABORT`], [`ATTACH_HYPERCALL`].
    pub flags: u32,
    /// Must be zero.
    pub reserved: [u32; 5],
}

/// Argument of `KVM_DETACH_EPT_VIEW`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DetachEptView {
    /// Number of the gate, as in [`AttachEptView::slot`].
    pub slot: u32,
    /// Must be zero.
    pub flags: u32,
    /// Must be zero.
    pub reserved: [u32; 2],
}

/// Argument of `KVM_GET_EPT_VIEW_STATS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EptViewStats {
    /// Number of calls that ended in an abort.
    pub aborts: u64,
    /// Number of calls whose return KVM completed because an event was waiting.
    pub deferred_leaves: u64,
    /// Number of VM exits, of any reason, that were taken while a view was active.
    pub exits_in_view: u64,
    /// Number of requests served by VMCALL.
    pub hypercalls: u64,
    /// Reads as zero.
    pub reserved: [u64; 4],
}

/// Payload of [`KVM_EXIT_EPT_VIEW`], at the start of `kvm_run`'s union.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AbortExit {
    /// EPTP-list index of the view that was active.
    pub view: u32,
    /// Basic VM-exit reason.
    pub exit_reason: u32,
    /// Exit qualification.
    pub qualification: u64,
    /// Guest-physical address, where the reason has one.
    pub gpa: u64,
    /// Guest-linear address, where the reason has one.
    pub gva: u64,
    /// RIP in the view.
    pub rip: u64,
}

const _: () = assert!(size_of::<CreateEptView>() == 16);
const _: () = assert!(size_of::<EptViewMap>() == 48);
const _: () = assert!(size_of::<EptViewSeal>() == 128);
const _: () = assert!(size_of::<AttachEptView>() == 32);
const _: () = assert!(size_of::<DetachEptView>() == 16);
const _: () = assert!(size_of::<EptViewStats>() == 64);
const _: () = assert!(size_of::<AbortExit>() == 40);
