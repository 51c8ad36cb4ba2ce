//! A fixed number of steps of one case, for callgrind to count: `tests/instructions.rs` runs it.
//!
//! `steps PATTERN PORTS LENGTH BATCH SLOTS STEPS`, under `valgrind --tool=callgrind
//! --toggle-collect='*nic::request*'`, counts the instructions of calls, and none of the harness.
//! Runs of two numbers of steps differ by the difference of these numbers alone.

use std::process::ExitCode;

use postern_nic_bench::case::{Case, Pattern};
use postern_nic_bench::memory::BenchNic;
use postern_nic_bench::nic::Traffic;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let (case, steps) = arguments().ok_or(
        "arguments: PATTERN PORTS LENGTH BATCH SLOTS STEPS, such as unicast 2 64 32 128 1000",
    )?;
    let nic = BenchNic::new(case.geometry()?)?;
    let mut traffic = Traffic::new(&nic, case, 0);
    traffic.run(steps);
    traffic.check();
    Ok(())
}

fn arguments() -> Option<(Case, u64)> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next()?;
    let pattern = Pattern::ALL.into_iter().find(|one| one.name() == name)?;
    let numbers: Vec<u32> = arguments
        .map(|number| number.parse().ok())
        .collect::<Option<_>>()?;
    let &[ports, length, batch, slots, steps] = &numbers[..] else {
        return None;
    };
    let case = Case {
        pattern,
        ports,
        length,
        batch,
        slots,
    };
    Some((case, steps.into()))
}
