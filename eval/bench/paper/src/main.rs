//! `cargo paper`: the evaluation of the paper, measured again beside the published values.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use postern_lab::interrupt;
use postern_paper::bundle;
use postern_paper::commands::calibrate::CalibrateArguments;
use postern_paper::commands::merge::MergeArguments;
use postern_paper::commands::model::ModelArguments;
use postern_paper::commands::report::ReportArguments;
use postern_paper::commands::run::{RunArguments, RunFlags};
use postern_paper::commands::{calibrate, list, merge, model, report, run};

/// Measure the figures and tables of the paper again, beside the published values. Without a command:
/// all of them, with a report
#[derive(Parser)]
#[command(name = "postern-paper", bin_name = "cargo paper", version)]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    flags: RunFlags,
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
    /// Write a cost model with constants of a processor that was measured, as far as empty calls tell them
    Calibrate(CalibrateArguments),
    /// Write a report of results beside what was published, or compare two folders of results
    Report(ReportArguments),
}

fn main() -> ExitCode {
    let Cli { command, flags } = Cli::parse();
    let everything = || {
        Command::Run(RunArguments {
            flags,
            ..RunArguments::default()
        })
    };
    interrupt::exit_code(carry_out(command.unwrap_or_else(everything)))
}

fn carry_out(command: Command) -> Result<ExitCode> {
    interrupt::install()?;
    match command {
        Command::List => list::list()?,
        Command::Run(arguments) => run::run(&arguments)?,
        Command::Bundle { folder } => bundle::make(&folder)?,
        Command::Merge(arguments) => merge::merge(&arguments)?,
        Command::Model(arguments) => model::model(&arguments)?,
        Command::Calibrate(arguments) => calibrate::calibrate(&arguments)?,
        Command::Report(arguments) => report::report(&arguments)?,
    }
    Ok(ExitCode::SUCCESS)
}
