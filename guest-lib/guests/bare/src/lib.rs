//! The parts of the bare guest that run on any host, so that they are tested where the compiler
//! runs.
//!
//! | module | object |
//! | --- | --- |
//! | [`cmdline`] | the command line: role, and its options |
//! | [`status`] | the VM's status at its end |
//! | [`memory_map`] | the search for free RAM |
//! | [`pcap`] | pcap files in memory: reader and writer |
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod cmdline;
pub mod memory_map;
pub mod pcap;
pub mod status;
