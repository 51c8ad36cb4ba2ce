//! Defences that a build for tests of attacks can leave out, as bits of kvm-intel's parameter
//! `ept_view_omit` (`attacks/omit-defences.patch` of a kernel series).

/// The service's entry is invalid until the gate arms it.
pub const ARM: u32 = 1 << 0;
/// Any CR3 leads to page tables of the kernel's making.
pub const ELSEWHERE: u32 = 1 << 1;
/// An abort resets the EPTP list.
pub const DISARM: u32 = 1 << 2;
/// No event is injected into a view.
pub const EVENTS: u32 = 1 << 3;
/// Views need SMEP and SMAP.
pub const MODE: u32 = 1 << 4;
/// Views are not armed while a breakpoint, LBR or BTF is on.
pub const DEBUG: u32 = 1 << 5;
/// An abort gives back the stack pointer of this call, never that of an earlier one.
pub const RSP: u32 = 1 << 6;
/// Setting state from user space aborts a call.
pub const SETTERS: u32 = 1 << 7;
/// A vCPU that has a revoked grant leaves its views.
pub const REVOKE: u32 = 1 << 8;
/// A member of a grant is attached to one vCPU at a time.
pub const MEMBER: u32 = 1 << 9;
/// A vCPU with counters has no views.
pub const PMU: u32 = 1 << 10;
/// A service that has left CPL 3 ends at CPL 3.
pub const CPL: u32 = 1 << 11;
/// Nothing of a service is seen in vector registers: an abort clears them, getters show zeros.
pub const VECTORS: u32 = 1 << 12;
/// The entry stub clears the direction flag.
pub const CLD: u32 = 1 << 13;
