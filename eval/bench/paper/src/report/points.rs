//! Values of plots: ours, measured or projected, and the published ones.

use crate::experiment::{Definition, Drawn, Experiment, PlottedQuantity, PublishedValue};
use crate::model::{Band, CostModel, Counts};
use crate::plot::Kind;
use crate::quantity::Quantity;
use crate::results::FigureResults;

/// A figure's results with all that is needed to make values of them.
#[derive(Clone, Copy, Debug)]
pub struct Ours<'a> {
    /// The figure.
    pub definition: &'a Definition,
    /// Its results.
    pub results: &'a FigureResults,
    /// Label of what was measured.
    pub label: &'a str,
    /// The cost model.
    pub model: &'a CostModel,
}

impl Ours<'_> {
    /// The value of a quantity at a point, and where it comes from.
    pub fn value(
        &self,
        quantity: PlottedQuantity,
        series: &str,
        x: Option<u32>,
    ) -> Option<(Kind, Band)> {
        match quantity {
            PlottedQuantity::TotalInstructions => {
                self.measured(series, x, Quantity::TotalInstructions)
            }
            PlottedQuantity::Measured(quantity) => self.measured(series, x, quantity),
            PlottedQuantity::Cycles => projected(self.model.cycles(&self.counts(series, x)?)),
            PlottedQuantity::Rate => match self.time(series, x) {
                Some(time) => measured(time.map(|time| 1000.0 / time)),
                None => projected(self.model.rate(&self.counts(series, x)?)),
            },
            PlottedQuantity::Ratio => self.ratio(self.definition.base.as_deref()?, series, x),
        }
    }

    /// How many times cheaper a series is than another one at a place.
    pub fn ratio(&self, base: &str, series: &str, x: Option<u32>) -> Option<(Kind, Band)> {
        if let Some((base, own)) = self.time(base, x).zip(self.time(series, x)) {
            // As far apart as the two intervals allow.
            return measured(Band {
                low: base.low / own.high,
                middle: base.middle / own.middle,
                high: base.high / own.low,
            });
        }
        let (base, own) = (self.counts(base, x)?, self.counts(series, x)?);
        projected(self.model.ratio(&base, &own))
    }

    fn measured(&self, series: &str, x: Option<u32>, quantity: Quantity) -> Option<(Kind, Band)> {
        measured(self.results.band(series, x, quantity)?)
    }

    /// Nanoseconds of a unit of work, on hardware. Below a hypervisor a crossing costs what that
    /// makes of it, so nothing follows from times there.
    fn time(&self, series: &str, x: Option<u32>) -> Option<Band> {
        let time = self.results.band(series, x, Quantity::Nanoseconds)?;
        (self.label == "hardware" && time.low > 0.0).then_some(time)
    }

    /// What was counted, where it was counted exactly.
    fn counts(&self, series: &str, x: Option<u32>) -> Option<Counts> {
        match self.label {
            "emulated" => Counts::of(self.results, series, x),
            _ => None,
        }
    }
}

fn measured(band: Band) -> Option<(Kind, Band)> {
    finite(band).then_some((Kind::Measured, band))
}

fn projected(band: Band) -> Option<(Kind, Band)> {
    finite(band).then_some((Kind::Projected, band))
}

const fn finite(band: Band) -> bool {
    band.low.is_finite() && band.high.is_finite()
}

/// Published values of a system in a plot.
#[derive(Clone, Debug, PartialEq)]
pub struct PublishedSeries {
    /// Name of the system.
    pub system: String,
    /// Number of its looks in the figure.
    pub look: usize,
    /// Places and values, from left to right; no place in a figure without an axis.
    pub points: Vec<(Option<f64>, f64)>,
}

/// The published values of a plot: of the systems that the figure's series name, or of all systems in
/// a figure without series.
pub fn published(
    experiment: &Experiment,
    quantity: PlottedQuantity,
    drawn: &Drawn,
) -> Vec<PublishedSeries> {
    let definition = &experiment.definition;
    let mut systems: Vec<(usize, &str)> = Vec::new();
    for (n, series) in definition.series.iter().enumerate() {
        systems.extend(series.published.as_deref().map(|system| (n, system)));
    }
    if definition.series.is_empty() || drawn.alone.is_some() {
        for value in &experiment.published {
            let known = systems.iter().any(|(_, system)| *system == value.system);
            if !known && value.unit == drawn.unit && value.x().is_some() {
                let next = systems.iter().map(|(look, _)| look + 1).max();
                let next = next.unwrap_or(0).max(definition.series.len());
                systems.push((next, &value.system));
            }
        }
    }
    let base = definition.base.as_ref().and_then(|base| {
        let mut series = definition.series.iter();
        let series = series.find(|series| series.name == *base)?;
        Some(values(experiment, drawn, series.published.as_deref()?))
    });
    let mut all = Vec::new();
    for (look, system) in systems {
        let mut points = values(experiment, drawn, system);
        if quantity == PlottedQuantity::Ratio {
            points = ratios(base.as_deref().unwrap_or_default(), &points, &drawn.unit);
        }
        if !points.is_empty() {
            all.push(PublishedSeries {
                system: system.to_owned(),
                look,
                points,
            });
        }
    }
    all
}

/// A system's values, by places on the axis.
fn values(experiment: &Experiment, drawn: &Drawn, system: &str) -> Vec<(Option<f64>, f64)> {
    let of_system = |value: &&PublishedValue| value.system == system && value.unit == drawn.unit;
    let values = experiment.published.iter().filter(of_system);
    let mut points: Vec<(Option<f64>, f64)> = match &drawn.x {
        Some(x) => values
            .filter(|value| value.x == *x)
            .filter_map(|value| Some((None, value.y()?)))
            .collect(),
        None => values
            .filter_map(|value| Some((Some(value.x()?), value.y()?)))
            .collect(),
    };
    points.sort_by(|(a, _), (b, _)| f64::total_cmp(&a.unwrap_or(0.0), &b.unwrap_or(0.0)));
    points
}

/// Units in which less is better.
const TIMES: [&str; 5] = ["ns", "us", "ms", "s", "cycles"];

/// How many times better values are than those of the base at the same places.
fn ratios(
    base: &[(Option<f64>, f64)],
    points: &[(Option<f64>, f64)],
    unit: &str,
) -> Vec<(Option<f64>, f64)> {
    let ratio = |&(x, own): &(Option<f64>, f64)| {
        let (_, base) = base.iter().find(|(place, _)| *place == x)?;
        let ratio = match TIMES.contains(&unit) {
            true => base / own,
            false => own / base,
        };
        ratio.is_finite().then_some((x, ratio))
    };
    points.iter().filter_map(ratio).collect()
}
