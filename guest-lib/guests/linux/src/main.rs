//! Program for Linux guests: sends, receives and misuses, over every path. As the first process of a
//! VM, with no other program beside it, it mounts what it needs, plays its role in a child, and ends
//! the VM with the child's status.
#![deny(unsafe_code)]

#[allow(unsafe_code, reason = "an instruction that writes to an I/O port")]
mod exit_port;
mod init;
mod migrate;
mod misdeed;
mod options;
mod roles;
mod waiting;

use std::process::ExitCode;

use clap::Parser;

use crate::options::Options;

fn main() -> ExitCode {
    if std::process::id() == 1 {
        init::live();
    }
    let options = Options::parse();
    match roles::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
