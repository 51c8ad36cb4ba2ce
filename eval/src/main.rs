//! The runner: `cargo demo`, `cargo suite` and `cargo lab` are its subcommands.

mod lab;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use postern_eval::{demo, interrupt, suite};

/// Postern's runner: shows it, tests it, and has a machine to try it in
#[derive(Parser)]
#[command(name = "postern-eval", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Send real traffic from VM to VM on every path, prove that it arrived, and compare what it costs
    Demo(demo::Options),
    /// Run all tests, or those with one of the given words in their names
    Suite(suite::Options),
    /// Make all that the other commands need: packages, emulator, kernel, modules, programs
    Setup,
    /// The emulated machine
    #[command(subcommand)]
    Machine(lab::Command),
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            match interrupt::requested() {
                // As a shell would say it.
                true => ExitCode::from(130),
                false => ExitCode::FAILURE,
            }
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    interrupt::install()?;
    match cli.command {
        Command::Demo(options) => demo::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Suite(options) => {
            let passed = suite::run(&options)?;
            Ok(if passed {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }
        Command::Setup => lab::setup(),
        Command::Machine(command) => lab::machine(command),
    }
}
