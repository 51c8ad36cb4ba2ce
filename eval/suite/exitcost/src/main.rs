//! Counts what VM exits cost that the host's kernel handles by itself, as the guest's time-stamp
//! counter tells it. In the emulated machine one tick is one instruction, of guest and host
//! together, and the cost is exact; on hardware it is cycles.
//!
//! It needs KVM, with views or without. For each kind of exit there is a line of `NAME MEDIAN
//! LEAST`, the median and the least of some thousand exits, in ticks from the instruction that exits
//! to the next one. The median minds no interrupt of the host.

mod guest;

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};

use guest::{KINDS, Kind};

/// Ticks that no exit can do with: an instruction that takes fewer did not exit.
const NO_EXIT: u32 = 200;

fn main() -> ExitCode {
    for kind in KINDS {
        match cost(kind) {
            Ok((median, least)) => println!("{} {median} {least}", kind.name),
            Err(error) => {
                eprintln!("postern-exitcost: {}: {error:#}", kind.name);
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

/// Median and least number of ticks, less what the measuring itself takes.
fn cost(kind: &Kind) -> Result<(u32, u32)> {
    let own = sorted(guest::measure(kind.prepare, &[])?);
    let all = sorted(guest::measure(kind.prepare, kind.exit)?);
    let least = |ticks: &[u32]| ticks.first().copied().context("nothing was measured");
    let median = |ticks: &[u32]| ticks.get(ticks.len() / 2).copied().context("no median");
    let cost = (
        median(&all)?.saturating_sub(median(&own)?),
        least(&all)?.saturating_sub(least(&own)?),
    );
    ensure!(
        cost.1 > NO_EXIT,
        "{} ticks are no VM exit; the processor does it in the guest",
        cost.1
    );
    Ok(cost)
}

fn sorted(mut ticks: Vec<u32>) -> Vec<u32> {
    ticks.sort_unstable();
    ticks
}
