//! The program `postern`: one subcommand a file.

mod check;
mod error;
mod nic;
mod output;
mod parsers;
mod run;
mod stat;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use postern_vmm::status;

use error::CommandError;

/// An exit-less VM I/O research hypervisor.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Say what this host has of what views need, and what to do about the rest.
    #[command(after_help = check::HELP)]
    Check(check::Args),

    /// Boot one VM and wait for its end.
    #[command(after_help = status::HELP)]
    Run(Box<run::Args>),

    /// Run a NIC and several VMs, described in a file, until all have ended.
    #[command(after_help = up::HELP)]
    Up(up::Args),

    /// Own a NIC that VMs share, until a signal comes; or look at and change a running one.
    #[command(after_help = nic::HELP)]
    Nic(Box<nic::Args>),

    /// Keep a NIC for its next owner; started by postern nic.
    #[command(hide = true)]
    NicKeeper,

    /// Show the counters of a running NIC.
    Stat(stat::Args),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // clap's own status for bad flags is 2, which here is a guest's.
            let _ = error.print();
            return match error.use_stderr() {
                true => ExitCode::from(status::CONFIGURATION),
                false => ExitCode::SUCCESS,
            };
        }
    };
    let result = match cli.command {
        Command::Check(args) => check::run(args),
        Command::Run(args) => run::run(*args),
        Command::Up(args) => up::run(args),
        Command::Nic(args) => nic::run(*args),
        Command::NicKeeper => nic::serve::keep(),
        Command::Stat(args) => stat::run(args),
    };
    match result {
        Ok(status) => ExitCode::from(status),
        Err(CommandError { status, error }) => {
            eprintln!("postern: {error:#}");
            ExitCode::from(status)
        }
    }
}
