//! The cost model: what a processor would take for what was counted.
//!
//! ```text
//!   points.csv --> Counts --+                    +--> cycles, rate, ratio: a Band each
//!                           +--> CostModel ------+
//!   cost-model.toml --------+                    +--> tornado: which constant matters
//!                           |
//!   published.csv ----------+--> check: what the model says of published values
//!                           +--> growth: Findings, what would explain VMCALL's growing penalty
//!                           +--> headline: elisa over exit-kernel between VMs, and why
//!   times of hardware ---------> calibrate: constants from measurement
//! ```
//!
//! A unit of work costs the sum of what it consists of, each times a price. Prices are known within
//! limits, so costs are [`Band`]s. Two costs that are compared have the same prices: the limits of a
//! ratio are closer than those of its parts.
//!
//! What the model leaves out: that work of two processors overlaps, that caches and memory are full,
//! and that instructions wait for each other in one program more than in another.

mod band;
pub mod calibrate;
pub mod check;
mod cost;
mod counts;
mod finding;
pub mod growth;
pub mod headline;
#[cfg(test)]
mod made_up;
pub mod published;

pub use band::Band;
pub use cost::{Constant, Constants, CostModel, FILE};
pub use counts::Counts;
pub use finding::{Finding, Verdict};
