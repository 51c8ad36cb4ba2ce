//! The main job of the runner: the same frames from one VM to another on each path, proved and counted.
//!
//! ```text
//!   options --> inputs (capture or pcap file; 64-byte frames)
//!                 |
//!                 v
//!   place    --> plan: one job a path, input and batch --> NIC, sender VM, receiver VM
//!                 |
//!                 v
//!   results  --> proof (frames received against frames sent), stats (marks of both VMs) --> report
//! ```

mod execute;
mod options;
pub(crate) mod plan;
pub(crate) mod results;
mod stats;

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use postern_abi::ABI_VERSION;

use crate::place::Place;
use crate::report::{Meta, Pcap, Report};
use crate::setup::cache::Cache;
use crate::traffic::{Trace, capture, pcap};
use crate::{output, setup};

pub use options::Options;
use plan::Plan;

/// Runs the demo: prints progress and tables, and writes what the options ask for.
///
/// # Errors
/// A sentence for what is missing, refused or failed. Results that are not whole are not written.
pub fn run(options: &Options) -> Result<()> {
    let start = Instant::now();
    if let Some(file) = &options.json {
        output::check_writable(file)?;
    }
    let given = options.pcap.as_deref().map(pcap::load).transpose()?;
    let captures = Cache::open()?.path("traffic");
    if given.is_none() {
        capture::check_possible(&captures)?;
    }
    let place = Place::prepare()?;
    let (trace, origin) = match (given, &options.pcap) {
        (Some(trace), Some(file)) => (trace, file.display().to_string()),
        _ => (capture::cached(&captures)?, CAPTURED.to_owned()),
    };

    say(&format!("Input pcap: {} ({origin})", trace.summary()));
    let input = Pcap::of(&trace, &origin);
    let (mut report, failures) = measure(&place, options, &trace, input, &say)?;
    report.meta.seconds = start.elapsed().as_secs_f64();

    say(&format!("\n{report}"));
    if !failures.is_empty() {
        let runs = failures.len() + report.traffic.len() + report.calls.len();
        bail!(
            "{} of {runs} runs failed:\n{}",
            failures.len(),
            failures.join("\n")
        );
    }
    say(&format!(
        "All frames of all {} runs arrived: once, in order, byte for byte.",
        report.traffic.len()
    ));
    if let Some(file) = &options.json {
        report
            .write_json(file)
            .with_context(|| format!("cannot write {}", file.display()))?;
        say(&format!("Results: {}", file.display()));
    }
    Ok(())
}

/// Prints a line. A reader that has gone away is no failure of the demo.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Makes all runs with the frames of `trace`: gives what they showed, and a sentence for each that
/// failed. `progress` gets a line for each as it begins.
///
/// # Errors
/// When the place cannot run jobs at all.
pub fn measure(
    place: &Place,
    options: &Options,
    trace: &Trace,
    input: Pcap,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<(Report, Vec<String>)> {
    let sent = [
        Trace::synthetic(plan::SMALL, options.frames),
        trace.cycle_to(options.frames).named("pcap"),
    ];
    let plan = Plan {
        inputs: &sent,
        counters: place.source().counters(),
        rings: plan::RINGS,
        programs: place.programs(),
    };
    let runs = plan::runs(sent.len(), &options.batches());
    let outcome = execute::run(place, &plan, &runs, progress)?;
    let results = results::collect(&plan, place.source(), &runs, outcome.done);
    let meta = Meta {
        revision: revision(),
        abi_version: ABI_VERSION,
        machine: outcome.machine,
        kernel: outcome.kernel,
        pcap: input,
        frames: options.frames,
        rings: plan.rings,
        seconds: 0.0,
    };
    let report = Report::new(place.source(), results.traffic, results.calls, meta);
    Ok((report, results.failures))
}

/// How the default input came about.
const CAPTURED: &str = "captured between two network namespaces";

/// The revision of the checkout, as git names it.
fn revision() -> String {
    let git = |folder: &Path| {
        let output = std::process::Command::new("git")
            .arg("-C")
            .arg(folder)
            .args(["describe", "--always", "--dirty", "--abbrev=12"])
            .output()
            .ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let text = text.trim();
        (output.status.success() && !text.is_empty()).then(|| text.to_owned())
    };
    git(setup::root()).unwrap_or_else(|| "unknown".to_owned())
}
