//! The serial console of the emulated machine: a file of the emulator, read while it grows.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

/// The console's file, as far as it has been read.
pub struct Console<'a> {
    path: PathBuf,
    bytes: u64,
    /// All that was read, without carriage returns.
    pub text: String,
    streaming: bool,
    watcher: Option<&'a (dyn Fn(&str) + Sync)>,
    /// Bytes of `text` in lines that the watcher has seen.
    watched: usize,
}

impl<'a> Console<'a> {
    /// The console that goes to this file; it is copied to standard output if it is `streaming`,
    /// and the watcher is called with each line.
    pub fn new(path: PathBuf, streaming: bool, watcher: Option<&'a (dyn Fn(&str) + Sync)>) -> Self {
        Self {
            path,
            bytes: 0,
            text: String::new(),
            streaming,
            watcher,
            watched: 0,
        }
    }

    /// Reads on.
    pub fn follow(&mut self) {
        let mut news = Vec::new();
        let length = File::open(&self.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.bytes))?;
            file.read_to_end(&mut news)
        });
        self.bytes += length.unwrap_or(0) as u64;
        let news = String::from_utf8_lossy(&news).replace('\r', "");
        if self.streaming && !news.is_empty() {
            let mut out = io::stdout();
            // A closed standard output is no reason to stop the machine.
            let _ = out.write_all(news.as_bytes()).and_then(|()| out.flush());
        }
        self.text.push_str(&news);
        let Some(watcher) = self.watcher else { return };
        while let Some(length) = self.text[self.watched..].find('\n') {
            watcher(&self.text[self.watched..self.watched + length]);
            self.watched += length + 1;
        }
    }
}
