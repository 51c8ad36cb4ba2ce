//! The cost model in the report: its constants, its check, and what it finds.

use anyhow::Result;
use serde::Serialize;

use super::source::{Source, State};
use super::tables::{NOTHING, band};
use super::view::{Column, Fact, Plot, Table};
use crate::experiment::Experiment;
use crate::model::check::{self, Beside};
use crate::model::headline::{self, BATCHES, CROSSES_NOT, EXITS, EXPERIMENT, SWITCHES};
use crate::model::{Band, CostModel, FILE, Finding, Verdict, growth};
use crate::plot::{self, Bar, Kind, Look, number};
use crate::results::FigureResults;

/// The cost model in the report.
#[derive(Clone, Debug, Serialize)]
pub struct Projection {
    /// Its file.
    pub file: &'static str,
    /// Its constants.
    pub constants: Table,
    /// Empty calls, published beside projected.
    pub empty_calls: Table,
    /// Curves, published beside projected.
    pub curves: Table,
    /// What was found out about the published penalty that grows.
    pub findings: Vec<Fact>,
    /// Why the headline is less or more than what was published.
    pub reasons: Vec<Fact>,
    /// Which constant matters for the headline.
    pub tornado: Option<Plot>,
}

/// The model as it is, and what it makes of the first folder that has the headline's figure.
///
/// # Errors
///
/// Published values that the model is checked against and that are not there.
pub fn projection(
    model: &CostModel,
    experiments: &[Experiment],
    sources: &[Source],
) -> Result<Projection> {
    let find = |name: &str| experiments.iter().find(|one| one.name == name);
    let experiment = find(EXPERIMENT);
    let measured = experiment.and_then(|experiment| counted(experiment, sources));
    let batches = find(BATCHES).and_then(|experiment| counted(experiment, sources));
    let ours = measured
        .as_ref()
        .map(|results| (results, EXITS, CROSSES_NOT));
    let findings = growth::findings(model, experiments, ours)?;
    let reasons = match &measured {
        Some(measured) => headline::findings(model, experiments, measured, batches.as_ref())?,
        None => Vec::new(),
    };
    let headline = experiment
        .zip(measured.as_ref())
        .and_then(|(experiment, measured)| headline::of(model, experiment, measured));
    let tornado = match headline {
        None => None,
        Some(headline) => {
            let (base, other) = &headline.largest;
            let bars = model.tornado(base, other);
            Some(tornado(&bars, headline.largest().map(|(x, _)| x))?)
        }
    };
    Ok(Projection {
        file: FILE,
        constants: constants(model),
        empty_calls: empty_calls(model, experiments)?,
        curves: curves(model, experiments)?,
        findings: findings.iter().map(fact).collect(),
        reasons: reasons.iter().map(fact).collect(),
        tornado,
    })
}

/// A finding in words.
fn fact(finding: &Finding) -> Fact {
    let share = finding.share.map_or(String::new(), |share| {
        let share = share.map(|share| share * 100.0);
        format!(", {} % of it", band(share))
    });
    let says = match finding.verdict {
        Verdict::Observed => format!("{}.", finding.says),
        verdict => format!("{}{share}: {}.", verdict.words(), finding.says),
    };
    Fact::new(&finding.about, says)
}

/// What was counted of an experiment, in the first folder that has it.
fn counted(experiment: &Experiment, sources: &[Source]) -> Option<FigureResults> {
    let emulated = |source: &&Source| source.folder.run.label == "emulated";
    let mut states = sources
        .iter()
        .filter(emulated)
        .map(|source| source.state(experiment));
    states.find_map(|state| match state {
        State::Results(results, _) => Some(*results),
        State::NotRun | State::Unusable(_) => None,
    })
}

fn constants(model: &CostModel) -> Table {
    let mut table = Table::new(&["constant", "low", "middle", "high", "unit", "source"]);
    for (name, constant) in model.constants.prices() {
        table.row([
            name.to_owned(),
            number(constant.low),
            number(constant.middle),
            number(constant.high),
            constant.unit.clone(),
            constant.source.clone(),
        ]);
    }
    table
}

fn with_beside(first: &[&str], names: &[&str]) -> Table {
    let mut table = Table::new(first);
    for name in names {
        table.columns.push(Column::labelled(name, "published"));
        table.columns.push(Column::labelled(name, "projected"));
        table.columns.push(Column::plain("miss"));
    }
    table
}

fn beside(value: Beside) -> [String; 3] {
    let miss = value.miss() * 100.0;
    [
        number(value.published),
        band(value.projected),
        match miss == 0.0 {
            true => "within".to_owned(),
            false => format!("{miss:+.0} %"),
        },
    ]
}

fn empty_calls(model: &CostModel, experiments: &[Experiment]) -> Result<Table> {
    let mut table = with_beside(&["call", "what"], &["value"]);
    for call in check::empty_calls(model, experiments)? {
        for (what, value) in [
            ("ratio", call.ratio),
            ("base, ns", call.base),
            ("other, ns", call.other),
        ] {
            let first = [call.name.clone(), what.to_owned()];
            table.row(first.into_iter().chain(beside(value)));
        }
    }
    Ok(table)
}

fn curves(model: &CostModel, experiments: &[Experiment]) -> Result<Table> {
    let call = &model.published.empty_call[0];
    let names = [
        format!("{} adds, ns", call.base.system),
        format!("{} adds, ns", call.other.system),
        "ratio".to_owned(),
    ];
    let mut table = with_beside(&["figure", "x"], &names.each_ref().map(|name| &name[..]));
    for check in check::curves(model, experiments)? {
        for point in check.points {
            let mut row = vec![check.experiment.clone(), number(point.x)];
            if point.limited_by_link {
                row.push("the link is the limit".to_owned());
                row.resize(table.columns.len(), NOTHING.to_owned());
            } else {
                for value in [point.base, point.other, point.ratio] {
                    row.extend(beside(value));
                }
            }
            table.row(row);
        }
    }
    Ok(table)
}

fn tornado(bars: &[(&str, Band)], x: Option<u32>) -> Result<Plot> {
    let bars: Vec<Bar> = bars
        .iter()
        .map(|(name, band)| Bar {
            name: (*name).to_owned(),
            look: Look(0),
            kind: Kind::Projected,
            value: band.middle,
            band: Some((band.low, band.high)),
        })
        .collect();
    let place = x.map_or(String::new(), |x| format!(" at {x}"));
    let title = format!("{SWITCHES} over {EXITS}{place}: each constant alone at its limits");
    let svg = plot::bars(&title, "times cheaper", &bars)?;
    Ok(Plot { title, svg })
}
