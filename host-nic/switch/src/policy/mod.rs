//! What a port may send and receive: rules that the host sets and callers apply to each frame.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`snapshot`], [`headers`] | the first bytes of a frame, read once, and what they say |
//! | [`acl`] | lists of rules on the fields of layers 2 to 4 |
//! | [`rate`] | rate limits: a token bucket in one word |
//! | [`vlan`] | IEEE 802.1Q: which VLANs a port belongs to |
//!
//! Everything here lies in host-owned memory, is made of atomics, and all zero means *off*. The host
//! installs settings as plain words (`Acl::install`, `Bucket::install`, `Vlan::install`) while callers
//! use them; nobody waits for anybody. The words come from policies as people write them, which the
//! crate `postern-nic-client` defines.

pub mod acl;
pub mod headers;
pub mod rate;
pub mod snapshot;
pub mod vlan;
