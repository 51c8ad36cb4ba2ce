//! Times of frames through the NIC, beside those of plain copies: `cargo bench -p postern-nic-bench`.
//!
//! For each case and scope (see the library) four take turns in short rounds of one process, so that
//! whatever disturbs the host disturbs all of them alike: the switch as part of this program, the
//! switch of the view's image, the floor by `memcpy`, and the floor by vector registers. A round in
//! which another thread took the processor away does not count. The results are medians of the rounds'
//! ratios, with their 10th and 90th percentiles; nanoseconds are for orientation. Before each turn that
//! is timed there is one around all of its own rings that is not, since the others have used the caches
//! meanwhile.
//!
//! Then two senders on two processors are compared with one.
//!
//! Files: `nic.csv` has every round, `nic.json` all that is printed, `nic.svg` and `nic.png` the plot.
#![allow(clippy::unwrap_used, reason = "a failure ends the benchmark")]

mod host;
mod measure;
mod plot;
mod report;
mod spread;
mod threads;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;

use host::{HostFacts, Load};
use measure::{Row, Turns};
use postern_nic_bench::case::{Case, USUAL};
use postern_nic_bench::floor::Scope;
use postern_nic_bench::image::ViewImage;
use report::NicReport;

/// Measures frames through the NIC beside plain copies of them.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo bench -p postern-nic-bench --")]
struct NicOptions {
    /// PATTERN/PORTS/LENGTH/BATCH, such as unicast/2/64/32, scatter/64/1500/8, broadcast/16/64/1
    #[arg(default_values = USUAL)]
    cases: Vec<Case>,
    /// Size of the NIC's TX rings in bytes, a power of two [default: that of such a NIC]
    #[arg(long)]
    ring: Option<u32>,
    /// Size of a lane in bytes, a power of two [default: that of such a NIC]
    #[arg(long)]
    lane: Option<u32>,
    /// Seconds for each line of the table
    #[arg(long, default_value_t = 2.5)]
    seconds: f64,
    /// Microseconds of a turn of a round
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    turn: u64,
    /// Leaves the comparison of two senders with one out
    #[arg(long)]
    no_threads: bool,
    /// Directory of the files [default: nic-bench in cargo's target directory]
    #[arg(long)]
    out: Option<PathBuf>,
    /// An argument that `cargo bench` adds
    #[arg(long, hide = true)]
    bench: bool,
}

/// The directory for files: `nic-bench` in cargo's target directory.
fn default_directory() -> PathBuf {
    // The program is target/release/deps/nic-0123456789abcdef.
    let program = std::env::current_exe().unwrap_or_default();
    let target = program.ancestors().nth(3).unwrap_or(Path::new("target"));
    target.join("nic-bench")
}

fn main() -> anyhow::Result<()> {
    let options = NicOptions::parse();
    let seconds = Duration::try_from_secs_f64(options.seconds).context("--seconds")?;
    let turns = Turns {
        seconds,
        length: Duration::from_micros(options.turn),
    };
    let directory = default_directory();
    let file = ViewImage::build(&directory.join("image"))?;
    // SAFETY: the file was made of this checkout just now.
    let mut image = unsafe { ViewImage::load(&file) }?;
    let (start, load) = (Instant::now(), Load::now());
    let mut report = NicReport::new(HostFacts::here(), load);
    for case in options.cases {
        match case.geometry(options.ring, options.lane) {
            Ok(geometry) => {
                for scope in Scope::ALL {
                    let rounds = measure::rounds(case, geometry, scope, &mut image, &turns);
                    report.row(Row::new(case, scope, rounds));
                }
            }
            Err(reason) => report.leave_out(case, &reason),
        }
    }
    anyhow::ensure!(report.has_rows(), "no case was measured");
    if !options.no_threads {
        report.senders(threads::measure(&turns));
    }
    report.end(load, start.elapsed());
    let out = options.out.unwrap_or(directory);
    report
        .write(&out)
        .with_context(|| format!("cannot write the results to {}", out.display()))?;
    println!("files: {}", out.display());
    Ok(())
}
