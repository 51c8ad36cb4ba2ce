//! Ratios of the switch's time to that of plain copies: `cargo bench -p postern-nic-bench --bench
//! ratios`.
//!
//! For each case (see the library) the switch, `memcpy` from ring to ring and a vector copy from
//! ring to ring take turns in short rounds of one process, so that whatever disturbs the host
//! disturbs all of them alike. A round in which another thread took the processor away is repeated.
//! The result is the median of the rounds' ratios; nanoseconds are for orientation. Before each
//! turn that is timed there is one around all of its own rings that is not, since the others have
//! used the caches meanwhile.
//!
//! Two more comparisons are made in this way: a NIC of 64 ports against one of 2 with equal
//! traffic, with lanes of their default sizes and of equal size; and two senders on two processors,
//! to different receivers, against one.
//!
//! Files, all labelled `hardware`: `ratios.csv` has every round, `ratios.json` all that is printed
//! and the facts about the host, `ratios.svg` and `ratios.png` the plot of unicast between two
//! ports.
#![allow(clippy::unwrap_used, reason = "a failure ends the benchmark")]

mod host;
mod measure;
mod plot;
mod report;
mod rounds;
mod spread;
mod threads;

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use postern_abi::window::Geometry;

use measure::Turns;
use postern_nic_bench::case::{self, Case, Pattern};
use report::RatiosReport;
use rounds::{Comparison, Row};

/// Measures the switch beside plain copies of the same frames.
#[derive(Debug, Parser)]
struct RatiosOptions {
    /// All combinations instead of a selection: some ten minutes, and 4 GiB of memory
    #[arg(long)]
    full: bool,
    /// Only cases whose name contains this, such as "unicast/2 ports/64 B"
    #[arg(default_value = "")]
    filter: String,
    /// Rounds for each case
    #[arg(long, default_value_t = 101, value_parser = clap::value_parser!(u32).range(3..))]
    rounds: u32,
    /// Microseconds of a turn of a round
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    turn: u64,
    /// Leaves the comparison of two senders with one out
    #[arg(long)]
    no_threads: bool,
    /// Directory of the files [default: target/ratios]
    #[arg(long)]
    out: Option<PathBuf>,
    /// An argument that `cargo bench` adds
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let options = RatiosOptions::parse();
    let out = options
        .out
        .clone()
        .unwrap_or_else(report::default_directory);
    let turns = Turns {
        rounds: options.rounds,
        length: Duration::from_micros(options.turn),
    };
    let mut report = RatiosReport::new(host::HostFacts::here());
    report::head();
    for case in case::all() {
        let wanted = options.full || case::chosen(&case);
        if !wanted || !case.to_string().contains(&options.filter) {
            continue;
        }
        match case.geometry() {
            Ok(geometry) => report.row(Row::new(
                case,
                measure::against_floors(case, geometry, &turns),
            )),
            Err(reason) => report.leave_out(case, &reason),
        }
    }
    report::title("64 ports against 2, the same traffic");
    for (length, batch) in [(64, 32), (64, 1), (1500, 32)] {
        compare_ports(&mut report, length, batch, &options.filter, &turns);
    }
    if !options.no_threads {
        report::title("two senders to different receivers against one, packets");
        for (length, batch) in [(64, 32), (64, 1), (1500, 32)] {
            report.pair(threads::pair(length, batch, &turns));
        }
    }
    if let Err(error) = report.write(&out) {
        eprintln!("cannot write the results to {}: {error}", out.display());
        std::process::exit(1);
    }
    println!("\nfiles: {}", out.display());
}

/// Compares 64 ports with 2: with the lanes that each NIC has by default, and with lanes of equal
/// size.
fn compare_ports(report: &mut RatiosReport, length: u32, batch: u32, filter: &str, turns: &Turns) {
    let [two, many] = [2, 64].map(|ports| Case {
        pattern: Pattern::Unicast,
        ports,
        length,
        batch,
        slots: 128,
    });
    if ![two, many]
        .iter()
        .any(|case| case.to_string().contains(filter))
    {
        return;
    }
    let [own, larger] = [two, many].map(|case| case.geometry().unwrap());
    let same = Geometry::new(two.ports, 1, larger.ring(), larger.lane()).unwrap();
    for (geometry, lanes) in [(own, "default lanes"), (same, "equal lanes")] {
        let rounds = measure::against_each_other([(two, geometry), (many, larger)], turns);
        report.compare(Comparison::new(
            format!("{length} B/batch {batch}, {lanes}"),
            &rounds,
        ));
    }
}
