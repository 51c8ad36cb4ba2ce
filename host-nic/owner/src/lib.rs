//! The owner of a shared NIC on a Linux host.
//!
//! The owner is the process that makes a NIC's memory, lets its ports to VM monitors, and keeps its
//! policies, uplinks and captures. No frame passes through it, but for those of uplinks and
//! captures: the switch ([`postern_switch`]) runs where the sender is, and goes on while the owner
//! sleeps or is gone.
//!
//! ```text
//!   clients --- Unix socket ---> server --- holds descriptors ---> keeper (a process)
//!                                  |
//!           template, image        |          policies
//!      (grants for tenants)        |    (what ports may send)
//!                                  |
//!                        memory of the NIC, switch
//!                                  |
//!                      host_port (of the owner's own)
//!                        |                     |
//!                 uplink: interfaces    capture: files
//! ```
//!
//! | module | what it is |
//! | --- | --- |
//! | [`server`] | ports let to VM monitors over a Unix socket, and administration |
//! | [`template`], [`image`] | the NIC's template, made by the patched KVM, and grants of it |
//! | [`installed_policies`] | the policies of all ports, and how they come into force |
//! | [`frame_port`], [`host_port`] | a port as a program of the host uses it |
//! | [`uplink`] | ports joined to real interfaces: TAP, AF_PACKET, AF_XDP |
//! | [`capture`] | frames to and from pcap and pcapng files |
//!
//! # Example
//!
//! A NIC without a server: two programs of the host send to each other. What leaves port 0 is also
//! written to a file, which is sent into port 0 again.
//!
//! ```
//! use std::sync::Arc;
//!
//! use postern_abi::window::Geometry;
//! use postern_nic_client::memory::{Memory, draw_secret};
//! use postern_nic_owner::capture::{Capture, CaptureOptions, Recording, Replay, Tapped};
//! use postern_nic_owner::frame_port::FramePort;
//! use postern_nic_owner::host_port::HostPort;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let file = directory.path().join("port0.pcapng");
//! // Two ports of one queue, TX rings and lanes of 64 KiB.
//! let geometry = Geometry::new(2, 1, 64 << 10, 64 << 10).expect("within the limits");
//! let memory = Arc::new(Memory::create(geometry)?);
//! let mut open = |number| {
//!     let port = geometry.port(number).expect("below the number of ports");
//!     let (tenancy, mac) = (1, [2, 0, 0, 0, 0, number as u8]);
//!     memory.switch().admit(port, tenancy, draw_secret()?, mac);
//!     Ok::<_, Box<dyn std::error::Error>>(HostPort::open(Arc::clone(&memory), port)?)
//! };
//! let (sender, mut receiver) = (open(0)?, open(1)?);
//!
//! let capture = Capture::create(&file, CaptureOptions::default())?;
//! let mut sender = Tapped::new(sender, capture.interface("port 0"));
//! let frame = [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0x88, 0xb5][..], b"a frame"].concat();
//! assert_eq!(sender.send(&[&frame]), 1);
//! assert_eq!(receiver.receive(8, &mut |bytes| assert_eq!(bytes, frame)), 1);
//! capture.finish()?;
//!
//! let recording = Recording::open(&file)?;
//! Replay::default().run(&recording, &mut sender, &|| false);
//! assert_eq!(receiver.receive(8, &mut |bytes| assert_eq!(bytes, frame)), 1);
//! # Ok(())
//! # }
//! ```
#![deny(missing_debug_implementations)]

pub mod capture;
pub mod frame_port;
pub mod host_port;
pub mod image;
pub mod installed_policies;
pub mod server;
pub mod template;
pub mod uplink;
