//! The switch of Postern's shared NIC: a learning Ethernet switch between the windows of several VMs.
//!
//! It is `no_std`, allocates nothing, takes no lock, calls nothing through a pointer and cannot panic. It
//! works on one block of memory, switch state followed by the ports' windows, and the same code runs
//! in every place: in a view of the guest, in the host's kernel, in the VMM, in a guest, and natively.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`postern_abi::window`] | the picture of a window: rings and packet buffers |
//! | [`layout`] | where everything lies in the memory |
//! | [`state`] | the picture of the host-owned memory |
//! | [`credentials`] | the words that say who calls |
//! | [`switch`] | requests: take, look up, learn, deliver, publish |
//! | [`fdb`], [`copy`] | forwarding database; the copy of a frame |
//! | [`offload`] | checksums and large segments, done for receivers that cannot |
//! | [`policy`] | what a port may send and receive: headers, rules, rate limits, VLANs |
//! | [`tenant`] | handing a port from one guest to the next |
//!
//! The feature `std` lets the copy of native programs use the widest vector registers of the processor.
#![cfg_attr(not(any(feature = "std", test)), no_std)]

pub mod copy;
pub mod credentials;
pub mod fdb;
pub mod layout;
pub mod offload;
pub mod policy;
pub mod state;
pub mod switch;
#[cfg(not(loom))]
mod sync;
#[cfg(loom)]
pub mod sync;
pub mod tenant;
