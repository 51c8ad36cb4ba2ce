//! A fixed number of steps of one case, for callgrind to count: `tests/instructions.rs` runs it.
//!
//! `steps SCOPE PATTERN PORTS LENGTH BATCH SLOTS STEPS`, under `valgrind --tool=callgrind
//! --toggle-collect=FUNCTION`, counts instructions of the function of a scope alone. Runs of two
//! numbers of steps differ by the difference of these numbers alone.
//!
//! | scope | function | what is counted |
//! | --- | --- | --- |
//! | `switch` | `*nic::request*` | calls into the switch |
//! | `whole` | `*Exchange*step*` | the guest library's writing, calling and reading, with the switch |
//! | `poll` | `*Exchange*poll*` | a receiver's looking when there is nothing |

use std::process::ExitCode;

use postern_nic_bench::case::{Case, Pattern};
use postern_nic_bench::exchange::Exchange;
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
    let (scope, case, steps) = arguments().ok_or(
        "arguments: switch|whole|poll PATTERN PORTS LENGTH BATCH SLOTS STEPS, \
         such as switch unicast 2 64 32 128 1000",
    )?;
    let nic = BenchNic::new(case.geometry()?)?;
    match scope.as_str() {
        "switch" => {
            let mut traffic = Traffic::new(&nic, case, 0);
            traffic.run(steps);
            traffic.check();
        }
        "whole" => {
            let mut exchange = Exchange::new(&nic, case);
            exchange.run(steps);
            exchange.check();
        }
        "poll" => Exchange::new(&nic, case).poll(steps),
        other => return Err(format!("there is no scope {other}").into()),
    }
    Ok(())
}

fn arguments() -> Option<(String, Case, u64)> {
    let mut arguments = std::env::args().skip(1);
    let scope = arguments.next()?;
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
    Some((scope, case, steps.into()))
}
