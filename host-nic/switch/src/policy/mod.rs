//! Policies: settings of ports that the host makes and calls apply to each frame.
//!
//! | module | object |
//! | --- | --- |
//! | [`snapshot`], [`headers`] | the first bytes of a frame, read once, and the headers in them |
//! | [`acl`] | access lists: rules on the fields of layers 2 to 4 |
//! | [`reserved`] | group addresses that no bridge forwards, and sources that nobody has |
//! | [`rate`] | rate limits: a token bucket in one word |
//! | [`vlan`] | the VLANs that a port belongs to (IEEE 802.1Q) |
//!
//! All settings lie in host-owned memory and are made of atomics, and all zero means *off*. The
//! host installs them as plain words (`Acl::install`, `Bucket::install`, `Vlan::install`) while
//! calls use them, and neither waits for the other. The words come from policies as people write
//! them, which the crate `postern-nic-client` defines.
#![deny(unsafe_code)]
pub mod acl;
pub mod headers;
pub mod rate;
pub mod reserved;
pub mod snapshot;
pub mod vlan;
