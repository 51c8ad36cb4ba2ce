//! What subcommands print and write.
#![deny(unsafe_code)]

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, anyhow};
use postern_vmm::socket_path::missing_directory;
use serde::Serialize;

use crate::error::CommandError;

/// Prints to standard output. A reader who has had enough is no failure.
pub fn print(text: &str) -> Result<(), CommandError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            let error = anyhow::Error::from(error).context("cannot write to standard output");
            Err(CommandError::internal(error))
        }
        _ => Ok(()),
    }
}

/// Tells the user something on standard error, in a line of its own. One who has gone away is no
/// reason to end.
pub fn tell(what: impl Display) {
    complain(format_args!("postern: {what}\n"));
}

/// Writes to standard error, if somebody still reads it.
pub fn complain(text: impl Display) {
    // At once, so that lines of several threads do not mix.
    let _ = io::stderr().write_all(text.to_string().as_bytes());
}

/// Creates a file that the user asked for.
pub fn create(path: &Path) -> Result<File, CommandError> {
    if let Some(directory) = missing_directory(path) {
        return Err(CommandError::configuration(anyhow!(
            "cannot create {}: there is no directory {}",
            path.display(),
            directory.display()
        )));
    }
    postern_vmm::console::create_output(path)
        .with_context(|| format!("cannot create {}", path.display()))
        .map_err(CommandError::configuration)
}

/// Writes a value as JSON into a file made by [`create`].
pub fn write_json(mut file: File, path: &Path, value: &impl Serialize) -> Result<(), CommandError> {
    serde_json::to_vec_pretty(value)
        .map_err(io::Error::from)
        .and_then(|mut text| {
            text.push(b'\n');
            file.write_all(&text)
        })
        .with_context(|| format!("cannot write {}", path.display()))
        .map_err(CommandError::internal)
}
