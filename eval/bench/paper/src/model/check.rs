//! The model's check: what it says of published values, beside these.

use anyhow::{Context, Result, ensure};

use super::band::Band;
use super::cost::CostModel;
use super::counts::Counts;
use super::published::{Call, Curve, EmptyCall};
use crate::experiment::{Experiment, PublishedValue};

/// A published value beside what the model says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Beside {
    /// The published value.
    pub published: f64,
    /// The model's.
    pub projected: Band,
}

impl Beside {
    /// By how much of the nearest limit the published value is outside ([`Band::miss`]).
    pub fn miss(self) -> f64 {
        self.projected.miss(self.published)
    }
}

/// The check of an empty call.
#[derive(Clone, Debug, PartialEq)]
pub struct EmptyCallCheck {
    /// What is assumed.
    pub name: String,
    /// Nanoseconds of the call that exits.
    pub base: Beside,
    /// Nanoseconds of the other.
    pub other: Beside,
    /// How many times cheaper the other is.
    pub ratio: Beside,
}

/// What the model says of empty calls.
///
/// # Errors
///
/// An experiment without the published times.
pub fn empty_calls(model: &CostModel, experiments: &[Experiment]) -> Result<Vec<EmptyCallCheck>> {
    let check = |call: &EmptyCall| {
        let experiment = experiments.iter().find(|one| one.name == call.experiment);
        let experiment = experiment.with_context(|| format!("there is no {}", call.experiment))?;
        let time = |system: &str| {
            let mut values = experiment.published.iter();
            let value = values.find(|value| value.system == system && value.unit == "ns");
            value
                .and_then(PublishedValue::y)
                .with_context(|| format!("{} has no time of {system}", call.experiment))
        };
        let (base, other) = (time(&call.base.system)?, time(&call.other.system)?);
        let beside = |published, projected| Beside {
            published,
            projected,
        };
        Ok(EmptyCallCheck {
            name: call.name.clone(),
            base: beside(base, model.nanoseconds(&call.base.counts)),
            other: beside(other, model.nanoseconds(&call.other.counts)),
            ratio: beside(
                base / other,
                model.ratio(&call.base.counts, &call.other.counts),
            ),
        })
    };
    model.published.empty_call.iter().map(check).collect()
}

/// The check of a curve.
#[derive(Clone, Debug, PartialEq)]
pub struct CurveCheck {
    /// Experiment whose `published.csv` has it.
    pub experiment: String,
    /// Its points.
    pub points: Vec<CurvePoint>,
}

/// A point of a curve.
#[derive(Clone, Debug, PartialEq)]
pub struct CurvePoint {
    /// Place on the axis.
    pub x: f64,
    /// Whether the link, not the system, limits the rates here: then they say nothing of crossings.
    pub limited_by_link: bool,
    /// Nanoseconds of a unit of work without crossings, as published.
    pub without: f64,
    /// Nanoseconds that the system that exits takes more.
    pub base: Beside,
    /// Nanoseconds that the other takes more.
    pub other: Beside,
    /// How many times the rate of the one that exits the other has.
    pub ratio: Beside,
}

impl CurveCheck {
    /// The points that say something of crossings.
    pub fn telling(&self) -> impl Iterator<Item = &CurvePoint> {
        self.points.iter().filter(|point| !point.limited_by_link)
    }

    /// The point where the published ratio is farthest outside the band.
    pub fn worst(&self) -> Option<&CurvePoint> {
        let miss = |point: &&CurvePoint| point.ratio.miss().abs();
        self.telling().max_by(|a, b| miss(a).total_cmp(&miss(b)))
    }
}

/// What the model says of the curves, from the published rate without crossings and what an empty call
/// consists of. Curves of experiments that are not there are left out.
///
/// # Errors
///
/// An experiment with rates of one of the systems alone.
pub fn curves(model: &CostModel, experiments: &[Experiment]) -> Result<Vec<CurveCheck>> {
    let published = &model.published;
    let call = &published.empty_call[0];
    let mut checks = Vec::new();
    for curve in &published.curve {
        let Some(experiment) = experiments.iter().find(|one| one.name == curve.experiment) else {
            continue;
        };
        let times = |system: &str| times(experiment, curve, system);
        let points = times(&curve.without)?.into_iter().zip(
            times(&call.base.system)?
                .into_iter()
                .zip(times(&call.other.system)?),
        );
        let mut check = CurveCheck {
            experiment: experiment.name.clone(),
            points: Vec::new(),
        };
        for ((x, without), ((x_of_base, base), (x_of_other, other))) in points {
            ensure!(
                x == x_of_base && x == x_of_other,
                "{}: its systems have values at different places",
                experiment.name
            );
            check
                .points
                .push(point(model, curve, call, x, [without, base, other]));
        }
        checks.push(check);
    }
    Ok(checks)
}

/// A system's nanoseconds of a unit of work, by places on the axis.
fn times(experiment: &Experiment, curve: &Curve, system: &str) -> Result<Vec<(f64, f64)>> {
    let mut times = Vec::new();
    for value in &experiment.published {
        // Millions of packets or operations a second.
        let is_rate = ["Mpps", "Mops/s"].contains(&value.unit.as_str());
        if let (true, Some(x), Some(y)) = (is_rate, value.x(), value.y())
            && value.system == system
        {
            let vms = if curve.x_is_vms { x } else { 1.0 };
            times.push((x, vms * 1000.0 / y));
        }
    }
    ensure!(
        !times.is_empty(),
        "{} has no rates of {system}",
        experiment.name
    );
    times.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    Ok(times)
}

/// Bytes that a frame takes on an Ethernet link besides those that the axis counts: frame check
/// sequence, preamble, gap between frames.
const FRAME_OVERHEAD: f64 = 24.0;

/// From this share of the link's rate on a system is limited by it.
const LIMITED: f64 = 0.99;

fn point(
    model: &CostModel,
    curve: &Curve,
    call: &EmptyCall,
    x: f64,
    [without, base, other]: [f64; 3],
) -> CurvePoint {
    let limited_by_link = curve.link.is_some_and(|link| {
        let frame_time = (x + FRAME_OVERHEAD) * 8.0 / link;
        without * LIMITED <= frame_time
    });
    let with_crossings = |call: &Call| Counts {
        nanoseconds: without,
        ..call.counts.shared_by(curve.units_a_crossing)
    };
    let added = |call: &Call, published: f64| Beside {
        published: published - without,
        projected: model.nanoseconds(&call.counts.shared_by(curve.units_a_crossing)),
    };
    CurvePoint {
        x,
        limited_by_link,
        without,
        base: added(&call.base, base),
        other: added(&call.other, other),
        ratio: Beside {
            published: base / other,
            projected: model.ratio(&with_crossings(&call.base), &with_crossings(&call.other)),
        },
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
