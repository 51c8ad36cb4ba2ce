//! Postern's shared software NIC: a learning switch between the windows of several VMs.
//!
//! The core is `no_std`, allocates nothing, takes no lock, calls nothing through a pointer and cannot
//! panic. It works on one block of memory, switch state followed by the ports' windows, and the
//! same code runs in every place: in a view of the guest, in the host's kernel, in the VMM, in a
//! guest, and natively.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`postern_abi::window`] | the picture of a window: rings and packet buffers |
//! | [`state`] | the picture of the host-owned memory |
//! | [`caller`] | the word that says who calls, and the geometry of the NIC |
//! | [`switch`] | requests: lookup pass, delivery pass |
//! | [`ring`], [`frame`], [`table`] | access to hostile rings; reading and copying a frame; MAC table |
//! | [`tenant`] | handing a port from one guest to the next |
//! | [`image`] | the core as a program for the NIC view |
//!
//! With the feature `std` (on by default) the crate is also the owner of a NIC on a Linux host:
//!
//! | module | what it is |
//! | --- | --- |
//! | `memory` | sealed memfds, mapped side by side |
//! | `view` | NIC views, made by the patched KVM |
//! | `server`, `client`, `protocol` | ports let to VMMs over a Unix socket |
//! | `counters` | what people and programs read of it |
#![cfg_attr(not(any(feature = "std", test)), no_std)]

pub mod caller;
pub mod frame;
pub mod image;
pub mod ring;
pub mod state;
pub mod switch;
pub mod table;
pub mod tenant;

#[cfg(feature = "std")]
pub mod client;
#[cfg(feature = "std")]
pub mod counters;
#[cfg(feature = "std")]
mod mapping;
#[cfg(feature = "std")]
pub mod memory;
#[cfg(feature = "std")]
pub mod protocol;
#[cfg(feature = "std")]
pub mod server;
#[cfg(feature = "std")]
mod socket;
#[cfg(feature = "std")]
pub mod view;
