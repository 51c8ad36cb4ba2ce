//! The evaluation of the paper, measured again: `cargo paper`.
//!
//! ```text
//!   eval/experiments/fig-NN_name
//!     experiment.toml --> points --> scenarios --> testbed --> values --> results/.../points.csv
//!     published.csv ---------------------------------+                          |
//!                                                    +------> report <----------+
//!                                     cost model ----+
//! ```
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`experiment`] | the folders of `eval/experiments`: what is run, published values |
//! | [`workload`] | what the VMs of a point do, and what is counted |
//! | [`quantity`] | quantities that are measured |
//! | [`model`] | the cost model: what a processor would take for what was counted |
//! | [`run`] | runs figures |
//! | [`repeat`] | repeated runs: their order, medians and intervals |
//! | [`results`] | a folder of results |
//! | [`schedule`] | which figures are run where, and how long it takes |
//! | [`table`] | the values of a figure as a table of text |
//! | [`bundle`] | all that another host needs to run figures |
//! | [`plot`] | plots as SVG |
//! | [`report`] | reports of results beside what was published |
//! | [`environment`] | circumstances of a run |
//! | [`commands`] | the commands of `cargo paper` |
#![forbid(unsafe_code)]

pub mod bundle;
pub mod commands;
pub mod environment;
pub mod experiment;
pub mod model;
pub mod plot;
pub mod quantity;
pub mod repeat;
pub mod report;
pub mod results;
pub mod run;
pub mod schedule;
pub mod table;
pub mod workload;
