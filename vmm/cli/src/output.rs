//! What subcommands print and write.
#![deny(unsafe_code)]

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context, anyhow};
use postern_vmm::socket_path::missing_directory;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
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

/// Writes to standard error, if somebody still reads it. A message that is not read ends nothing and
/// holds nobody up.
pub fn complain(text: impl Display) {
    write_or_drop(&mut io::stderr().lock(), &text.to_string());
}

/// How long a message waits until what was written before is read.
const PATIENCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// Writes a text at once, so that lines of several threads do not mix. What a pipe or a terminal does
/// not take in time is dropped.
fn write_or_drop(out: &mut (impl Write + AsFd), text: &str) {
    // A pipe of which poll says that it can be written takes so much without waiting.
    for part in text.as_bytes().chunks(rustix::pipe::PIPE_BUF) {
        let mut ready = [PollFd::new(&*out, PollFlags::OUT)];
        let writable = match poll(&mut ready, Some(&PATIENCE)) {
            Ok(_) => ready[0].revents().contains(PollFlags::OUT),
            Err(_) => false,
        };
        if !writable || out.write_all(part).is_err() {
            return;
        }
    }
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

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_message_that_nobody_reads_holds_nobody_up() {
        let (mut reader, mut writer) = io::pipe().unwrap();
        write_or_drop(&mut writer, "first\n");
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let mut filled = 0;
        while let Ok(count) = writer.write(&[b'.'; 4096]) {
            filled += count;
        }
        // As standard error mostly is: writing waits.
        rustix::io::ioctl_fionbio(&writer, false).unwrap();
        write_or_drop(&mut writer, "dropped\n");
        drop(writer);
        let mut read = String::new();
        reader.read_to_string(&mut read).unwrap();
        assert!(read.starts_with("first\n."));
        assert_eq!(read.len(), "first\n".len() + filled);
    }

    #[test]
    fn a_long_message_is_whole() {
        let (mut reader, mut writer) = io::pipe().unwrap();
        let text = "line\n".repeat(3000);
        write_or_drop(&mut writer, &text);
        drop(writer);
        let mut read = String::new();
        reader.read_to_string(&mut read).unwrap();
        assert_eq!(read, text);
    }
}
