//! `cargo demo`: real traffic from VM to VM on every path.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use postern_bench::demo::{self, DemoOptions};
use postern_bench::linux::{self, LinuxOptions};
use postern_lab::interrupt;

/// Send real traffic from VM to VM on every path, prove that it arrived, and compare what it costs
#[derive(Parser)]
#[command(name = "postern-demo", bin_name = "cargo demo", version)]
struct Cli {
    #[command(flatten)]
    options: DemoOptions,
    #[command(flatten)]
    linux: LinuxOptions,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    interrupt::exit_code(run(cli))
}

fn run(cli: Cli) -> Result<ExitCode> {
    interrupt::install()?;
    let Cli { options, mut linux } = cli;
    if linux.linux {
        linux.json = options.json;
        linux::run(&linux)?;
    } else {
        demo::run(&options)?;
    }
    Ok(ExitCode::SUCCESS)
}
