//! Experiments: one folder of `eval/experiments` for each figure or table of the paper.
//!
//! | file | what is in it |
//! | --- | --- |
//! | `README.md` | what is measured, and how it compares with what was published |
//! | `experiment.toml` | title, workload, axis, series, plots: a [`Definition`] |
//! | `published.csv` | the published values, each with its source: [`PublishedValue`]s |
//! | `steps.csv` | if the code says them: the steps of a unit of work, [`Step`]s |

mod definition;
mod lines;
pub mod published;
mod read;
mod steps;
mod table;

pub use crate::bundle::root;
pub use definition::{
    Axis, Definition, Drawn, Place, PlotKind, PlotSpec, PlottedQuantity, Scale, Series,
};
pub use published::PublishedValue;
pub use read::{Experiment, all, load};
pub use steps::Step;
pub use table::{Cores, OwnCell, OwnRow, TableShape, TableSpec};
