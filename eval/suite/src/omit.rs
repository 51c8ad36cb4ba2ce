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
