//! What a VM monitor or a tool needs to talk to the owner of a shared NIC.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`request`] | asking an owner: for a port, for counters, for a change |
//! | [`protocol`] | records and descriptors that go over the owner's Unix socket |
//! | [`control`] | what is asked of the owner of a running NIC, and its answers, as JSON |
//! | [`policy`] | policies of ports as people and programs write them, and how they become words of the switch |
//! | [`counters`] | what ports have sent, received and dropped |
//! | [`memory`] | a NIC's memory: sealed memfds, mapped side by side |
//! | [`socket`] | records with descriptors over a Unix socket |

pub mod control;
pub mod counters;
pub mod mapping;
pub mod memory;
pub mod policy;
pub mod protocol;
pub mod request;
pub mod socket;
