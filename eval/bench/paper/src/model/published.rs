//! What published values consist of: the part of the model's file that it is checked against.

use anyhow::{Result, ensure};
use serde::Deserialize;

use super::counts::Counts;

/// What published values consist of, as far as that is known: a part of the model's file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// Empty calls. The first is the one that is believed.
    pub empty_call: Vec<EmptyCall>,
    /// Rates of three systems along an axis.
    #[serde(default)]
    pub curve: Vec<Curve>,
    /// A penalty that grows with the size of frames.
    pub growth: Growth,
}

/// Two systems' empty calls.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmptyCall {
    /// What is assumed of it, in a few words.
    pub name: String,
    /// Experiment whose `published.csv` has the two times.
    pub experiment: String,
    /// The system that exits.
    pub base: Call,
    /// The other.
    pub other: Call,
    /// Where the counts are from.
    pub source: String,
}

/// A system's call.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// Name of the system in `published.csv`.
    pub system: String,
    /// What a call consists of.
    pub counts: Counts,
}

/// Rates of three systems along an axis: two that cross, and one that does not.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Curve {
    /// Experiment whose `published.csv` has them.
    pub experiment: String,
    /// The system that does not cross.
    pub without: String,
    /// Units of work that a crossing serves.
    pub units_a_crossing: f64,
    /// Whether the rates are those of as many VMs as the axis says.
    #[serde(default)]
    pub x_is_vms: bool,
    /// Rate of the link that limits all systems, in Gbit/s.
    pub link: Option<f64>,
    /// Where these facts are from.
    pub source: String,
}

impl Published {
    pub(super) fn check(&self) -> Result<()> {
        ensure!(!self.empty_call.is_empty(), "published.empty_call is empty");
        for curve in &self.curve {
            let name = &curve.experiment;
            ensure!(
                curve.units_a_crossing >= 1.0 && curve.units_a_crossing.is_finite(),
                "published.curve {name}: units_a_crossing is less than 1"
            );
            ensure!(
                curve.link.is_none_or(|link| link > 0.0),
                "published.curve {name}: link is not above 0"
            );
        }
        self.growth.check()
    }
}

/// What is known of the systems whose penalty grows: a part of the model's file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Growth {
    /// Experiment with the curves, whose axis is the size of frames in bytes.
    pub experiment: String,
    /// Instructions a byte of the switch's copy outside the host.
    pub usual_copy: f64,
    /// Where that is from.
    pub source: String,
    /// What the copy in the host may have been.
    #[serde(default)]
    pub copy: Vec<Copy>,
}

/// A copy that may have taken the place of the usual one in the host.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Copy {
    /// What it is, in a few words.
    pub name: String,
    /// Its instructions a byte.
    #[serde(default)]
    pub instructions: f64,
    /// Share of the bytes that it copies by string instructions.
    #[serde(default)]
    pub strings: f64,
    /// Cycles that each cache line takes besides.
    pub line: Option<Line>,
    /// Where that is from, or why it is assumed.
    pub source: String,
}

/// Cycles of a cache line.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// Least.
    pub low: f64,
    /// Most likely.
    pub middle: f64,
    /// Most.
    pub high: f64,
}

impl Growth {
    pub(super) fn check(&self) -> Result<()> {
        ensure!(
            self.usual_copy >= 0.0,
            "published.growth: usual_copy is below 0"
        );
        for copy in &self.copy {
            let Copy {
                name,
                instructions,
                strings,
                line,
                ..
            } = copy;
            ensure!(
                *instructions >= 0.0 && (0.0..=1.0).contains(strings),
                "published.growth.copy {name}: instructions is below 0, or strings is no share"
            );
            let ascends = line.is_none_or(|line| {
                0.0 <= line.low && line.low <= line.middle && line.middle <= line.high
            });
            ensure!(
                ascends,
                "published.growth.copy {name}: low, middle and high of line ascend, from 0 on"
            );
        }
        Ok(())
    }
}
