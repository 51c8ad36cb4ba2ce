//! The headline: how much more the path by VMFUNC moves between VMs than the one that exits, at the
//! place of the axis where that is most; and why it is not what was published.

use anyhow::Result;

use super::band::Band;
use super::check;
use super::cost::CostModel;
use super::counts::Counts;
use super::finding::{Finding, Verdict};
use super::published::Copy;
use crate::experiment::Experiment;
use crate::results::FigureResults;

/// Experiment of the headline.
pub const EXPERIMENT: &str = "fig-04_inter_vm";

/// Experiment with the same traffic by the number of frames a request.
pub const BATCHES: &str = "fig-11_batch";

/// The series that exits.
pub const EXITS: &str = "exit-kernel";

/// The series by VMFUNC.
pub const SWITCHES: &str = "elisa";

/// The series that does not cross.
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

    /// Place and gain of the largest gain at places of this axis as published.
    fn largest_published(&self) -> Option<(u32, f64)> {
        let gains = self.gains.iter();
        let gains = gains.filter_map(|&(x, _, published)| Some((x, published?)));
        gains.max_by(|(_, a), (_, b)| a.total_cmp(b))
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
    for (x, base, other) in pairs_of(results) {
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

/// The places of results at which both series were measured, with what they consist of there: the one
/// that exits, and the other.
fn pairs_of(results: &FigureResults) -> Vec<(u32, Counts, Counts)> {
    let points = results.about.points.iter();
    let places = points.filter(|point| point.series == EXITS);
    let pair = |x: u32| {
        let counts = |series| Counts::of(results, series, Some(x));
        Some((x, counts(EXITS)?, counts(SWITCHES)?))
    };
    places.filter_map(|point| pair(point.x?)).collect()
}

/// Why ours is less or more than what was published. `measured` are results of [`EXPERIMENT`], `batches`
/// those of [`BATCHES`].
///
/// # Errors
///
/// An experiment without its published curves.
pub fn findings(
    model: &CostModel,
    experiments: &[Experiment],
    measured: &FigureResults,
    batches: Option<&FigureResults>,
) -> Result<Vec<Finding>> {
    let experiment = experiments.iter().find(|one| one.name == EXPERIMENT);
    let Some(headline) = experiment.and_then(|experiment| of(model, experiment, measured)) else {
        return Ok(Vec::new());
    };
    let Some((x, published)) = headline.largest_published() else {
        return Ok(Vec::new());
    };
    let mut findings = Vec::new();
    findings.extend(crossings(model, experiments, measured, x)?);
    findings.extend(batches.and_then(|batches| by_batch(model, batches)));
    findings.extend(other_copies(model, measured, published));
    Ok(findings)
}

fn observed(about: &str, says: String) -> Finding {
    Finding {
        about: about.to_owned(),
        verdict: Verdict::Observed,
        says,
        share: None,
    }
}

/// What crossings and all else cost at the place of the largest published gain, ours beside the
/// published ones.
fn crossings(
    model: &CostModel,
    experiments: &[Experiment],
    measured: &FigureResults,
    x: u32,
) -> Result<Vec<Finding>> {
    let counts = |series| Counts::of(measured, series, Some(x));
    let checks = check::curves(model, experiments)?;
    let mut checks = checks.iter().filter(|check| check.experiment == EXPERIMENT);
    let mut points = checks.next().into_iter().flat_map(|check| &check.points);
    let point = points.find(|point| point.x == f64::from(x));
    let (Some(exits), Some(switches), Some(crosses_not), Some(point)) =
        (counts(EXITS), counts(SWITCHES), counts(CROSSES_NOT), point)
    else {
        return Ok(Vec::new());
    };
    let added = |counts| model.sum_of_nanoseconds(&[(1.0, counts), (-1.0, crosses_not)]);
    let call = &model.published.empty_call[0];
    Ok(vec![
        observed(
            "what a crossing adds to a packet",
            format!(
                "at {x} bytes {EXITS} takes {:.0} ns more than {CROSSES_NOT}, where {} takes {:.0} ns \
                 more; {SWITCHES} {:.0} ns, where {} takes {:.0}",
                added(exits),
                call.base.system,
                point.base.published,
                added(switches),
                call.other.system,
                point.other.published
            ),
        ),
        observed(
            "what a packet takes without crossings",
            format!(
                "at {x} bytes {CROSSES_NOT} takes {:.0} ns, the work of both VMs, which share a \
                 processor; published are {:.0} ns, those of the slower of two that work at the same time",
                model.nanoseconds(&crosses_not),
                point.without
            ),
        ),
    ])
}

/// How the gain depends on the frames of a request.
fn by_batch(model: &CostModel, batches: &FigureResults) -> Option<Finding> {
    let pairs = pairs_of(batches);
    let gain = |(x, base, other): &(u32, Counts, Counts)| {
        let gain = model.ratio(base, other).map(percent);
        format!("{gain:+.0} % with {x}")
    };
    let (first, last) = (pairs.first()?, pairs.last()?);
    Some(observed(
        "the gain is one of crossings, and those are shared by the frames of a request",
        format!(
            "of small frames it is {} a request and {}",
            gain(first),
            gain(last)
        ),
    ))
}

/// The gain if the host copied in another way: for each of the copies that the model knows of.
fn other_copies(model: &CostModel, measured: &FigureResults, published: f64) -> Vec<Finding> {
    let pairs = pairs_of(measured);
    let copies = model.published.growth.copy.iter();
    let copies = copies.filter(|copy| copy.line.is_none() && copy.instructions > 0.0);
    let finding = |copy: &Copy| {
        let gain = |(x, base, other): &(u32, Counts, Counts)| {
            let with_copy = base.with_copy_in_host(*x, copy.instructions);
            (*x, model.ratio(&with_copy, other).map(percent))
        };
        let gains = pairs.iter().map(gain);
        let (x, gain) = gains.max_by(|(_, a), (_, b)| a.middle.total_cmp(&b.middle))?;
        let share = gain.map(|gain| gain / published);
        Some(Finding {
            about: format!("were the copy of {EXITS} {}", copy.name),
            verdict: Verdict::of_share(share),
            says: format!(
                "the largest gain would be {gain:+.0} %, at {x} bytes, where {published:+.0} % is published"
            ),
            share: Some(share),
        })
    };
    copies.filter_map(finding).collect()
}

fn percent(ratio: f64) -> f64 {
    (ratio - 1.0) * 100.0
}

#[cfg(test)]
#[path = "headline_tests.rs"]
mod tests;
