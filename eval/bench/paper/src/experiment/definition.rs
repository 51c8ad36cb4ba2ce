//! The content of `experiment.toml`.

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use toml::Table;

use super::table::TableSpec;
use crate::quantity::Quantity;
use crate::workload::Workload;

/// The content of `experiment.toml`.
///
/// Each series at each place of the axis is a point. Its workload is made of three tables, of which
/// the later ones win: that of the experiment, that of the series, and the axis' key with its value.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// Title: what is measured, in one line.
    pub title: String,
    /// Publication, section and figure whose values stand beside ours.
    pub paper: String,
    /// What the figure shows, in two sentences.
    pub shows: String,
    /// Unit of work that costs are for: a call, a packet.
    pub per: String,
    /// Series that the others are compared with.
    pub base: Option<String>,
    /// Minutes that it takes in the emulated machine, roughly.
    #[serde(default)]
    pub minutes: f64,
    /// Kinds of place that can run it.
    #[serde(default = "everywhere")]
    pub at: Vec<Place>,
    /// The reason why nothing runs yet, of a figure with published values alone.
    pub not_yet: Option<String>,
    /// The table, of a figure that is one of published facts.
    pub table: Option<TableSpec>,
    /// The horizontal axis, of a figure that has one.
    pub axis: Option<Axis>,
    /// Parameters of the workload that all points share.
    #[serde(default)]
    pub workload: Table,
    /// The series.
    #[serde(default)]
    pub series: Vec<Series>,
    /// The plots.
    #[serde(default, rename = "plot")]
    pub plots: Vec<PlotSpec>,
}

fn everywhere() -> Vec<Place> {
    vec![Place::Emulated, Place::Host]
}

/// A kind of place that VMs run at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// The emulated Intel machine.
    Emulated,
    /// This host, with VMFUNC and the patched KVM.
    Host,
}

impl Place {
    /// Name of the kind, in files and arguments.
    pub const fn name(self) -> &'static str {
        match self {
            Place::Emulated => "emulated",
            Place::Host => "host",
        }
    }
}

/// The horizontal axis.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Axis {
    /// Parameter of the workload that varies.
    pub key: String,
    /// Name of the axis, with its unit.
    pub name: String,
    /// Places, ascending.
    pub values: Vec<u32>,
    /// Those of them that a quick run has.
    pub quick: Vec<u32>,
    /// How places are spread over the axis.
    #[serde(default)]
    pub scale: Scale,
}

/// How an axis is divided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scale {
    /// Equal steps are equal differences.
    #[default]
    Linear,
    /// Equal steps are equal ratios.
    Log,
}

/// One series of a figure.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Series {
    /// Name of the series.
    pub name: String,
    /// The system of `published.csv` that it corresponds to.
    pub published: Option<String>,
    /// Parameters of its workload.
    #[serde(default)]
    pub workload: Table,
    /// Whether a quick run has it.
    #[serde(default = "yes")]
    pub quick: bool,
}

fn yes() -> bool {
    true
}

/// One plot of a figure.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlotSpec {
    /// What it looks like.
    pub kind: PlotKind,
    /// What is drawn.
    pub quantity: PlottedQuantity,
    /// Text at the axis of the quantity, with its unit.
    pub axis: String,
    /// Lines of `published.csv` that are drawn beside ours, if any are.
    pub published: Option<Drawn>,
}

/// Lines of `published.csv` that a plot shows, of those systems that series name.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drawn {
    /// Their unit. Of a plot of ratios the values are divided by that of the base's system; whether
    /// more is better is told by the unit (times are better when less).
    pub unit: String,
    /// Their `x`, in a figure without an axis.
    pub x: Option<String>,
    /// Name of their own horizontal axis, if they are drawn without ours, which lie on another one: then
    /// all systems of the unit are drawn.
    pub alone: Option<String>,
}

/// Looks of a plot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PlotKind {
    /// A line through the points of each series.
    Lines,
    /// A bar for each series.
    Bars,
}

/// What a plot shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlottedQuantity {
    /// Instructions for a unit of work, as counted.
    TotalInstructions,
    /// Cycles for a unit of work, as projected.
    Cycles,
    /// Millions of units of work a second: projected, or measured on hardware.
    Rate,
    /// How many times cheaper than the base: projected cycles, or time on hardware.
    Ratio,
    /// A measured quantity.
    #[serde(untagged)]
    Measured(Quantity),
}

impl Definition {
    /// Checks what a reader of TOML cannot.
    ///
    /// # Errors
    ///
    /// The first mistake, with the words of the file that it is in.
    pub fn check(&self) -> Result<()> {
        for (name, text) in [("title", &self.title), ("paper", &self.paper)] {
            ensure!(!text.is_empty(), "{name} is empty");
        }
        ensure!(
            (self.not_yet.is_some() || self.table.is_some()) == self.series.is_empty(),
            "a figure has series, or a table, or says in not_yet why it has none"
        );
        if let Some(axis) = &self.axis {
            axis.check()?;
        }
        for (n, series) in self.series.iter().enumerate() {
            let name = &series.name;
            let twice = self.series[..n].iter().any(|other| other.name == *name);
            ensure!(!twice, "series {name}: twice");
            for x in self.places(false) {
                self.workload_of(series, x, &Table::new())?;
            }
        }
        if let Some(base) = &self.base {
            let known = self.series.iter().any(|series| series.name == *base);
            ensure!(known, "base = {base:?} is none of the series");
        }
        Ok(())
    }

    /// The places on the axis; one that is no place for a figure without an axis.
    pub fn places(&self, quick: bool) -> Vec<Option<u32>> {
        match &self.axis {
            None => vec![None],
            Some(axis) if quick => axis.quick.iter().copied().map(Some).collect(),
            Some(axis) => axis.values.iter().copied().map(Some).collect(),
        }
    }

    /// The series; of a quick run those that it has.
    pub fn series(&self, quick: bool) -> impl Iterator<Item = &Series> {
        self.series
            .iter()
            .filter(move |series| series.quick || !quick)
    }

    /// Number of points.
    pub fn points(&self, quick: bool) -> usize {
        self.places(quick).len() * self.series(quick).count()
    }

    /// The workload of a series at a place, with changes that win over all else.
    ///
    /// # Errors
    ///
    /// Parameters that make no workload.
    pub fn workload_of(
        &self,
        series: &Series,
        x: Option<u32>,
        changes: &Table,
    ) -> Result<Workload> {
        let mut table = self.workload.clone();
        table.extend(series.workload.clone());
        if let (Some(axis), Some(x)) = (&self.axis, x) {
            table.insert(axis.key.clone(), i64::from(x).into());
        }
        table.extend(changes.clone());
        let workload: Workload = table
            .try_into()
            .with_context(|| format!("series {} has no workload", series.name))?;
        workload
            .check()
            .with_context(|| format!("series {}", series.name))?;
        Ok(workload)
    }
}

impl Axis {
    fn check(&self) -> Result<()> {
        ensure!(!self.values.is_empty(), "axis.values is empty");
        ensure!(
            self.values.is_sorted_by(|a, b| a < b),
            "axis.values do not ascend"
        );
        ensure!(
            !self.quick.is_empty() && self.quick.is_sorted_by(|a, b| a < b),
            "axis.quick is empty, or does not ascend"
        );
        for x in &self.quick {
            ensure!(
                self.values.contains(x),
                "axis.quick: {x} is none of axis.values"
            );
        }
        Ok(())
    }
}
