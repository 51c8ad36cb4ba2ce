//! `postern stat`: the counters of a running NIC.
#![deny(unsafe_code)]

use std::path::PathBuf;

use clap::Args as ClapArgs;
use postern_nic::client;

use crate::error::CommandError;
use crate::output;

/// Flags of `postern stat`.
#[derive(ClapArgs)]
pub struct Args {
    /// The NIC's socket
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints the counters of a running NIC; returns the exit status.
pub fn run(args: Args) -> Result<u8, CommandError> {
    let counters = client::counters(&args.socket)?;
    output::print(&match args.json {
        true => format!("{:#}\n", serde_json::json!(counters)),
        false => counters.to_string(),
    })?;
    Ok(0)
}
