//! Measurements: the demo and the scenarios that it is made of. `cargo paper` makes its figures of
//! scenarios, too.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`attack`] | attacks of a hostile guest, as jobs |
//! | [`demo`] | `cargo demo`: the same frames on every path, proved and counted |
//! | [`linux`] | `cargo demo --linux`: programs of Debian in Linux guests, on every path and over virtio-net |
//! | [`scenario`] | a measurement as data, its run on a testbed, and its figures |
//! | [`traffic`] | input frames, checks of a user's pcap, proof that every frame arrived |
//! | [`report`] | the demo's tables and JSON |
//! | [`text_table`] | tables of text |
//! | [`revision`] | the revision that a measurement is made of |
//! | [`call_path`] | paths of calls by their names, for serde |
//!
//! # Example
//!
//! Every frame that was sent must have been received: once, in order, byte for byte.
//!
//! ```
//! use postern_bench::traffic::Trace;
//! use postern_bench::traffic::proof::compare;
//!
//! let sent = Trace::synthetic(64, 100);
//! let mut received = sent.frames().to_vec();
//! assert!(compare(sent.frames(), &received).is_intact());
//! received.swap(3, 4);
//! assert!(!compare(sent.frames(), &received).is_intact());
//! ```
#![deny(unsafe_code)]

pub mod attack;
pub mod call_path;
pub mod demo;
pub mod linux;
pub mod report;
pub mod revision;
mod say;
pub mod scenario;
pub mod text_table;
pub mod traffic;
