//! What a port may send and receive: rules that the host sets and callers apply to each frame.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`snapshot`], [`headers`] | the first bytes of a frame, read once, and what they say |
//! | [`acl`] | lists of rules on the fields of layers 2 to 4 |
//! | [`rate`] | rate limits: a token bucket in one word |
//! | [`vlan`] | IEEE 802.1Q: which VLANs a port belongs to |
//! | `rule_spec` | rules as people and programs write them (feature `std`) |
//! | `port`, `apply` | the policy of a port, and how it gets into force (feature `std`) |
//!
//! Everything here lies in host-owned memory, is made of atomics, and all zero means *off*. The host
//! changes settings while callers use them; nobody waits for anybody.

pub mod acl;
#[cfg(feature = "std")]
pub mod apply;
pub mod headers;
#[cfg(feature = "std")]
pub mod port;
pub mod rate;
#[cfg(feature = "std")]
pub mod rule_spec;
pub mod snapshot;
pub mod vlan;
