//! `cargo paper model`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use postern_bench::text_table::TextTable;

use super::say;
use crate::experiment::{self, Experiment};
use crate::model::check::{self, Beside};
use crate::model::headline::{self, BATCHES, CROSSES_NOT, EXITS, EXPERIMENT, Headline};
use crate::model::{CostModel, Finding, growth};
use crate::results::Folder;

/// Arguments of the command.
#[derive(Args, Clone, Debug, Default)]
pub struct ModelArguments {
    /// Folder of results to project: the headline, and which constant matters for it
    #[arg(value_name = "RESULTS")]
    pub results: Option<PathBuf>,

    /// Another model than eval/bench/cost-model.toml
    #[arg(long, value_name = "FILE")]
    pub model: Option<PathBuf>,
}

/// Prints the model, its check against published values, and the headline of results.
///
/// # Errors
///
/// A file that is no model, and a folder without results.
pub fn model(arguments: &ModelArguments) -> Result<()> {
    let root = experiment::root();
    let file = CostModel::file(arguments.model.as_deref());
    let model = CostModel::read_file(&file)?;
    let experiments = experiment::all(root)?;
    let measured = match &arguments.results {
        Some(folder) => Folder::open(folder)?.read(EXPERIMENT)?,
        None => None,
    };

    say(&format!(
        "The model: {}\n\n{}",
        file.display(),
        constants(&model)
    ));
    say("Empty call, published beside projected:\n");
    say(&empty_calls(&model, &experiments)?.to_string());
    say(
        "Published curves beside projected ones (ns more than without crossings; ratio of the two):\n",
    );
    say(&curves(&model, &experiments)?.to_string());
    say("Why the published penalty of the path that exits grows with the size of frames:\n");
    let ours = measured
        .as_ref()
        .map(|results| (results, EXITS, CROSSES_NOT));
    print_findings(&growth::findings(&model, &experiments, ours)?);
    if let Some(results) = &arguments.results {
        let experiment = experiments.iter().find(|one| one.name == EXPERIMENT);
        let headline = experiment
            .zip(measured.as_ref())
            .and_then(|(experiment, measured)| headline::of(&model, experiment, measured));
        match headline {
            Some(headline) => {
                print_headline(&model, &headline);
                say("Why it is not what is published:\n");
                let batches = Folder::open(results)?.read(BATCHES)?;
                let measured = measured.as_ref();
                if let Some(measured) = measured {
                    let batches = batches.as_ref();
                    print_findings(&headline::findings(
                        &model,
                        &experiments,
                        measured,
                        batches,
                    )?);
                }
            }
            None => say(&format!(
                "\n{} has no results of {EXPERIMENT} to project: cargo paper run {EXPERIMENT}",
                results.display()
            )),
        }
    }
    Ok(())
}

fn print_findings(findings: &[Finding]) {
    for finding in findings {
        let share = finding.share.map_or(String::new(), |share| {
            format!(", {:.0} % of it", share.map(|share| share * 100.0))
        });
        let verdict = finding.verdict.words();
        say(&format!(
            "- {}: {verdict}{share}. {}.",
            finding.about,
            capital(&finding.says)
        ));
    }
    say("");
}

fn constants(model: &CostModel) -> String {
    let mut table = TextTable::new(&["constant", "low", "middle", "high", "unit"]);
    let mut sources = String::new();
    for (name, constant) in model.constants.prices() {
        table.row(vec![
            name.to_owned(),
            constant.low.to_string(),
            constant.middle.to_string(),
            constant.high.to_string(),
            constant.unit.clone(),
        ]);
        sources += &format!("- {name}: {}\n", constant.source);
    }
    format!("{table}\n{sources}")
}

/// A published value, the projected one, and how far the first is outside the other's limits.
fn beside(value: Beside, digits: usize) -> [String; 3] {
    let miss = value.miss() * 100.0;
    [
        format!("{:.digits$}", value.published),
        format!("{:.digits$}", value.projected),
        match miss == 0.0 {
            true => "within".to_owned(),
            false => format!("{miss:+.0} %"),
        },
    ]
}

fn empty_calls(model: &CostModel, experiments: &[Experiment]) -> Result<TextTable> {
    let mut table = TextTable::new(&["", "what", "published", "projected", "miss"]);
    for call in check::empty_calls(model, experiments)? {
        for (what, value, digits) in [
            ("ratio", call.ratio, 2),
            ("base, ns", call.base, 0),
            ("other, ns", call.other, 0),
        ] {
            let mut row = vec![call.name.clone(), what.to_owned()];
            row.extend(beside(value, digits));
            table.row(row);
        }
    }
    Ok(table)
}

fn curves(model: &CostModel, experiments: &[Experiment]) -> Result<TextTable> {
    let call = &model.published.empty_call[0];
    let (base, other) = (&call.base.system, &call.other.system);
    let head = [
        "figure".to_owned(),
        "x".to_owned(),
        format!("{base} adds"),
        "projected".to_owned(),
        "miss".to_owned(),
        format!("{other} adds"),
        "projected".to_owned(),
        "miss".to_owned(),
        "ratio".to_owned(),
        "projected".to_owned(),
        "miss".to_owned(),
    ];
    let head: Vec<&str> = head.iter().map(String::as_str).collect();
    let mut table = TextTable::new(&head);
    for check in check::curves(model, experiments)? {
        for point in &check.points {
            let mut row = vec![check.experiment.clone(), point.x.to_string()];
            if point.limited_by_link {
                row.push("the link is the limit".to_owned());
                row.resize(head.len(), "-".to_owned());
            } else {
                row.extend(beside(point.base, 0));
                row.extend(beside(point.other, 0));
                row.extend(beside(point.ratio, 2));
            }
            table.row(row);
        }
    }
    Ok(table)
}

fn print_headline(model: &CostModel, headline: &Headline) {
    let mut table = TextTable::new(&["x", "gain projected, %", "published, %"]);
    for (x, gain, published) in &headline.gains {
        let published = published.map_or("-".to_owned(), |gain| format!("{gain:.0}"));
        table.row(vec![x.to_string(), format!("{gain:.0}"), published]);
    }
    say(&format!("\nelisa over {EXITS} between VMs:\n\n{table}"));
    if let Some((x, gain)) = headline.largest() {
        let published = headline.published;
        let published = published.map_or("no gain".to_owned(), |gain| format!("+{gain:.0} %"));
        say(&format!(
            "Headline, projected: {gain:+.0} %, at {x}; published: {published}\n\nWhich constant \
             matters at {x} (gain in %, each alone at its limits):\n"
        ));
    }
    let mut table = TextTable::new(&["constant", "gain, %"]);
    let (base, other) = &headline.largest;
    for (name, bar) in model.tornado(base, other) {
        let gain = bar.map(|ratio| (ratio - 1.0) * 100.0);
        table.row(vec![name.to_owned(), format!("{gain:.0}")]);
    }
    say(&table.to_string());
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters
        .next()
        .map(|letter| letter.to_uppercase().to_string());
    first.unwrap_or_default() + letters.as_str()
}
