//! What templates are given: text, tables and drawings, made ready.

use serde::Serialize;

/// A table.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Table {
    /// Its columns.
    pub columns: Vec<Column>,
    /// Its rows, with a cell for each column.
    pub rows: Vec<Vec<String>>,
}

/// A column of a table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Column {
    /// Its heading.
    pub name: String,
    /// Label of its values: `emulated`, `projected`, ...; none of a column without values.
    pub label: Option<String>,
}

impl Table {
    /// A table with these headings and no labels.
    pub fn new(names: &[&str]) -> Table {
        let columns = names.iter().map(|name| Column::plain(name));
        Table {
            columns: columns.collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row, with a cell for each column.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells: Vec<String> = cells.into_iter().collect();
        debug_assert_eq!(cells.len(), self.columns.len());
        self.rows.push(cells);
    }
}

impl Column {
    /// A column without a label.
    pub fn plain(name: &str) -> Column {
        Column {
            name: name.to_owned(),
            label: None,
        }
    }

    /// A column of values with a label.
    pub fn labelled(name: &str, label: &str) -> Column {
        Column {
            name: name.to_owned(),
            label: Some(label.to_owned()),
        }
    }
}

/// A table with a title.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Titled {
    /// What it shows.
    pub title: String,
    /// The table.
    pub table: Table,
}

/// A plot.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plot {
    /// What it shows.
    pub title: String,
    /// The drawing.
    pub svg: String,
}

/// An entry of a legend.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sample {
    /// Name of the series.
    pub name: String,
    /// The drawing.
    pub svg: String,
}

/// A list of facts by their names.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fact {
    /// Name.
    pub name: String,
    /// What it is.
    pub says: String,
}

impl Fact {
    /// A fact.
    pub fn new(name: &str, says: impl Into<String>) -> Fact {
        Fact {
            name: name.to_owned(),
            says: says.into(),
        }
    }
}
