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
//! | [`table`], [`copy`] | MAC table; the copy of a frame |
//! | [`offload`] | checksums and large segments, done for receivers that cannot |
//! | [`policy`] | what a port may send and receive: headers, rules, rate limits, VLANs |
//! | [`tenant`] | handing a port from one guest to the next |
//! | `direct` (feature) | requests by a plain call |
//! | [`image`] | the core as a program for the NIC view |
//!
//! With the feature `std` (on by default) the crate is also the owner of a NIC on a Linux host:
//!
//! | module | what it is |
//! | --- | --- |
//! | `memory` | sealed memfds, mapped side by side |
//! | `view` | NIC views, made by the patched KVM |
//! | `server`, `client`, `protocol` | ports let to VMMs over a Unix socket |
//! | `control` | what is asked of the owner of a running NIC, and its answers |
//! | `port` | a port that the owner, or another program with the whole NIC, uses itself |
//! | `counters` | what people and programs read of it |
//! | `uplink` | ports joined to real interfaces: TAP, AF_PACKET, AF_XDP |
//! | `capture` | frames to and from pcap and pcapng files |
#![cfg_attr(not(any(feature = "std", test)), no_std)]

pub mod caller;
pub mod copy;
#[cfg(feature = "direct")]
pub mod direct;
pub mod image;
pub mod offload;
pub mod policy;
pub mod state;
pub mod switch;
#[cfg(not(loom))]
mod sync;
#[cfg(loom)]
pub mod sync;
pub mod table;
pub mod tenant;

#[cfg(feature = "std")]
pub mod capture;
#[cfg(feature = "std")]
pub mod client;
#[cfg(feature = "std")]
pub mod control;
#[cfg(feature = "std")]
pub mod counters;
#[cfg(feature = "std")]
mod mapping;
#[cfg(feature = "std")]
pub mod memory;
#[cfg(feature = "std")]
pub mod port;
#[cfg(feature = "std")]
pub mod protocol;
#[cfg(feature = "std")]
pub mod server;
#[cfg(feature = "std")]
mod socket;
#[cfg(feature = "std")]
pub mod uplink;
#[cfg(feature = "std")]
pub mod view;
