//! `cargo suite`: runs all tests.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use postern_lab::interrupt;
use postern_suite::SuiteOptions;

/// Run all tests, or those with one of the given words in their names
#[derive(Parser)]
#[command(name = "postern-suite", bin_name = "cargo suite", version)]
struct Cli {
    #[command(flatten)]
    options: SuiteOptions,
}

fn main() -> ExitCode {
    let options = Cli::parse().options;
    interrupt::exit_code(run(&options))
}

fn run(options: &SuiteOptions) -> Result<ExitCode> {
    interrupt::install()?;
    Ok(match postern_suite::run(options)? {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}
