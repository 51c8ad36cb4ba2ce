//! make(1), with as many processes as the host has CPUs.

use std::path::Path;
use std::process::Command;

/// A command of make in a directory, to which targets are to be added.
pub fn make(directory: &Path) -> Command {
    let jobs = std::thread::available_parallelism().map_or(2, usize::from);
    let mut command = Command::new("make");
    command.arg("-C").arg(directory).arg(format!("-j{jobs}"));
    command
}
