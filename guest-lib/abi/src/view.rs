//! Guest-virtual and guest-physical layout of views, and the call convention of the gate.
//!
//! ```text
//!   guest-virtual              default view   gate view        NIC view
//!   GATE_AREA_GVA      page A  guest code     -                -
//!   GATE_GVA           page B  -              gate (X)         entry stub (X)
//!   GATE_GVA + 0x1000  page C  guest code     -                -
//!   STACK_GVA                  -              -                stack (RW, one a vCPU)
//!   CALL_PAGE_GVA              -              -                call page (RW, one a vCPU)
//!   LIST_GVA                   -              EPTP list (RW)   EPTP list (RW), fast mode only
//!   IMAGE_GVA                  -              -                service image (R, X)
//!   DATA_GVA                   -              -                switch state, windows (RW)
//! ```
//!
//! Each of the [`SLOTS`] has a gate view and a service's view like these, at the same addresses;
//! the EPTP list is one a vCPU.
//!
//! Every page of a view is a user page (U=1) of page tables that the kernel makes. The rights of a
//! view to a page are those of its EPT entry alone.
//!
//! The indices of [`GATE_GVA`] and [`LIST_GVA`] in the four levels of page tables are chosen so
//! that no lower-level table of a view, taken for a root, translates the gate: the level-4 index
//! (32) is not among the indices used at the levels below (1; 2, 50, 60; 3, 99, ...). A CR3 that
//! points at such a table therefore faults at the first fetch (Intel SDM volume 3, "4-Level Paging
//! and 5-Level Paging").
#![forbid(unsafe_code)]

use crate::{ABI_VERSION, PAGE_SIZE};

/// Address of page A: the guest's own code, whose last three bytes are VMFUNC. It serves the gates
/// of all slots: its caller says in ECX which.
pub const GATE_AREA_GVA: u64 = GATE_GVA - PAGE_SIZE;

/// Address of page B: the gate in the gate view, the entry stub in a NIC view.
pub const GATE_GVA: u64 = (32 << 39) | (1 << 30) | (2 << 21) | (3 << 12);

/// Address of the NIC view's entry stub: right behind the gate's VMFUNC, which ends 14 bytes into
/// page B (`STUB_OFFSET` of the kernel module).
pub const STUB_GVA: u64 = GATE_GVA + 14;

/// Address of page C: the guest's own landing pad, entered by the VMFUNC at the end of page B.
pub const LANDING_GVA: u64 = GATE_GVA + PAGE_SIZE;

/// Distance in bytes from page B to the page of the EPTP list. It is part of the instruction with
/// which the gate arms an entry; this value keeps every other decoding of those bytes harmless.
pub const LIST_DISTANCE: u64 = 0x0606_0000;

/// Address of the page that holds the vCPU's EPTP list.
pub const LIST_GVA: u64 = GATE_GVA + LIST_DISTANCE;

/// Address of the stack that a service runs on; there is one stack a vCPU and view.
pub const STACK_GVA: u64 = (32 << 39) | (1 << 30) | (60 << 21);

/// Size of the stack in bytes. The page below it is never mapped.
pub const STACK_SIZE: u64 = 4 * PAGE_SIZE;

/// Address of the host-owned page that says who is calling, a [`CallPage`].
pub const CALL_PAGE_GVA: u64 = STACK_GVA + STACK_SIZE + PAGE_SIZE;

/// Address of the flat image of a service. Within 2 GiB of page B, as the stub's call needs.
pub const IMAGE_GVA: u64 = (32 << 39) | (1 << 30) | (128 << 21);

/// End of the addresses that can be mapped in a view, which begin at [`IMAGE_GVA`].
pub const MAP_GVA_END: u64 = 33 << 39;

/// Largest size of an image, in bytes.
pub const MAX_IMAGE_SIZE: u64 = 16 << 20;

/// Address of the data of a service (for the NIC: switch state, then windows).
pub const DATA_GVA: u64 = (32 << 39) | (4 << 30);

/// First guest-physical address of the range R that only views use; no memory slot may touch it.
pub const RESERVED_GPA: u64 = 256 << 30;

/// Size of the range R, in bytes.
pub const RESERVED_GPA_SIZE: u64 = 64 << 30;

/// EPTP-list index of KVM's own hierarchy.
pub const DEFAULT_INDEX: u32 = 0;

/// Number of services that a vCPU can have side by side, each with a gate of its own.
pub const SLOTS: u32 = 8;

/// EPTP-list index of a slot's gate view. The default view can enter gate views only.
pub const fn gate_index(slot: u32) -> u32 {
    1 + slot
}

/// EPTP-list index of each slot's service view; invalid unless the slot's gate has armed it.
///
/// The index is part of the gate's code; these keep every decoding of its bytes harmless.
pub const SERVICE_INDICES: [u32; SLOTS as usize] = [0xcc, 0x92, 0x95, 0x96, 0xa8, 0xb2, 0xb5, 0xb6];

/// Number of VMFUNCs of one call in fast mode.
pub const VMFUNCS_FAST: u64 = 3;

/// Number of VMFUNCs of one call in strict mode.
pub const VMFUNCS_STRICT: u64 = 4;

/// The call page: the kernel's words to the service about who is calling. It is mapped at
/// [`CALL_PAGE_GVA`], private to one vCPU and one view, never writable outside the view.
///
/// The call convention, in both directions, is close to that of a System V function:
///
/// | register | into the service | back to the caller |
/// | --- | --- | --- |
/// | RAX | used by the gate | 0 |
/// | RCX | [`gate_index`] of the slot, for page A; used by the gate | 0 |
/// | RDI, RSI, RDX | request, first and second argument | 0, 0, result |
/// | R8 to R11 | undefined | 0 |
/// | RBX, RBP, R12 to R15 | the guest's | the guest's |
/// | RSP | the view's stack | the guest's |
///
/// Vector registers are the guest's, in both directions. A service may use those that its caller
/// lends it ([`TX_AVX`](crate::service::TX_AVX)), and returns none with anything in it that was not
/// the guest's. A call that is aborted loses them all: they are zero.
#[repr(C)]
#[derive(Debug)]
pub struct CallPage {
    /// The guest's RSP while the service runs; written by the entry stub.
    pub saved_rsp: u64,
    /// Number of this vCPU among those of the grant.
    pub member: u32,
    /// A word of the service's own, zero at first. The kernel neither reads nor writes it. The NIC
    /// notes the lower half of the request's second argument there.
    pub note: u32,
    /// Always zero.
    pub reserved: [u32; 12],
    /// The words of the grant, which say who is calling. The kernel does not look into them.
    pub caller: [u64; 8],
}

const _: () = assert!(size_of::<CallPage>() == 128);
const _: () = assert!((GATE_GVA >> 39) & 511 == 32 && (LIST_GVA >> 39) & 511 == 32);
const _: () = assert!(IMAGE_GVA + MAX_IMAGE_SIZE - GATE_GVA < 1 << 31);
// The list, taken for a root of page tables, must not translate the gate either.
const _: () = {
    let mut slot = 0;
    while slot < SERVICE_INDICES.len() {
        let index = SERVICE_INDICES[slot];
        assert!(index as u64 != (GATE_GVA >> 39) & 511 && gate_index(SLOTS - 1) < index);
        assert!(index <= u8::MAX as u32, "the gate loads a byte");
        slot += 1;
    }
    assert!((gate_index(SLOTS - 1) as u64) < (GATE_GVA >> 39) & 511);
};

/// First bytes of a service's program image for a view.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageHeader {
    /// [`ImageHeader::MAGIC`].
    pub magic: u64,
    /// [`ABI_VERSION`] that the image was built with.
    pub abi_version: u32,
    /// Zero.
    pub reserved: u32,
}

impl ImageHeader {
    /// "PSTNIMAG", little endian.
    pub const MAGIC: u64 = u64::from_le_bytes(*b"PSTNIMAG");

    /// The header of an image that is built now.
    pub const CURRENT: ImageHeader = ImageHeader {
        magic: ImageHeader::MAGIC,
        abi_version: ABI_VERSION,
        reserved: 0,
    };
}
