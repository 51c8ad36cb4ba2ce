//! Experiments: one folder of `eval/experiments` for each figure or table of the paper.
//!
//! | file | what is in it |
//! | --- | --- |
//! | `README.md` | what is measured, and how it compares with what was published |
//! | `experiment.toml` | title, workload, plot: a [`Definition`] |
//! | `published.csv` | the published values, each with its source: [`PublishedValue`]s |
//!
//! ```text
//!   experiment.toml --> scenarios --> testbed --> rows --+
//!                                                        +--> figures --> CSV, table, plot
//!   published.csv ---------------------------------------+
//! ```

mod definition;
mod figures;
mod published;
mod quantity;
mod run;

pub use definition::{Definition, Experiment, PlotSpec, WorkloadSpec, all, load};
pub use figures::{Figure, Figures, Label};
pub use published::PublishedValue;
pub use quantity::Quantity;
pub use run::{Draw, run};
