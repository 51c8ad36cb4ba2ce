//! `cargo lab`: the emulated machine, and everything that it is made of.

#![forbid(unsafe_code)]

mod commands;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use postern_lab::interrupt;

/// An emulated Intel machine with VMFUNC, to try Postern in
#[derive(Parser)]
#[command(name = "postern-lab", bin_name = "cargo lab", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make all that is missing: packages, emulator, kernel, modules, programs
    Setup,
    /// Show what the cache takes, by directory
    Cache,
    /// Remove from the cache what the last run did not use
    Clean(commands::CleanArgs),
    /// The emulated machine
    #[command(subcommand)]
    Machine(commands::MachineCommand),
}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    interrupt::exit_code(run(command))
}

fn run(command: Command) -> Result<ExitCode> {
    interrupt::install()?;
    match command {
        Command::Setup => commands::setup(),
        Command::Cache => commands::cache(),
        Command::Clean(arguments) => commands::clean(&arguments),
        Command::Machine(command) => commands::machine(command),
    }
}
