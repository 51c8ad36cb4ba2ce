//! `postern stat`: the counters of a running NIC.
#![deny(unsafe_code)]

use std::path::PathBuf;

use clap::Args as ClapArgs;
use postern_nic_client::request;

use crate::error::CommandError;
use crate::{output, parsers};

/// Flags of `postern stat`.
#[derive(ClapArgs)]
pub struct Args {
    /// The NIC's socket: --socket of postern nic, or what postern up said at its start
    #[arg(
        value_name = "SOCKET",
        required_unless_present = "named",
        value_parser = parsers::socket
    )]
    socket: Option<PathBuf>,

    /// The NIC's socket, by the flag that names it to postern nic
    #[arg(
        long = "socket",
        value_name = "PATH",
        conflicts_with = "socket",
        value_parser = parsers::socket
    )]
    named: Option<PathBuf>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints the counters of a running NIC; returns the exit status.
pub fn run(args: Args) -> Result<u8, CommandError> {
    let Some(socket) = args.socket.or(args.named) else {
        let error = anyhow::anyhow!("no socket is named; give the NIC's");
        return Err(CommandError::configuration(error));
    };
    let counters = request::counters(&socket)?;
    output::print(&match args.json {
        true => format!("{:#}\n", serde_json::json!(counters)),
        false => counters.to_string(),
    })?;
    Ok(0)
}
