//! `postern check`: the capability ladder.
#![deny(unsafe_code)]

use clap::Args as ClapArgs;
use postern_vmm::check::{self, Facts, Rung};
use postern_vmm::status;
use serde_json::json;

use crate::error::CommandError;
use crate::output;

/// Flags of `postern check`.
#[derive(ClapArgs)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What `--help` says about the exit status.
pub const HELP: &str = "\
Exit status:
  0   everything is there: all paths work
  65  something is missing";

/// Prints the ladder; returns the exit status.
pub fn run(args: Args) -> Result<u8, CommandError> {
    let ladder = check::ladder(&Facts::gather());
    let complete = check::complete(&ladder);
    let text = match args.json {
        true => format!("{:#}\n", json!({ "ok": complete, "rungs": ladder })),
        false => ladder.iter().map(for_people).collect(),
    };
    output::print(&text)?;
    Ok(match complete {
        true => 0,
        false => status::KVM,
    })
}

fn for_people(rung: &Rung) -> String {
    let mut text = format!("{:8} {:10} {}\n", rung.state.name(), rung.name, rung.found);
    if let Some(remedy) = &rung.remedy {
        let indent = " ".repeat(20);
        text += &format!("{indent}needed: {}\n", rung.meaning);
        text += &format!("{indent}to do:  {remedy}\n");
    }
    text
}
