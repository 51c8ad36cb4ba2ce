//! A fixed number of steps of one case, for callgrind to count: `tests/instructions.rs` runs it.
//!
//! `steps SCOPE BUILD CASE STEPS`, such as `steps switch native unicast/2/64/32 1000`, under `valgrind
//! --tool=callgrind --toggle-collect=FUNCTION`, counts instructions of the function of a scope alone.
//! Runs of two numbers of steps differ by the difference of these numbers alone. BUILD is `native`, or
//! the file of the view's image, whose switch is called instead.
//!
//! | scope | function | what is counted |
//! | --- | --- | --- |
//! | `switch` | `*Service>::call` | calls into the switch |
//! | `whole` | `*Exchange*step*` | the guest library's writing, calling and reading, with the switch |
//! | `poll` | `*Exchange*poll*` | a receiver's looking when there is nothing |
//! | `one-receiver`, `two-receivers` | `*Service>::call` | calls of two senders in turn, who send to one receiver or to one each |

use std::path::Path;
use std::process::ExitCode;

use postern_guest::service::Service;
use postern_nic_bench::case::Case;
use postern_nic_bench::exchange::Exchange;
use postern_nic_bench::image::ViewImage;
use postern_nic_bench::memory::BenchNic;
use postern_nic_bench::traffic::Traffic;

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
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [scope, build, case, steps] = &arguments[..] else {
        return Err("arguments: SCOPE BUILD CASE STEPS".into());
    };
    let (case, steps): (Case, u64) = (case.parse()?, steps.parse()?);
    let geometry = case.geometry(None, None)?;
    let port = geometry.port(0).expect("port 0 exists");
    if build == "native" {
        let nic = BenchNic::new(geometry)?;
        if let Some(to) = receivers(scope) {
            let mut senders = to.map(|(from, to)| {
                let from_port = geometry.port(from).expect("the case has four ports");
                Traffic::between(&nic, case, from, &[to], nic.open(from_port).0)
            });
            for _ in 0..steps / 2 {
                senders.iter_mut().for_each(|sender| sender.run(1));
            }
            senders.iter().for_each(Traffic::check);
            return Ok(());
        }
        count(scope, &nic, case, steps, nic.open(port).0)
    } else {
        // SAFETY: the caller names an image of this revision.
        let mut image = unsafe { ViewImage::load(Path::new(build)) }?;
        let nic = BenchNic::in_view(geometry)?;
        count(scope, &nic, case, steps, image.call(&nic, port))
    }
}

/// Two senders and their receivers.
fn receivers(scope: &str) -> Option<[(u32, u32); 2]> {
    match scope {
        "one-receiver" => Some([(0, 1), (2, 1)]),
        "two-receivers" => Some([(0, 1), (2, 3)]),
        _ => None,
    }
}

fn count(
    scope: &str,
    nic: &BenchNic,
    case: Case,
    steps: u64,
    service: impl Service,
) -> Result<(), Box<dyn std::error::Error>> {
    match scope {
        "switch" => {
            let mut traffic = Traffic::new(nic, case, service);
            traffic.run(steps);
            traffic.check();
        }
        "whole" => {
            let mut exchange = Exchange::new(nic, case, service);
            exchange.run(steps);
            exchange.check();
        }
        "poll" => Exchange::new(nic, case, service).poll(steps),
        other => return Err(format!("there is no scope {other}").into()),
    }
    Ok(())
}
