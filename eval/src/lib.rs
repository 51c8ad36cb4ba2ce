//! The runner's library: everything behind `cargo demo` and `cargo suite`.
//!
//! | module | what it does |
//! | --- | --- |
//! | [`demo`] | the main job: the same frames on every path, proved and counted |
//! | [`output`] | files that appear whole or not at all |
//! | [`report`] | tables and JSON |
//! | [`traffic`] | real input frames, checks of a user's pcap, proof that every frame arrived |

pub mod demo;
pub mod output;
pub mod report;
pub mod traffic;
