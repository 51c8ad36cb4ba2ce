//! The parts of the test guest that need no bare machine, so that they are tested where the
//! compiler runs: its command line, pcap files, frames, its way to find free memory.
#![cfg_attr(not(test), no_std)]

pub mod beacon;
pub mod cmdline;
pub mod memory_map;
pub mod pcap;
pub mod status;
pub mod synthetic;
