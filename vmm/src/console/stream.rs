//! What a guest writes to its console, on its way out.
#![deny(unsafe_code)]

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, poll};

use super::joined::Joined;

/// Creates a file that a VM writes to. A named pipe is opened without waiting for its reader: it
/// holds what was written until one comes.
///
/// # Errors
///
/// The system's.
pub fn create_output(path: &Path) -> io::Result<File> {
    let pipe = std::fs::metadata(path).is_ok_and(|file| file.file_type().is_fifo());
    let mut options = File::options();
    // With O_RDWR, opening a pipe does not wait (fifo(7)).
    options.write(true).read(pipe).create(true).truncate(!pipe);
    options.custom_flags(libc::O_NOCTTY).open(path)
}

/// A file, pipe or terminal. While it takes nothing, writing waits; once the VM is to end, writing
/// waits no more, and what is not taken is dropped. Who sets `stopped` sends the writing thread
/// signals until it has ended ([`kick`](crate::signals::kick)).
#[derive(Debug)]
pub struct Stream {
    file: File,
    stopped: Arc<AtomicBool>,
}

impl Stream {
    /// Writes to `file` until `stopped` is set.
    pub fn new(file: File, stopped: Arc<AtomicBool>) -> Stream {
        Stream { file, stopped }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.file.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Somebody else who has the file open wants it so.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // Only a signal is of interest, and it is looked for below.
                    let _ = poll(&mut [PollFd::new(&self.file, PollFlags::OUT)], None);
                }
                other => return other,
            }
            if self.stopped.load(Ordering::Relaxed) {
                return Ok(bytes.len());
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// All that a console's output goes to.
#[derive(Debug)]
pub struct Writer {
    stream: Option<Stream>,
    joined: Joined,
}

impl Writer {
    pub(super) fn new(stream: Option<Stream>, joined: Joined) -> Writer {
        Writer { stream, joined }
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.joined.write(bytes);
        match &mut self.stream {
            Some(stream) => stream.write_all(bytes).map(|()| bytes.len()),
            None => Ok(bytes.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::thread;

    use super::*;
    use crate::signals::{self, ThreadNumber};

    #[test]
    fn a_full_pipe_holds_nobody_who_is_to_end() {
        signals::enable_kicks().unwrap();
        let (mut reader, pipe) = io::pipe().unwrap();
        let stopped = Arc::new(AtomicBool::new(false));
        let mut stream = Stream::new(
            File::from(std::os::fd::OwnedFd::from(pipe)),
            Arc::clone(&stopped),
        );
        let number = ThreadNumber::default();
        let own = number.clone();
        let thread = thread::spawn(move || {
            own.note();
            // More than any pipe takes.
            stream.write_all(&[b'x'; 4 << 20]).map(|()| drop(stream))
        });
        let mut first = [0; 10];
        reader.read_exact(&mut first).unwrap();
        assert!(!thread.is_finished(), "what is not read is waited for");
        stopped.store(true, Ordering::Relaxed);
        let threads = [(thread, number)];
        signals::kick(&threads);
        let [(thread, _)] = threads;
        thread.join().unwrap().unwrap();
    }

    #[test]
    fn what_is_slowly_read_is_all_there() {
        let (mut reader, pipe) = io::pipe().unwrap();
        let pipe = std::os::fd::OwnedFd::from(pipe);
        rustix::io::ioctl_fionbio(&pipe, true).unwrap();
        let mut stream = Stream::new(pipe.into(), Arc::default());
        let text: Vec<u8> = (0..1 << 20).map(|n: u32| n as u8).collect();
        let copy = text.clone();
        let thread = thread::spawn(move || stream.write_all(&copy));
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        thread.join().unwrap().unwrap();
        assert!(read == text);
    }

    #[test]
    fn a_pipe_without_a_reader_opens() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        let mut file = create_output(&pipe).unwrap();
        file.write_all(b"kept").unwrap();
        let mut kept = [0; 4];
        File::open(&pipe).unwrap().read_exact(&mut kept).unwrap();
        assert_eq!(&kept, b"kept");
    }

    #[test]
    fn a_file_is_made_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        std::fs::write(&path, "old and long").unwrap();
        create_output(&path).unwrap().write_all(b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert!(create_output(directory.path()).is_err());
    }
}
