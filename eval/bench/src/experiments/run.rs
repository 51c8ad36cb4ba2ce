//! Runs an experiment and writes its results.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use postern_abi::ABI_VERSION;
use postern_lab::output;
use postern_lab::testbed::Testbed;
use serde::Serialize;

use super::definition::{Experiment, PlotSpec, WorkloadSpec};
use super::figures::{Figures, Label};
use crate::report::{self, RingSizes};
use crate::revision::revision;
use crate::scenario::{Scenario, Setting, execute, results};

/// Sizes of the rings, which empty calls do not use.
const RINGS: RingSizes = RingSizes {
    ring_bytes: 64 << 10,
    lane_bytes: 64 << 10,
};

/// Content of `results.json`: what was run, where, and on what.
#[derive(Serialize)]
struct About<'a> {
    experiment: &'a str,
    label: Label,
    revision: String,
    abi_version: u32,
    machine: String,
    kernel: String,
    scenarios: &'a [Scenario],
    seconds: f64,
}

/// A function that draws the plot of an experiment with this title into a folder, and says whether
/// there was a font to draw with. `cargo paper` has one; it is not here, since only plots need what
/// it is built of.
pub type Draw = dyn Fn(&str, &PlotSpec, &Figures, &Path) -> Result<bool>;

/// Runs an experiment, and writes `results.csv` and `results.json` into `folder`, where `draw` draws
/// the plot. `say` gets lines for the user: each scenario when it begins, the table, and where the
/// files are.
///
/// # Errors
///
/// A sentence for what is missing or failed. Results that are not whole are not written.
pub fn run(
    experiment: &Experiment,
    folder: &Path,
    draw: &Draw,
    say: &(dyn Fn(&str) + Sync),
) -> Result<()> {
    let start = Instant::now();
    let fail = || format!("cannot write into {}", folder.display());
    fs::create_dir_all(folder).with_context(fail)?;
    let csv = folder.join("results.csv");
    output::check_writable(&csv).with_context(fail)?;
    let testbed = Testbed::prepare()?;
    let setting = Setting::new(testbed.source(), RINGS);
    let WorkloadSpec::Calls { runs } = &experiment.definition.workload;
    let scenarios = runs
        .iter()
        .map(|run| Scenario::calls(&setting, run.path, run.calls))
        .collect::<Result<Vec<_>>>()?;
    let outcomes = execute::run(&testbed, &scenarios, &[], say)?;
    let mut results = results::collect(testbed.source(), &scenarios, &[], outcomes.jobs);
    if !results.failures.is_empty() {
        bail!(
            "{} of {} runs failed:\n{}",
            results.failures.len(),
            scenarios.len(),
            results.failures.join("\n")
        );
    }
    report::fill_call_ratios(&mut results.calls);

    let figures = Figures::new(testbed.source(), &results.calls, &experiment.published);
    let definition = &experiment.definition;
    say(&format!("\n{} ({})\n", definition.title, definition.paper));
    say(&figures.to_string());
    figures.write_csv(&csv).with_context(fail)?;
    let about = About {
        experiment: &experiment.name,
        label: Label::Measured(testbed.source()),
        revision: revision(),
        abi_version: ABI_VERSION,
        machine: outcomes.machine,
        kernel: outcomes.kernel,
        scenarios: &scenarios,
        seconds: start.elapsed().as_secs_f64(),
    };
    let json = folder.join("results.json");
    output::write_whole(&json, |out| {
        serde_json::to_writer_pretty(&mut *out, &about)?;
        writeln!(out)
    })
    .with_context(fail)?;
    if !draw(&definition.title, &definition.plot, &figures, folder)? {
        say("no plot: there is no font; apt-get install fonts-dejavu-core");
    }
    say(&format!("Results: {}", folder.display()));
    Ok(())
}
