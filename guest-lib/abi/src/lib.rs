//! Everything two sides of Postern must agree on, and nothing else.
//!
//! | module | agreed between |
//! | --- | --- |
//! | [`view`] | kernel module, guest library, NIC image: where things lie in a view, how a call passes registers |
//! | [`kvm`] | kernel module and host programs: ioctls, capability, exit reason |
//! | [`service`] | guest, kernel, VMM, NIC: request numbers and their results |
//! | [`window`] | guest and NIC: rings |
//! | [`machine`] | guest and VMM: port I/O devices, guest-physical layout, command line |
//! | [`port_word`] | guest and VMM: the word of the command line that describes a NIC port |
//! | [`emulated`] | emulated machine and host programs: exact counters |
//!
//! No number of these is written a second time anywhere in Rust; the C side has its own header
//! (`kvm_ept_view.h`, added by the kernel patch) and a test compares the two.
#![cfg_attr(not(test), no_std)]

pub mod emulated;
pub mod kvm;
pub mod machine;
pub mod port_word;
pub mod service;
pub mod view;
pub mod window;

/// Version of everything in this crate. It changes whenever a layout or a number does; a guest, a
/// NIC image and a host that disagree refuse to work together.
pub const ABI_VERSION: u32 = 2;

/// Size of a small page, in bytes.
pub const PAGE_SIZE: u64 = 4096;
