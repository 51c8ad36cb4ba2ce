//! The numbers, layouts and text formats that two sides of Postern share.
//!
//! A side is a program that is built by itself: the guest, the NIC's image in a view, the kernel
//! module, the VM monitor (VMM), the owner of a NIC, the emulated machine. Whatever one of them
//! writes and another reads is defined in this crate, once, and nothing else is.
//!
//! | module | what it defines | shared by |
//! | --- | --- | --- |
//! | [`view`] | the layout of an EPT view, and the registers of a call | module, guest, NIC image |
//! | [`kvm`] | the module's ioctls: numbers, arguments, exit reason | module, VMM, owner |
//! | [`service`] | requests to the NIC: numbers, arguments, results | guest, module, VMM, NIC |
//! | [`window`] | the memory that a guest shares with the NIC: rings, positions | guest, NIC |
//! | [`platform`] | a VM as its guest sees it: addresses, I/O ports, paths | guest, VMM |
//! | [`port_word`] | the command-line word that describes a VM's NIC port | guest, VMM |
//! | [`nic_device`] | the VM's NIC port as a PCI device | guest, VMM |
//! | [`guest_words`] | what the bare guest prints and others look for | guest, tests |
//! | [`emulated`] | exact event counters of the emulated machine | emulated machine, VMM |
//! | [`source`] | labels of figures: which kind of machine they come from | VMM, benchmarks |
//!
//! The crate depends on nothing, allocates nothing and is `no_std`. No number of it is written a
//! second time in Rust. The kernel module has its own header (`kvm_ept_view.h`, added by the first
//! kernel patch), and a test compares the two.
//!
//! # Example
//!
//! Where everything is in a window follows from the geometry of the NIC: its numbers of ports and
//! queues, and the sizes of a TX ring and of a lane in bytes.
//!
//! ```
//! use postern_abi::window::{Geometry, RecordHeader, record_size};
//!
//! let geometry = Geometry::new(4, 1, 64 << 10, 16 << 10)?;
//! let port = geometry.port(2).expect("the NIC has ports 0 to 3");
//!
//! // A frame of 60 bytes in a ring: a header of 16 bytes, the frame, padding to a multiple of 16.
//! assert_eq!(record_size(60), 80);
//! let (first, second) = RecordHeader::plain(60).words();
//! assert_eq!(RecordHeader::from_words(first, second).length, 60);
//!
//! // Where the frames of lane 2 of a port's first RX queue lie in its window.
//! let lane = geometry.lane_offset(0, 2);
//! assert!(lane + u64::from(geometry.lane()) <= geometry.window_size());
//! # Ok::<(), postern_abi::window::GeometryError>(())
//! ```
#![cfg_attr(not(test), no_std)]
#![deny(unsafe_code)]

pub mod emulated;
pub mod guest_words;
pub mod kvm;
pub mod nic_device;
pub mod platform;
pub mod port_word;
pub mod service;
pub mod source;
pub mod view;
pub mod window;

/// Version of everything in this crate. It changes whenever a layout or a number does; a guest, a
/// NIC image and a host that disagree refuse to work together.
pub const ABI_VERSION: u32 = 6;

/// Size of a small page, in bytes.
pub const PAGE_SIZE: u64 = 4096;
