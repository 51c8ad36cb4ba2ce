//! The switch of Postern's shared NIC: a learning Ethernet switch between the windows of several
//! VMs.
//!
//! It is `no_std`, allocates nothing, takes no lock, calls nothing through a pointer and cannot
//! panic. It works on one block of memory, switch state followed by the ports' windows. The same
//! code runs wherever a path takes a guest's call: in a view of the guest, in the host's kernel, in
//! the VMM, in the guest itself, and in native programs.
//!
//! # Layers
//!
//! Each layer uses only those below it:
//!
//! | layer | module | object |
//! | --- | --- | --- |
//! | requests | [`switch`] | [`serve`](switch::serve): take, look up, learn, fan out, emit, publish |
//! | the host's side | [`switch`], [`tenant`], [`turns`] | [`Switch`](switch::Switch): state and windows; tenants that come and go; lanes that senders share |
//! | frames | [`policy`] | what a port may send and receive: headers, access lists, rate limits, VLANs |
//! | frames | [`offload`] | checksums and large segments, done for receivers that do not do them |
//! | frames | [`copy`] | the copy of a frame from window to window |
//! | who calls | [`credentials`] | the words that say who calls, from which all offsets follow |
//! | memory | [`state`], [`fdb`] | the host-owned memory, and the forwarding database in it |
//! | memory | [`layout`] | offset and size of each part of the memory |
//! | memory | [`postern_abi::window`] | the memory shared with a guest: rings of records |
//!
//! # Example
//!
//! Two ports in one block of memory. A guest's work, which `postern-guest` does otherwise, is done
//! by hand here, so that every word that takes part is seen.
//!
//! ```
//! use std::sync::atomic::AtomicU64;
//! use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
//!
//! use postern_abi::service::OP_TX;
//! use postern_abi::window::{Geometry, Published, RecordHeader, record_size};
//! use postern_nic_client::memory::{Memory, draw_secret};
//! use postern_switch::switch::serve;
//!
//! // Two ports of one queue each, with TX rings and lanes of 64 KiB, and a tenant on each port.
//! let memory = Memory::create(Geometry::new(2, 1, 64 << 10, 64 << 10)?)?;
//! let (switch, geometry) = (memory.switch(), memory.geometry());
//! let ports = [0, 1].map(|number| geometry.port(number).expect("there are two"));
//! for port in ports {
//!     let tenancy = 7 + port.number();
//!     switch.admit(port, tenancy, draw_secret()?, [2, 0, 0, 0, 0, port.number() as u8]);
//! }
//! let [sender, receiver] = ports;
//!
//! // The sender's guest writes a record into its TX ring: a header, and a frame of 60 bytes from
//! // port 0 to port 1. Then it moves its producer position behind the record.
//! let mut record = [0; 10];
//! (record[0], record[1]) = RecordHeader::plain(60).words();
//! record[2] = u64::from_le_bytes([2, 0, 0, 0, 0, 1, 2, 0]);
//! record[3] = u64::from_le_bytes([0, 0, 0, 0, 0x88, 0xb5, 0, 0]);
//! let ring = switch.tx_ring(sender, 0).expect("every port has a queue 0");
//! for (index, word) in record.iter().enumerate() {
//!     // SAFETY: the ring has 64 KiB, page aligned; all of the memory is accessed atomically.
//!     let element = unsafe { AtomicU64::from_ptr(ring.cast::<u64>().add(index)) };
//!     element.store(*word, Relaxed);
//! }
//! let producer = switch.tx_producer(sender, 0).expect("every port has a queue 0");
//! producer.store(record_size(60) as u32, Release);
//!
//! // Its vCPU 0 calls. The host knows who calls; the guest says what it wants, and that it is not
//! // any process of its VM, by adding the secret that it has found in its window.
//! let caller = switch.credentials(sender.number())?;
//! let request = caller.secret().request(OP_TX);
//! // SAFETY: the memory is that of the credentials' NIC; all of it is accessed atomically; nobody
//! // else makes calls.
//! let taken = unsafe { serve(memory.base().as_ptr(), &caller, 0, request, 32, 0) };
//! assert_eq!(taken, 1);
//!
//! // The sender has got a lane of the receiver's queue. One word of the window says how far that lane
//! // is filled, and for which tenancy. The lane holds a copy of the record.
//! let from = geometry.sender(sender, 0);
//! let (lane, _) = switch.lane_from(from, receiver.number()).expect("it has sent");
//! let published = switch.published(receiver, 0, lane).expect("the queue has that lane");
//! let expected = Published { position: record_size(60) as u32, tenancy: 8 };
//! assert_eq!(Published::from_word(published.load(Acquire)), expected);
//! let lane = switch.lane_ring(receiver, 0, lane).expect("the queue has that lane");
//! // SAFETY: the lane has 64 KiB, page aligned; all of the memory is accessed atomically.
//! let copy = unsafe { AtomicU64::from_ptr(lane.cast::<u64>().add(2)) };
//! assert_eq!(copy.load(Relaxed), record[2]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Features
//!
//! | feature | effect |
//! | --- | --- |
//! | `std` | for programs on an operating system: the copy uses the processor's widest vector registers |
//! | `view` | for a NIC view: copies use vector registers where the call's caller lends them |
//! | `attack-lock` | TEST ONLY: one lock for all senders, which a sender that stops keeps for ever |
//! | `attack-no-secret` | TEST ONLY: requests are served without the secret of their tenancy too |
//! | `attack-caller-state` | TEST ONLY: copies rely on the direction flag, and leave bytes in vector registers |
//! | `without-policy` | TEST ONLY: no policy is applied, to measure what policies cost |
#![cfg_attr(not(any(feature = "std", test)), no_std)]

pub mod copy;
pub mod credentials;
pub mod fdb;
pub mod layout;
pub mod offload;
pub mod policy;
mod prefetch;
pub mod state;
pub mod switch;
#[cfg(not(loom))]
mod sync;
#[cfg(loom)]
pub mod sync;
pub mod tenant;
pub mod turns;
