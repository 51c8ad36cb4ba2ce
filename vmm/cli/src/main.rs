//! The program `postern`: one subcommand a file.

mod check;
mod confine;
mod console;
mod descriptors;
mod error;
mod nic;
mod output;
mod parsers;
mod ps;
mod remover;
mod run;
mod run_dir;
mod stat;
mod trace;
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
    NicKeeper {
        /// With what it needs for that, and no more
        #[arg(long)]
        confined: bool,
    },

    /// Start keepers; started by postern nic.
    #[command(hide = true)]
    NicLauncher,

    /// Remove sockets when a VM has ended; started by postern run.
    #[command(hide = true)]
    Remove(remover::Args),

    /// List the topologies and VMs of this user that run.
    Ps(ps::Args),

    /// End a topology that runs, and wait for its end.
    Down(ps::DownArgs),

    /// Join the console of a VM that runs; Ctrl-A d leaves it.
    #[command(after_help = console::HELP)]
    Console(console::Args),

    /// Print aborts of calls in views of a VM that runs.
    #[command(after_help = trace::HELP)]
    Trace(trace::Args),

    /// Show what is counted of what runs: exits by reason, traffic and drops of ports.
    #[command(after_help = stat::HELP)]
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
    let holds_many = matches!(
        cli.command,
        Command::Run(_) | Command::Nic(_) | Command::NicKeeper { .. } | Command::NicLauncher
    );
    if holds_many {
        descriptors::allow_all();
    }
    let result = match cli.command {
        Command::Check(args) => check::run(args),
        Command::Run(args) => run::run(*args),
        Command::Up(args) => up::run(args),
        Command::Nic(args) => nic::run(*args),
        Command::Remove(args) => Ok(remover::run(&args)),
        Command::NicLauncher => nic::serve::launch_keepers(),
        Command::NicKeeper { confined } => nic::serve::keep(confined),
        Command::Ps(args) => ps::run(&args),
        Command::Down(args) => ps::down(&args),
        Command::Console(args) => console::run(&args),
        Command::Trace(args) => trace::run(&args),
        Command::Stat(args) => stat::run(args),
    };
    match result {
        Ok(status) => ExitCode::from(status),
        Err(CommandError { status, error }) => {
            output::tell(format_args!("{error:#}"));
            ExitCode::from(status)
        }
    }
}
