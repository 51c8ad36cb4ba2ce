//! `cargo paper`: the evaluation of the paper, measured again beside the published values.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use postern_lab::interrupt;
use postern_paper::bundle;
use postern_paper::commands::merge::MergeArguments;
use postern_paper::commands::model::ModelArguments;
use postern_paper::commands::report::ReportArguments;
use postern_paper::commands::run::RunArguments;
use postern_paper::commands::{list, merge, model, report, run};

/// Measure the figures and tables of the paper again, beside the published values. Without a command:
/// all of them
#[derive(Parser)]
#[command(name = "postern-paper", bin_name = "cargo paper", version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Print all figures: what each shows, its points, and roughly how long it takes
    List,
    /// Run figures: print their tables, and write their results
    Run(RunArguments),
    /// Make a folder that another host runs figures with: `FOLDER/postern-paper run`, as root, where KVM is
    /// patched; it needs nothing else
    Bundle {
        /// New folder
        folder: PathBuf,
    },
    /// Put results of several machines into one folder: `run --shard K/N` on each of them
    Merge(MergeArguments),
    /// Print the cost model, its check against published values, and what it makes of results
    Model(ModelArguments),
    /// Write a report of results beside what was published, or compare two folders of results
    Report(ReportArguments),
}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    interrupt::exit_code(carry_out(command))
}

fn carry_out(command: Option<Command>) -> Result<ExitCode> {
    interrupt::install()?;
    match command.unwrap_or(Command::Run(RunArguments::default())) {
        Command::List => list::list()?,
        Command::Run(arguments) => run::run(&arguments)?,
        Command::Bundle { folder } => bundle::make(&folder)?,
        Command::Merge(arguments) => merge::merge(&arguments)?,
        Command::Model(arguments) => model::model(&arguments)?,
        Command::Report(arguments) => report::report(&arguments)?,
    }
    Ok(ExitCode::SUCCESS)
}
