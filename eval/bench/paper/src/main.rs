//! `cargo paper`: figures of the paper, measured again beside the published values.

#![forbid(unsafe_code)]

mod plot;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use postern_bench::experiments;
use postern_lab::{interrupt, setup};

/// Measure the figures and tables of the paper again, beside the published values
#[derive(Parser)]
#[command(name = "postern-paper", bin_name = "cargo paper", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print the names of all experiments, what they measure, and roughly how long they take
    List,
    /// Run an experiment: print its table, and write results.csv, results.json and the plot
    Run {
        /// Name of the experiment, a folder of eval/experiments
        name: String,

        /// Folder for the results [default: target/experiments/NAME]
        #[arg(long, value_name = "FOLDER")]
        out: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    interrupt::exit_code(run(command))
}

fn run(command: Command) -> Result<ExitCode> {
    interrupt::install()?;
    match command {
        Command::List => {
            for experiment in experiments::all(setup::root())? {
                let definition = &experiment.definition;
                say(&format!(
                    "{}  {} ({}), {} min",
                    experiment.name, definition.title, definition.paper, definition.minutes
                ));
            }
        }
        Command::Run { name, out } => {
            let experiment = experiments::load(setup::root(), &name)?;
            let default = || setup::root().join("target/experiments").join(&name);
            let folder = out.unwrap_or_else(default);
            experiments::run(&experiment, &folder, &plot::draw, &say)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints a line. A reader that has gone away is no failure.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}
