//! The fuzz targets. `host-nic/owner/tests/corpus.rs` runs them on the corpus, without a fuzzer.
#![allow(clippy::unwrap_used, reason = "a failure is a find")]

pub mod acl;
pub mod capture;
pub mod control;
pub mod descriptor;
pub mod image;
mod nic;
pub mod policies;
pub mod ring;
