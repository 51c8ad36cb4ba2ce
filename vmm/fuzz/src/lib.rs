//! The fuzz targets. `vmm/tests/corpus.rs` runs them on the corpus, without a fuzzer.
#![allow(clippy::unwrap_used, reason = "a failure is a find")]

pub mod blk;
mod driver;
pub mod net;
pub mod pci;
pub mod power;
pub mod serial;
pub mod virtio;
