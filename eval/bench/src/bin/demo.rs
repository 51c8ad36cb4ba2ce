//! `cargo demo`: real traffic from VM to VM on every path.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use postern_bench::demo::{self, DemoOptions};
use postern_lab::interrupt;

/// Send real traffic from VM to VM on every path, prove that it arrived, and compare what it costs
#[derive(Parser)]
#[command(name = "postern-demo", bin_name = "cargo demo", version)]
struct Cli {
    #[command(flatten)]
    options: DemoOptions,
}

fn main() -> ExitCode {
    let options = Cli::parse().options;
    interrupt::exit_code(run(&options))
}

fn run(options: &DemoOptions) -> Result<ExitCode> {
    interrupt::install()?;
    demo::run(options).map(|()| ExitCode::SUCCESS)
}
