//! The end of a VM's console, where it went to a file.
#![deny(unsafe_code)]

use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use postern_vmm::console::is_hidden;

/// Most lines that are shown.
const MAX_LINES: usize = 10;

/// Most bytes of the file that are looked at.
const MAX_BYTES: u64 = 4096;

/// The file that the console of a VM goes to.
#[derive(Debug)]
pub struct ConsoleFile {
    path: PathBuf,
    /// When it was written before the VM was started, if it was there.
    before: Option<SystemTime>,
}

impl ConsoleFile {
    /// The console of a VM that is about to be started.
    pub fn new(path: &Path) -> ConsoleFile {
        ConsoleFile {
            path: path.to_owned(),
            before: modified(path),
        }
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The last lines that the VM has written, without control characters; none if it has written
    /// nothing, or the file cannot be read.
    pub fn last_lines(&self) -> Vec<String> {
        // A VM that could not begin has left a former file as it was.
        match modified(&self.path) {
            now if now == self.before => Vec::new(),
            _ => last_lines(&self.path).unwrap_or_default(),
        }
    }
}

/// The time at which a file was written, if it is one that can be read again: no pipe, whose
/// opening would wait.
fn modified(path: &Path) -> Option<SystemTime> {
    let file = path.metadata().ok().filter(Metadata::is_file)?;
    file.modified().ok()
}

/// The last lines of a file.
fn last_lines(file: &Path) -> io::Result<Vec<String>> {
    let mut file = File::open(file)?;
    let size = file.metadata()?.len();
    let start = size.saturating_sub(MAX_BYTES);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let mut lines: Vec<String> = text
        .lines()
        // The first is only the end of a line, if there is more before it.
        .skip(usize::from(start > 0))
        .map(|line| line.replace(is_hidden, ""))
        .collect();
    Ok(lines.split_off(lines.len().saturating_sub(MAX_LINES)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use std::fs;

    use super::*;

    fn lines(content: &[u8]) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("console");
        fs::write(&file, content).unwrap();
        last_lines(&file).unwrap()
    }

    #[test]
    fn the_last_lines_are_shown() {
        assert!(lines(b"").is_empty());
        assert_eq!(lines(b"one\r\ntwo\x1b[2J"), ["one", "two[2J"]);
        let turned = "a\u{202e}b\u{2028}c\u{9b}d";
        assert_eq!(lines(turned.as_bytes()), ["abcd"]);
        let many: String = (0..100).map(|number| format!("line {number}\n")).collect();
        let last = lines(many.as_bytes());
        assert_eq!((last.len(), last[0].as_str()), (MAX_LINES, "line 90"));
    }

    #[test]
    fn a_long_line_is_no_line() {
        let long = "x".repeat(10_000);
        assert!(lines(long.as_bytes()).is_empty());
        let last = lines(format!("{long}\nend\n").as_bytes());
        assert_eq!(last, ["end"]);
        assert!(last_lines(Path::new("/no/such/file")).is_err());
    }

    #[test]
    fn what_a_former_vm_has_written_is_not_shown() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("console");
        assert!(ConsoleFile::new(&file).last_lines().is_empty());
        fs::write(&file, "former\n").unwrap();
        let open = File::options().write(true).open(&file).unwrap();
        open.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        let console = ConsoleFile::new(&file);
        assert!(console.last_lines().is_empty());
        fs::write(&file, "present\n").unwrap();
        assert_eq!(console.last_lines(), ["present"]);
    }

    /// Opening a pipe waits for a writer, and the VM is gone.
    #[test]
    fn a_pipe_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("console");
        let console = ConsoleFile::new(&pipe);
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        assert!(console.last_lines().is_empty());
    }
}
