//! The guest side of Postern: how a VM calls a service of the host without leaving guest mode, and
//! how it sends and receives packets that way.
//!
//! The library has layers, each of which can be used without the one above it:
//!
//! | layer | module | object |
//! | --- | --- | --- |
//! | a port on Linux | `linux` | the device in sysfs, its memory, a `Nic` for each queue (feature `std`) |
//! | a port | [`nic`] | [`Nic`](nic::Nic): bursts of frames out and in, counters |
//! | rings | [`ring`] | the guest's ends of the rings in its window |
//! | a call | [`service`] | one request to the host, on any path |
//! | a call | `direct` | a call without a gate, where all of the NIC is mapped (feature `direct`) |
//! | a call | [`gate`] | the two pages of code through which a VMFUNC call goes |
//!
//! [`frames`] has the frames that test guests send to each other.
//!
//! Numbers and layouts are those of [`postern_abi`]. The library is `no_std` but for its top layer,
//! allocates nothing and starts no thread; it suits a kernel, a user program and bare metal alike.
//!
//! # Example
//!
//! Two ports of a NIC whose memory is all mapped here, so that a request is a call of the switch in
//! this very program (the path `direct`). In a VM the service is a [`Gate`](gate::Gate) instead,
//! and the window is what the VMM maps for the VM; all else is the same.
//!
//! ```
//! use postern_abi::window::Geometry;
//! use postern_guest::nic::Nic;
//! use postern_guest::direct::Direct;
//! use postern_nic_client::memory::{Memory, draw_secret};
//!
//! // A NIC of two ports with one queue, TX rings and lanes of 64 KiB, and a guest on each port.
//! let memory = Memory::create(Geometry::new(2, 1, 64 << 10, 64 << 10)?)?;
//! let mut nics = Vec::new();
//! for port in memory.geometry().all_ports() {
//!     let mac = [2, 0, 0, 0, 0, port.number() as u8];
//!     memory.switch().admit(port, 1, draw_secret()?, mac);
//!     // SAFETY: the NIC's memory is mapped there as long as `memory` lives, which is longer than
//!     // `nics`; no reference to it exists.
//!     let (direct, window) = unsafe { Direct::new(memory.base(), memory.size(), port)? };
//!     nics.push(Nic::new(direct, window));
//! }
//! let [sender, receiver] = &mut nics[..] else { unreachable!("there are two ports") };
//!
//! // A frame to everybody. One call moves it from the sender's ring to the receiver's lane.
//! let mut frame = [0; 60];
//! frame[0..6].fill(0xff);
//! frame[6..12].copy_from_slice(&sender.mac());
//! assert_eq!(sender.tx_burst(&[frame]), 1);
//! assert_eq!(sender.stats().calls, 1);
//!
//! // Receiving polls the window and makes no call.
//! let mut copy = [0; 60];
//! assert_eq!(receiver.rx_burst(32, |frame| frame.copy_to(&mut copy)), 1);
//! assert_eq!(copy, frame);
//! assert_eq!(receiver.stats().calls, 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![cfg_attr(not(any(test, feature = "std")), no_std)]

#[cfg(feature = "direct")]
pub mod direct;
pub mod frames;
pub mod gate;
#[cfg(all(feature = "std", target_os = "linux", target_arch = "x86_64"))]
pub mod linux;
pub mod nic;
pub mod ring;
pub mod service;
