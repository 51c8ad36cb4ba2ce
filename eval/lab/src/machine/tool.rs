//! Programs of the host that make parts of a machine: genisoimage, strip.

use std::process::Command;

use super::error::MachineError;

/// Runs a program to its end; its standard error becomes the message if it fails.
pub fn run(command: &mut Command) -> Result<(), MachineError> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|source| MachineError::Prepare {
        what: format!("running {name}"),
        source,
    })?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(MachineError::Tool {
        tool: name,
        message,
    })
}
