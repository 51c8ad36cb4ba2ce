//! Tables that are no measurement: published facts, with ours beside them.

use anyhow::{Result, ensure};
use serde::Deserialize;

use super::published::PublishedValue;

/// A table of published values.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableSpec {
    /// What it is arranged like.
    pub shape: TableShape,
    /// Our rows of a grid.
    #[serde(default, rename = "row")]
    pub rows: Vec<OwnRow>,
    /// Processor cores that the values of a list were measured with, as far as that is known.
    #[serde(default)]
    pub cores: Vec<Cores>,
}

/// Arrangements of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TableShape {
    /// A row for each system, a column for each property.
    Grid,
    /// A row for each value.
    List,
}

/// A row of ours.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnRow {
    /// Our system.
    pub system: String,
    /// Its cells.
    pub cells: Vec<OwnCell>,
}

/// A cell of a row of ours.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnCell {
    /// The column: a `workload` of `published.csv`.
    pub column: String,
    /// What it says, in the words of the column.
    pub says: String,
    /// Why.
    pub why: String,
    /// Names of tests that attack it, as `cargo suite --list` prints them.
    pub tests: Vec<String>,
}

/// Number of cores.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cores {
    /// The system.
    pub system: String,
    /// Its workload; all of its workloads if there is none.
    pub workload: Option<String>,
    /// The number of cores, and where it is said.
    pub says: String,
}

impl TableSpec {
    /// Checks that it is about values that were published.
    ///
    /// # Errors
    ///
    /// The first column or system that has none, and a cell that no test shows.
    pub fn check(&self, published: &[PublishedValue]) -> Result<()> {
        for cell in self.rows.iter().flat_map(|row| &row.cells) {
            ensure!(
                published.iter().any(|value| value.workload == cell.column),
                "table.row: {:?} is no workload of published.csv",
                cell.column
            );
            ensure!(
                !cell.tests.is_empty(),
                "table.row: no test shows {:?} in column {:?}",
                cell.says,
                cell.column
            );
        }
        for cores in &self.cores {
            ensure!(
                published.iter().any(|value| cores.is_about(value)),
                "table.cores: published.csv has no value of {:?} {:?}",
                cores.system,
                cores.workload
            );
        }
        Ok(())
    }
}

impl Cores {
    /// Whether a value was measured with them.
    pub fn is_about(&self, value: &PublishedValue) -> bool {
        let workload = self.workload.as_ref();
        self.system == value.system && workload.is_none_or(|workload| *workload == value.workload)
    }
}
