//! The runner's library: everything behind `cargo demo` and `cargo suite`.
//!
//! | module | what it does |
//! | --- | --- |
//! | [`demo`] | the main job: the same frames on every path, proved and counted |
//! | [`interrupt`] | Ctrl-C |
//! | [`job`] | a piece of work for a place, and what came of it |
//! | [`machine`] | the emulated Intel machine |
//! | [`output`] | files that appear whole or not at all |
//! | [`place`] | the host's KVM or the emulated machine |
//! | [`report`] | tables and JSON |
//! | [`setup`] | everything that must exist first |
//! | [`suite`] | all tests |
//! | [`traffic`] | real input frames, checks of a user's pcap, proof that every frame arrived |

pub mod demo;
pub mod interrupt;
pub mod job;
pub mod machine;
pub mod output;
pub mod place;
pub mod report;
pub mod setup;
pub mod suite;
pub mod traffic;
