//! The headline: how much more the path by VMFUNC moves between VMs than the one that exits, at the
//! place of the axis where that is most.

use crate::experiment::Experiment;
use crate::results::FigureResults;

use super::band::Band;
use super::cost::CostModel;
use super::counts::Counts;

/// Experiment of the headline.
pub const EXPERIMENT: &str = "fig-04_inter_vm";

/// Its series that exits.
pub const EXITS: &str = "exit-kernel";

/// Its series by VMFUNC.
pub const SWITCHES: &str = "elisa";

/// Its series that does not cross.
pub const CROSSES_NOT: &str = "direct";

/// Gains along an axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Headline {
    /// Place on the axis, gain in per cent as projected, and as published by the corresponding
    /// systems.
    pub gains: Vec<(u32, Band, Option<f64>)>,
    /// The largest gain that is published as such, in per cent.
    pub published: Option<f64>,
    /// What the two are at the place of the largest gain: base and other.
    pub largest: (Counts, Counts),
}

impl Headline {
    /// Place and gain of the largest gain, by its middle.
    pub fn largest(&self) -> Option<(u32, Band)> {
        let gains = self.gains.iter();
        let most = gains.max_by(|(_, a, _), (_, b, _)| a.middle.total_cmp(&b.middle));
        most.map(|&(x, gain, _)| (x, gain))
    }
}

/// The headline of an experiment's results; nothing if they have no point of both series.
pub fn of(model: &CostModel, experiment: &Experiment, results: &FigureResults) -> Option<Headline> {
    let rate = |series: &str, x: u32| {
        let mut all = experiment.definition.series.iter();
        let system = all.find(|one| one.name == series)?.published.as_deref()?;
        let mut values = experiment.published.iter();
        let value = values.find(|value| {
            value.system == system && value.x() == Some(f64::from(x)) && value.unit == "Mpps"
        });
        value?.y()
    };
    let mut gains = Vec::new();
    let mut pairs = Vec::new();
    for x in experiment.definition.places(false).into_iter().flatten() {
        let counts = |series| Counts::of(results, series, Some(x));
        let (Some(base), Some(other)) = (counts(EXITS), counts(SWITCHES)) else {
            continue;
        };
        let published = rate(SWITCHES, x).zip(rate(EXITS, x));
        let published = published.map(|(other, base)| percent(other / base));
        gains.push((x, model.ratio(&base, &other).map(percent), published));
        pairs.push((base, other));
    }
    let middle = |n: &usize| gains[*n].1.middle;
    let largest = (0..gains.len()).max_by(|a, b| middle(a).total_cmp(&middle(b)))?;
    let mut values = experiment.published.iter();
    let published = values.find(|value| value.unit == "%" && value.exactness == "quoted");
    Some(Headline {
        gains,
        published: published.and_then(|value| value.y()),
        largest: pairs[largest],
    })
}

fn percent(ratio: f64) -> f64 {
    (ratio - 1.0) * 100.0
}
