//! `postern nic`: the NIC that VMs share.
#![deny(unsafe_code)]

mod admin;
mod ask;
mod policy;
mod replay;
pub mod serve;
mod show;

use clap::Args as ClapArgs;

use crate::error::CommandError;

/// Flags of `postern nic`.
#[derive(ClapArgs)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    #[command(subcommand)]
    action: Option<admin::Action>,

    #[command(flatten)]
    serve: serve::ServeFlags,
}

/// What `--help` says about the exit status.
pub const HELP: &str = "\
Exit status:
  0   ended by SIGINT, SIGTERM, SIGHUP, SIGQUIT or postern nic stop, in good order;
      or the NIC did as asked
  64  flags, image, socket or policy cannot be used, or the NIC refuses what was asked
  66  the NIC cannot be made, cannot go on, or cannot be reached
  70  internal error, or the output file cannot be written";

/// Asks a running NIC for something, or becomes the owner of one; returns the exit status.
pub fn run(args: Args) -> Result<u8, CommandError> {
    match args.action {
        Some(action) => admin::run(action),
        None => serve::run(args.serve),
    }
}
