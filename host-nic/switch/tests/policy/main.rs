//! Policies of ports, through the whole switch.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]
#![allow(
    clippy::cloned_ref_to_slice_refs,
    reason = "lists of frames, of one or several"
)]

#[path = "../ports/mod.rs"]
mod ports;

mod acl;
mod budget;
mod hold;
mod isolation;
mod mirror;
mod model;
mod onoff;
mod queues;
mod race;
mod rate;
mod reserved;
mod source;
mod stations;
mod threads;
mod vlan;
