//! The demo: the same frames from one VM to another on each path, proved and counted.
//!
//! ```text
//!   options --> inputs (capture or pcap file; 64-byte frames)
//!                 |
//!                 v
//!   testbed  --> plan: a scenario for each path, input and batch --> NIC, sender VM, receiver VM
//!                 |
//!                 v
//!   report   <-- rows: every frame proved, every instruction counted
//! ```

mod options;
mod plan;

use std::time::Instant;

use anyhow::{Context, Result, bail};
use postern_abi::ABI_VERSION;
use postern_lab::output;
use postern_lab::setup::cache::Cache;
use postern_lab::setup::progress::Progress;
use postern_lab::testbed::Testbed;

use crate::report::{DemoReport, Meta, Pcap};
use crate::revision::revision;
use crate::say::say;
use crate::scenario::{Setting, execute, results};
use crate::traffic::{Trace, capture, pcap};

pub use options::DemoOptions;

/// Runs the demo: prints progress and tables, and writes what the options ask for.
///
/// # Errors
///
/// A sentence for what is missing, refused or failed. Results that are not whole are not written.
pub fn run(options: &DemoOptions) -> Result<()> {
    let start = Instant::now();
    if let Some(file) = &options.json {
        output::check_writable(file)?;
    }
    let given = options.pcap.as_deref().map(pcap::load).transpose()?;
    let cache = Cache::open()?;
    let captures = cache.path("traffic");
    if given.is_none() {
        capture::check_possible(&captures)?;
    }
    let testbed = Testbed::prepare()?;
    let (trace, origin) = match (given, &options.pcap) {
        (Some(trace), Some(file)) => (trace, file.display().to_string()),
        _ => {
            // Runs at once send the same frames.
            let _lock = cache.lock(&Progress::new(), "traffic")?;
            (capture::cached(&captures)?, CAPTURED.to_owned())
        }
    };

    say(&format!("Input pcap: {} ({origin})", trace.summary()));
    let input = Pcap::of(&trace, &origin);
    let (mut report, failures) = measure(&testbed, options, &trace, input, &say)?;
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

/// Makes all runs with the frames of `trace`: gives what they showed, and a sentence for each that
/// failed. `progress` gets a line for each as it begins.
///
/// # Errors
///
/// When the testbed cannot run jobs at all.
pub fn measure(
    testbed: &Testbed,
    options: &DemoOptions,
    trace: &Trace,
    input: Pcap,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<(DemoReport, Vec<String>)> {
    let sent = [
        Trace::synthetic(plan::SMALL, options.frames),
        trace.cycle_to(options.frames).named("pcap"),
    ];
    let setting = Setting {
        seccomp: options.seccomp,
        ..Setting::new(testbed.source(), plan::RINGS)
    };
    let scenarios = plan::scenarios(&setting, &sent, &options.batches())?;
    let outcomes = execute::run(testbed, &scenarios, &sent, progress)?;
    let results = results::collect(testbed.source(), &scenarios, &sent, outcomes.jobs);
    let meta = Meta {
        revision: revision(),
        abi_version: ABI_VERSION,
        machine: outcomes.machine,
        kernel: outcomes.kernel,
        pcap: input,
        frames: options.frames,
        rings: setting.rings,
        seccomp: setting.seccomp,
        seconds: 0.0,
    };
    let report = DemoReport::new(testbed.source(), results.traffic, results.calls, meta);
    Ok((report, results.failures))
}

/// Origin of the default input, for people.
const CAPTURED: &str = "captured between two network namespaces";
