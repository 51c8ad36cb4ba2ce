//! The module's ioctls: the Rust side of `kvm_ept_view.h`, which documents each call.
//!
//! All structures are 64-bit clean, and every reserved field must be zero. Addresses and sizes are
//! in bytes.
#![forbid(unsafe_code)]

use crate::window::{BELL_WORDS, MAX_SENDERS};

/// Argument of `KVM_CHECK_EXTENSION`; the result is the rights ([`RIGHT_FAST`], [`RIGHT_STRICT`],
/// [`RIGHT_HYPERCALL`]) that templates can have on this host, 0 where there are no views.
pub const KVM_CAP_EPT_VIEW: u32 = 0x4550_5401;

/// Argument of `KVM_CHECK_EXTENSION`; the result is how many bells a template can have
/// ([`EptViewBells`]), 0 where no hypercall is served.
pub const KVM_CAP_EPT_VIEW_BELLS: u32 = 0x4550_5402;

/// `kvm_run.exit_reason` when a call was aborted and the vCPU was attached with
/// [`ATTACH_EXIT_ON_ABORT`]; the payload is an [`AbortExit`].
pub const KVM_EXIT_EPT_VIEW: u32 = 0x4550;

/// Type of the ioctl numbers: KVM's own.
pub const KVMIO: u32 = 0xae;
/// Number of `KVM_CREATE_EPT_VIEW`, on /dev/kvm, with a [`CreateEptView`]: returns a template fd.
pub const KVM_CREATE_EPT_VIEW_NR: u32 = 0xf0;
/// Number of `KVM_EPT_VIEW_MAP`, on a template fd, with an [`EptViewMap`].
pub const KVM_EPT_VIEW_MAP_NR: u32 = 0xf1;
/// Number of `KVM_EPT_VIEW_SEAL`, on a template fd, with an [`EptViewSeal`].
pub const KVM_EPT_VIEW_SEAL_NR: u32 = 0xf2;
/// Number of `KVM_ATTACH_EPT_VIEW`, on a vCPU fd, with an [`AttachEptView`].
pub const KVM_ATTACH_EPT_VIEW_NR: u32 = 0xf3;
/// Number of `KVM_DETACH_EPT_VIEW`, on a vCPU fd, with a [`DetachEptView`].
pub const KVM_DETACH_EPT_VIEW_NR: u32 = 0xf4;
/// Number of `KVM_GET_EPT_VIEW_STATS`, on a vCPU fd, with an [`EptViewStats`], read and written.
pub const KVM_GET_EPT_VIEW_STATS_NR: u32 = 0xf5;
/// Number of `KVM_EPT_VIEW_GRANT`, on a template fd, with an [`EptViewGrant`]: returns a grant fd.
pub const KVM_EPT_VIEW_GRANT_NR: u32 = 0xf6;
/// Number of `KVM_EPT_VIEW_REVOKE`, on a template fd, with an [`EptViewRevoke`]: returns how many
/// grants had that id.
pub const KVM_EPT_VIEW_REVOKE_NR: u32 = 0xf7;
/// Number of `KVM_GET_EPT_VIEW_INFO`, on a template fd, with an [`EptViewInfo`], written.
pub const KVM_GET_EPT_VIEW_INFO_NR: u32 = 0xf8;
/// Number of `KVM_EPT_VIEW_BELLS`, on a template fd, with an [`EptViewBells`].
pub const KVM_EPT_VIEW_BELLS_NR: u32 = 0xf9;

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

/// Largest [`EptViewBells::bells`]: as many as a NIC has RX queues at most.
pub const MAX_BELLS: u32 = 256;

/// Argument of `KVM_EPT_VIEW_BELLS`, before the template is sealed: the eventfds that KVM signals at
/// the end of a hypercall for the RX queues that are asleep.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EptViewBells {
    /// Address in the caller's address space of the eventfds' descriptors, an `i32` each: that at
    /// index `q` is the bell of the RX queue of number `q` in the whole NIC.
    pub fds: u64,
    /// How many there are, 1 to [`MAX_BELLS`].
    pub bells: u32,
    /// Must be zero.
    pub flags: u32,
    /// Must be zero.
    pub reserved: [u64; 2],
}

/// A right to call a service: by three VMFUNCs. Its view holds the EPTP list, so sealing a template
/// with it needs `CAP_SYS_RAWIO`.
pub const RIGHT_FAST: u32 = 1;
/// A right to call a service: by four VMFUNCs; the service cannot reach the EPTP list.
pub const RIGHT_STRICT: u32 = 2;
/// A right to call a service: by VMCALL, in the host's kernel. Sealing a template with it needs
/// `CAP_SYS_RAWIO` and the module's parameter `ept_views_hypercall`.
pub const RIGHT_HYPERCALL: u32 = 4;

/// Argument of `KVM_EPT_VIEW_SEAL`: the template is immutable from then on.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EptViewSeal {
    /// The rights that grants of the template can have: [`RIGHT_FAST`], [`RIGHT_STRICT`],
    /// [`RIGHT_HYPERCALL`], at least one.
    pub rights: u32,
    /// Must be zero.
    pub flags: u32,
    /// Address of the service's entry, in an executable mapping.
    pub entry_gva: u64,
    /// First byte of the service's data, given to it on the hypercall path. Mapped read and write.
    pub data_gva: u64,
    /// Size of the data, in bytes.
    pub data_size: u64,
    /// Must be zero.
    pub reserved: [u64; 4],
}

/// Largest [`EptViewGrant::members`].
pub const MAX_MEMBERS: u32 = 1024;

/// Argument of `KVM_EPT_VIEW_GRANT`: makes a grant, the only thing that a VMM is handed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EptViewGrant {
    /// What `KVM_EPT_VIEW_REVOKE` names the grant by; several grants may have the same.
    pub id: u64,
    /// The rights it gives, a subset of [`EptViewSeal::rights`].
    pub rights: u32,
    /// How many vCPUs can be attached at the same time: members 0 to this, exclusive.
    pub members: u32,
    /// The words that say who is calling; see [`crate::view::CallPage::caller`].
    pub caller: [u64; 8],
    /// Must be zero.
    pub flags: u32,
    /// Must be zero.
    pub reserved: [u32; 11],
}

/// Argument of `KVM_EPT_VIEW_REVOKE`: when it returns, no vCPU is in a view by any grant with this
/// id, and none can enter.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EptViewRevoke {
    /// As in [`EptViewGrant::id`].
    pub id: u64,
    /// Must be zero.
    pub flags: u32,
    /// Must be zero.
    pub reserved: [u32; 5],
}

/// Result of `KVM_GET_EPT_VIEW_INFO`: what a template costs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EptViewInfo {
    /// Bytes of user pages that are pinned, once for all grants and attachments.
    pub pinned_bytes: u64,
    /// Bytes of the kernel's own pages: page tables, copies of code, lists of pages.
    pub kernel_bytes: u64,
    /// Bytes of the kernel's own pages that one more attachment takes.
    pub attachment_bytes: u64,
    /// Bytes of the pinned pages that EPT maps by 2 MiB pages.
    pub bytes_in_2m: u64,
    /// Grants that exist and are not revoked.
    pub grants: u32,
    /// Attachments that exist.
    pub attachments: u32,
    /// Reads as zero.
    pub reserved: [u64; 3],
}

/// [`AttachEptView::flags`]: an aborted call also returns to user space with [`KVM_EXIT_EPT_VIEW`].
pub const ATTACH_EXIT_ON_ABORT: u32 = 1;

/// Argument of `KVM_ATTACH_EPT_VIEW`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttachEptView {
    /// File descriptor of a grant.
    pub grant_fd: i32,
    /// Number of the gate, below [`crate::view::SLOTS`].
    pub slot: u32,
    /// Number of the vCPU among those of the grant, below [`EptViewGrant::members`]. It is
    /// attached to one vCPU at a time.
    pub member: u32,
    /// The one right to use.
    pub right: u32,
    /// [`ATTACH_EXIT_ON_ABORT`].
    pub flags: u32,
    /// Must be zero.
    pub reserved: [u32; 3],
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

/// Argument and result of `KVM_GET_EPT_VIEW_STATS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EptViewStats {
    /// Argument: number of the gate, as in [`AttachEptView::slot`].
    pub slot: u32,
    /// Must be zero.
    pub flags: u32,
    /// Number of calls that ended in an abort.
    pub aborts: u64,
    /// Number of calls whose return KVM completed because an event was waiting.
    pub deferred_leaves: u64,
    /// Number of VM exits, of any reason, that were taken while the view or its gate was active.
    pub exits_in_view: u64,
    /// Number of requests served by VMCALL.
    pub hypercalls: u64,
    /// 1 once the grant has been revoked.
    pub revoked: u32,
    /// 1 if the vCPU could have entered views when it last ran.
    pub armed: u32,
    /// Number of bells that were rung at the end of a request served by VMCALL.
    pub bells: u64,
    /// Reads as zero.
    pub reserved: u64,
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

/// Exit reason, in the tracepoint `kvm_ept_view_abort`, of a call that an ioctl aborted.
pub const ABORT_BY_IOCTL: u32 = 0x4550_0001;
/// Exit reason, in the tracepoint, of a call that an INIT aborted.
pub const ABORT_BY_INIT: u32 = 0x4550_0002;
/// Exit reason, in the tracepoint, of a call that a revocation aborted.
pub const ABORT_BY_REVOKE: u32 = 0x4550_0003;
/// Exit reason, in the tracepoint, of a call that detaching its view aborted.
pub const ABORT_BY_DETACH: u32 = 0x4550_0004;

const _: () = assert!(size_of::<CreateEptView>() == 16);
const _: () = assert!(size_of::<EptViewMap>() == 48);
const _: () = assert!(size_of::<EptViewBells>() == 32);
const _: () = assert!(size_of::<EptViewSeal>() == 64);
const _: () = assert!(size_of::<EptViewGrant>() == 128);
const _: () = assert!(size_of::<EptViewRevoke>() == 32);
const _: () = assert!(size_of::<EptViewInfo>() == 64);
const _: () = assert!(size_of::<AttachEptView>() == 32);
const _: () = assert!(size_of::<DetachEptView>() == 16);
const _: () = assert!(size_of::<EptViewStats>() == 64);
const _: () = assert!(size_of::<AbortExit>() == 40);
const _: () = assert!(MAX_BELLS == MAX_SENDERS && MAX_BELLS as usize == BELL_WORDS * 64);
