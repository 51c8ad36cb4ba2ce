//! What a VM monitor or a tool needs to talk to the owner of a shared NIC.
//!
//! The *owner* of a NIC is the process that made its memory. It listens at a Unix socket. A client
//! that asks for a *port* becomes its *tenant* for as long as the connection stands, and gets
//! descriptors: of a view of the NIC, or of the NIC's memory, as the *path* of its requests needs
//! it. A client may also ask for counters, and have the owner change policies, uplinks and
//! captures.
//!
//! From the socket up:
//!
//! | module | what it is |
//! | --- | --- |
//! | [`socket`] | records with descriptors over a Unix socket |
//! | [`protocol`] | the records of this protocol, and which descriptors come with them |
//! | [`control`] | requests for a change or for a report, and their answers, as JSON |
//! | [`request`] | functions that ask an owner: for a port, for counters, for a change |
//! | [`memory`], [`mapping`] | a NIC's memory: sealed memfds, mapped side by side |
//! | [`bells`] | what wakes the guests of RX queues: an eventfd each |
//! | [`counters`] | numbers of frames that ports have sent, received and dropped |
//! | [`policy`], [`mac`] | policies of ports as people write them, compiled for the switch |
//! | [`mod@file`] | files that people name, read with a limit |
//! | [`serde_as_text!`] | values that files have as text |
//!
//! # Example
//!
//! A program asks for a port on the path `exit-user`, on which it gets the memory of the whole NIC
//! and makes the requests of its guest itself. Here the owner is a thread.
//!
//! ```
//! use postern_abi::platform::CallPath;
//! use postern_abi::service::OP_NOP;
//! use postern_abi::window::Geometry;
//! use postern_nic_client::memory::Memory;
//! use postern_nic_client::protocol::AccessFds;
//! use postern_nic_client::request;
//! use postern_nic_owner::server::{Server, ServerOptions};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let socket = directory.path().join("nic");
//! // Two ports of one queue, TX rings and lanes of 64 KiB.
//! let geometry = Geometry::new(2, 1, 64 << 10, 64 << 10).expect("within the limits");
//! let mut owner = Server::bind(&ServerOptions::new(&socket, geometry))?;
//! let stopper = owner.stopper();
//! let owner = std::thread::spawn(move || owner.run(|event| eprintln!("{event}")));
//!
//! let tenancy = request::port(&socket, 1, CallPath::ExitUser)?;
//! assert_eq!(tenancy.geometry(), geometry);
//! let AccessFds::Memory { state, windows } = tenancy.fds.access else {
//!     panic!("exit-user works with the NIC's memory");
//! };
//! let memory = Memory::open(state, windows)?;
//! let result = memory.serve(&tenancy.credentials, 0, OP_NOP, 0, 0);
//! assert_eq!(result, 0);
//!
//! let counters = request::counters(&socket)?;
//! assert!(counters.ports[1].attached);
//!
//! stopper.stop();
//! owner.join().expect("the owner does not panic")?;
//! # Ok(())
//! # }
//! ```
#![deny(missing_debug_implementations)]

pub mod bells;
pub mod control;
pub mod counters;
pub mod file;
pub mod mac;
pub mod mapping;
pub mod memory;
pub mod policy;
pub mod protocol;
pub mod request;
mod signal;
pub mod socket;
mod text;
