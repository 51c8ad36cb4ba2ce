//! The policy of a port as people and programs write it, and how it becomes words of the switch.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`port`] | all settings of one port |
//! | [`rule`] | one rule of an access list: text, fields, words |
//! | [`acl`] | a list of rules |
//! | [`rate`] | a rate limit |
//! | [`vlan`] | VLANs of a port |
#![deny(unsafe_code)]

pub mod acl;
pub mod port;
pub mod rate;
pub mod rule;
pub mod vlan;
