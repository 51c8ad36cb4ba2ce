//! The owner of a shared NIC on a Linux host: it creates the memory, lets ports to VM monitors, and
//! keeps policies, uplinks and captures.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`server`] | ports let to VM monitors over a Unix socket, and administration |
//! | [`view`], [`image`] | NIC views, made by the patched KVM out of the switch's program image |
//! | [`policies`] | the policies of all ports, and how they get into force |
//! | [`host_port`] | a port that the owner, or another program with the whole NIC, uses itself |
//! | [`uplink`] | ports joined to real interfaces: TAP, AF_PACKET, AF_XDP |
//! | [`capture`] | frames to and from pcap and pcapng files |

pub mod capture;
pub mod frame_port;
pub mod host_port;
pub mod image;
pub mod policies;
pub mod server;
pub mod uplink;
pub mod view;
