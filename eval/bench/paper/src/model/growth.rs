//! A penalty that grows with the size of frames, and what would explain it.
//!
//! Between VMs the ELISA paper's VMCALL takes the more beyond ivshmem the larger frames are, where its
//! ELISA takes the same. No cost of a crossing does that. Each hypothesis here says how much the penalty
//! would grow, and is held against how much it grows.

use anyhow::{Context, Result, ensure};

use super::band::Band;
use super::check::{self, CurvePoint};
use super::cost::CostModel;
use super::counts::Counts;
use super::finding::{Finding, Verdict};
use super::published::{Copy, Growth};
use crate::experiment::Experiment;
use crate::results::FigureResults;

/// A straight line through points, with the largest distance of one from it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Straight {
    at_zero: f64,
    slope: f64,
    distance: f64,
}

impl Straight {
    /// The line of least squares.
    fn through(points: &[(f64, f64)]) -> Straight {
        let n = points.len() as f64;
        let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / n;
        let (x, y) = (mean(|point| point.0), mean(|point| point.1));
        let covariance: f64 = points.iter().map(|(a, b)| (a - x) * (b - y)).sum();
        let variance: f64 = points.iter().map(|(a, _)| (a - x).powi(2)).sum();
        let slope = covariance / variance;
        let at_zero = y - slope * x;
        let distances = points.iter().map(|(a, b)| (b - at_zero - slope * a).abs());
        Straight {
            at_zero,
            slope,
            distance: distances.fold(0.0, f64::max),
        }
    }
}

/// The published curves and what is to be explained of them.
struct Curves<'a> {
    points: Vec<&'a CurvePoint>,
    first: &'a CurvePoint,
    last: &'a CurvePoint,
    /// Nanoseconds that the base's penalty grows from the first point to the last.
    growth: f64,
    /// Bytes from the first to the last.
    bytes: f64,
    base: &'a str,
    other: &'a str,
}

/// What would explain the growth of the published penalty, and whether ours grows. `measured` are the
/// results of the same experiment, with the names of the series that exits and of the one that does not
/// cross.
///
/// # Errors
///
/// An experiment without the published curves.
pub fn findings(
    model: &CostModel,
    experiments: &[Experiment],
    measured: Option<(&FigureResults, &str, &str)>,
) -> Result<Vec<Finding>> {
    let growth = &model.published.growth;
    let checks = check::curves(model, experiments)?;
    let check = checks
        .iter()
        .find(|check| check.experiment == growth.experiment)
        .with_context(|| format!("there are no curves of {}", growth.experiment))?;
    let points: Vec<&CurvePoint> = check.telling().collect();
    let (Some(first), Some(last)) = (points.first(), points.last()) else {
        return Ok(Vec::new());
    };
    let call = &model.published.empty_call[0];
    let curves = Curves {
        first,
        last,
        growth: last.base.published - first.base.published,
        bytes: last.x - first.x,
        base: &call.base.system,
        other: &call.other.system,
        points: points.clone(),
    };
    ensure!(
        curves.growth > 0.0 && curves.bytes > 0.0,
        "{}: the penalty of {} does not grow",
        growth.experiment,
        curves.base
    );
    let mut findings = vec![
        line(&curves),
        small_frames(model, experiments, &curves)?,
        fixed_cost(model, &curves),
        shrinking_batch(model, experiments, &curves)?,
    ];
    findings.extend(
        growth
            .copy
            .iter()
            .map(|copy| other_copy(model, growth, copy, &curves)),
    );
    if let Some((results, exits, crosses_not)) = measured {
        findings.extend(ours(model, results, exits, crosses_not, &curves));
    }
    Ok(findings)
}

/// What the penalties look like.
fn line(curves: &Curves<'_>) -> Finding {
    let fit = |of: fn(&CurvePoint) -> f64| {
        let points: Vec<_> = curves
            .points
            .iter()
            .map(|point| (point.x, of(point)))
            .collect();
        Straight::through(&points)
    };
    let base = fit(|point| point.base.published);
    let other = fit(|point| point.other.published);
    Finding {
        about: "both penalties are straight lines".to_owned(),
        verdict: Verdict::Observed,
        says: format!(
            "{} takes {:.0} ns a packet and {:.3} ns a byte more than without crossings (no point is \
             farther than {:.0} ns from this line), {} {:.0} ns and {:.3} ns a byte ({:.0} ns)",
            curves.base,
            base.at_zero,
            base.slope,
            base.distance,
            curves.other,
            other.at_zero,
            other.slope,
            other.distance
        ),
        share: None,
    }
}

/// Packets of a crossing at the first point and at the last, if nothing but crossings costs more: of the
/// system that exits, and of the other.
fn bursts(
    model: &CostModel,
    experiments: &[Experiment],
    curves: &Curves<'_>,
) -> Result<[(f64, f64); 2]> {
    let calls = check::empty_calls(model, experiments)?;
    let call = calls.first().context("no empty call is published")?;
    let at = |point: &CurvePoint| {
        let base = call.base.published / point.base.published;
        (base, call.other.published / point.other.published)
    };
    Ok([at(curves.first), at(curves.last)])
}

/// What the penalties of the smallest frames say of bursts.
fn small_frames(
    model: &CostModel,
    experiments: &[Experiment],
    curves: &Curves<'_>,
) -> Result<Finding> {
    let [(base, other), _] = bursts(model, experiments, curves)?;
    Ok(Finding {
        about: "the smallest frames fit one burst for both systems".to_owned(),
        verdict: Verdict::Observed,
        says: format!(
            "at {} bytes their penalties are those of empty calls, as published, that serve {base:.1} packets \
             ({}) and {other:.1} ({})",
            curves.first.x, curves.base, curves.other
        ),
        share: None,
    })
}

/// A fixed cost of each crossing, with bursts of one size.
fn fixed_cost(model: &CostModel, curves: &Curves<'_>) -> Finding {
    let growth = &model.published.growth;
    let curve = &model.published.curve;
    let units = curve
        .iter()
        .find(|curve| curve.experiment == growth.experiment);
    let units = units.map_or(1.0, |curve| curve.units_a_crossing);
    let penalty = curves.first.base;
    Finding {
        about: format!("a crossing costs the same, and serves {units} packets"),
        verdict: Verdict::DoesNotExplain,
        says: format!(
            "it takes {:.0} ns a packet at every size, where {:.0} ns are published at {} bytes and {:.0} \
             at {}",
            penalty.projected,
            penalty.published,
            curves.first.x,
            curves.last.base.published,
            curves.last.x
        ),
        share: Some(Band {
            low: 0.0,
            middle: 0.0,
            high: 0.0,
        }),
    }
}

/// Bursts that shrink as frames grow: then the penalty of the other system would grow with them.
fn shrinking_batch(
    model: &CostModel,
    experiments: &[Experiment],
    curves: &Curves<'_>,
) -> Result<Finding> {
    let [first, last] = bursts(model, experiments, curves)?;
    // What the other system's penalty would grow by with the bursts of the one that exits, as a share
    // of what it would have to.
    let call = first.1 * curves.first.other.published;
    let expected = call / last.0 - call / first.0;
    let published = curves.last.other.published - curves.first.other.published;
    let share = published / expected;
    Ok(Finding {
        about: "bursts shrink as frames grow".to_owned(),
        verdict: Verdict::of_share(Band {
            low: share,
            middle: share,
            high: share,
        }),
        says: format!(
            "{} would need bursts of {:.1} packets at {} bytes and of {:.1} at {}; with the same bursts \
             the penalty of {} would grow by {expected:.0} ns, and it grows by {published:.0} (it \
             needs bursts of {:.1} and {:.1})",
            curves.base,
            first.0,
            curves.first.x,
            last.0,
            curves.last.x,
            curves.other,
            first.1,
            last.1
        ),
        share: Some(Band {
            low: share,
            middle: share,
            high: share,
        }),
    })
}

/// Bytes of a cache line.
const LINE: f64 = 64.0;

/// Another copy in the host.
fn other_copy(model: &CostModel, growth: &Growth, copy: &Copy, curves: &Curves<'_>) -> Finding {
    let bytes = curves.bytes;
    let in_host = Counts {
        host_instructions: copy.instructions * bytes,
        string_bytes: copy.strings * bytes,
        ..Counts::default()
    };
    let usual = Counts {
        guest_instructions: growth.usual_copy * bytes,
        ..Counts::default()
    };
    let mut added = model.sum_of_nanoseconds(&[(1.0, in_host), (-1.0, usual)]);
    if let Some(line) = copy.line {
        // Cycles of lines are no price of the model. The fewest are the fastest clock's.
        let clock = &model.constants.clock;
        let lines = bytes / LINE;
        added.low += line.low * lines / clock.high;
        added.middle += line.middle * lines / clock.middle;
        added.high += line.high * lines / clock.low;
    }
    let share = added.map(|time| time / curves.growth);
    let mut says = format!(
        "from {} to {} bytes it takes {added:.0} ns more than the usual copy, where {:.0} ns are \
         published",
        curves.first.x, curves.last.x, curves.growth
    );
    if copy.instructions > 0.0 && copy.line.is_none() {
        let constants = &model.constants;
        let guest = constants.guest_instruction.middle;
        let needed = constants.clock.band().map(|clock| {
            let cycles = curves.growth * clock / bytes + growth.usual_copy * guest;
            cycles / copy.instructions
        });
        says += &format!("; to be all of it, its instructions would take {needed:.2} cycles each");
    }
    Finding {
        about: format!("in the host: {}", copy.name),
        verdict: Verdict::of_share(share),
        says,
        share: Some(share),
    }
}

/// Whether our own path that exits has such a penalty.
fn ours(
    model: &CostModel,
    results: &FigureResults,
    exits: &str,
    crosses_not: &str,
    curves: &Curves<'_>,
) -> Option<Finding> {
    let counts = |series, x: f64| Counts::of(results, series, Some(x as u32));
    let (first, last) = (curves.first.x, curves.last.x);
    let penalty = |x| Some([(1.0, counts(exits, x)?), (-1.0, counts(crosses_not, x)?)]);
    let (at_first, at_last) = (penalty(first)?, penalty(last)?);
    let instructions = |terms: &[(f64, Counts); 2]| {
        let terms = terms.iter();
        terms
            .map(|(sign, one)| sign * (one.guest_instructions + one.host_instructions))
            .sum::<f64>()
    };
    let grown = [
        at_last[0],
        at_last[1],
        negated(at_first[0]),
        negated(at_first[1]),
    ];
    let added = model.sum_of_nanoseconds(&grown);
    let share = added.map(|time| time / curves.growth);
    Some(Finding {
        about: format!("Postern's own {exits}, as measured"),
        verdict: Verdict::of_share(share),
        says: format!(
            "it takes {:.0} instructions a packet more than {crosses_not} at {first} bytes and {:.0} \
             at {last}; projected, its penalty is {:.0} ns and {:.0} ns, and grows by {added:.0} ns, \
             where {:.0} ns are published",
            instructions(&at_first),
            instructions(&at_last),
            model.sum_of_nanoseconds(&at_first),
            model.sum_of_nanoseconds(&at_last),
            curves.growth
        ),
        share: Some(share),
    })
}

fn negated((factor, counts): (f64, Counts)) -> (f64, Counts) {
    (-factor, counts)
}

#[cfg(test)]
#[path = "growth_tests.rs"]
mod tests;
