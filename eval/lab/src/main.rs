//! `cargo lab`: the emulated machine, and everything that it is made of.

#![forbid(unsafe_code)]

mod commands;

use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use postern_lab::interrupt;
use postern_lab::setup::{self, Series};

/// An emulated Intel machine with VMFUNC, to try Postern in
#[derive(Parser)]
#[command(name = "postern-lab", version)]
struct Cli {
    /// Kernels of this series: a folder of kernel-patches/series, such as 6.12 for Linux 6.12.
    /// Without it, setup makes those of all series, and machines boot those of the default one
    #[arg(long, global = true, value_name = "NAME", value_parser = parse_series)]
    series: Option<Series>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make all that is missing: packages, emulator, kernels, modules, programs
    Setup,
    /// Show what the cache takes, by directory
    Cache,
    /// Remove from the cache what the last run did not use
    Clean(commands::CleanArgs),
    /// The emulated machine
    #[command(subcommand)]
    Machine(Box<commands::machine::MachineCommand>),
}

fn main() -> ExitCode {
    let first = std::env::args().nth(1);
    let matches = command(first.as_deref()).get_matches();
    let parsed = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    interrupt::exit_code(run(parsed))
}

/// The commands by the names that the user has for them: `cargo machine` is `cargo lab machine`
/// (.cargo/config.toml).
fn command(first: Option<&str>) -> clap::Command {
    Cli::command().bin_name(match first {
        Some("machine") => "cargo",
        _ => "cargo lab",
    })
}

fn run(Cli { series, command }: Cli) -> Result<ExitCode> {
    interrupt::install()?;
    match command {
        Command::Setup => match series {
            Some(series) => commands::setup(&[series]),
            None => commands::setup(&Series::all(setup::root())?),
        },
        Command::Cache => commands::cache(),
        Command::Clean(arguments) => commands::clean(&arguments),
        Command::Machine(command) => match series {
            Some(series) => commands::machine::run_command(&series, *command),
            None => commands::machine::run_command(&Series::default_one(setup::root())?, *command),
        },
    }
}

fn parse_series(name: &str) -> Result<Series> {
    Series::named(setup::root(), name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_has_the_names_that_users_type() {
        let usage = |first: &str, words: &[&str]| {
            let error = command(Some(first))
                .try_get_matches_from(words)
                .unwrap_err();
            error.to_string()
        };
        let run = usage("machine", &["postern-lab", "machine", "run"]);
        assert!(run.contains("Usage: cargo machine run "), "{run}");
        let run = usage("lab", &["postern-lab", "machine", "run"]);
        assert!(run.contains("Usage: cargo lab machine run "), "{run}");
    }
}
