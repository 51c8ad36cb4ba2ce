//! Checksums and large segments, through the whole switch.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]
#![allow(
    clippy::cloned_ref_to_slice_refs,
    reason = "lists of frames, of one or several"
)]

#[path = "../ports/mod.rs"]
mod ports;

mod checksum;
mod headers;
mod segment;
