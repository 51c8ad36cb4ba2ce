//! A capture file that is being written.
#![forbid(unsafe_code)]

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use postern_confine::Kind;
use postern_nic_client::control::Format;

use super::encode::Encoder;
use super::error::CaptureError;
use super::queue::RecordQueue;
use super::shared::{CaptureStats, Interface, Shared, now};
use super::tap::Tap;
use super::writer::{Output, Writer, io_error};

/// Most bytes of a frame that can be kept.
const MAX_SNAP: u32 = 262_144;

/// Options of a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaptureOptions {
    /// The file's format.
    pub format: Format,
    /// Most bytes kept of each frame, 1 to 262144.
    pub snap: u32,
    /// Size of the queue in bytes, with 32 for each frame. As much again is used while they are
    /// written.
    pub queue: usize,
}

impl Default for CaptureOptions {
    /// pcapng, whole frames, 8 MiB.
    fn default() -> CaptureOptions {
        CaptureOptions {
            format: Format::PcapNg,
            snap: MAX_SNAP,
            queue: 8 << 20,
        }
    }
}

/// A capture file that is being written. Dropping it ends it like [`Capture::finish`].
#[derive(Debug)]
pub struct Capture {
    shared: Arc<Shared>,
    file: PathBuf,
    thread: Option<JoinHandle<io::Result<()>>>,
}

/// Time that the last frames may take to be written: a file system may not answer any more.
const PATIENCE: Duration = Duration::from_secs(5);

impl Capture {
    /// Creates the file, which must not exist, readable for its owner only.
    ///
    /// # Errors
    ///
    /// The file exists, or cannot be created or written. No file is left then.
    pub fn create(file: &Path, options: CaptureOptions) -> Result<Capture, CaptureError> {
        let output = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(file)
            .map_err(|source| match source.kind() {
                io::ErrorKind::AlreadyExists => CaptureError::Exists { file: file.into() },
                _ => CaptureError::Create {
                    file: file.into(),
                    source,
                },
            })?;
        Capture::start(Output::File(output, 0), file, options).inspect_err(|_| {
            // It was made here, a moment ago.
            let _ = fs::remove_file(file);
        })
    }

    /// Writes to something else, a pipe for example, which errors call `name`.
    ///
    /// # Errors
    ///
    /// The output cannot be written.
    pub fn to(
        output: impl Write + Send + 'static,
        name: &str,
        options: CaptureOptions,
    ) -> Result<Capture, CaptureError> {
        Capture::start(Output::Stream(Box::new(output)), Path::new(name), options)
    }

    fn start(
        mut output: Output,
        file: &Path,
        options: CaptureOptions,
    ) -> Result<Capture, CaptureError> {
        let snap = options.snap.clamp(1, MAX_SNAP);
        let begin = |output: &mut Output| {
            let mut encoder = Encoder::new(options.format, snap).map_err(io_error)?;
            output.write(encoder.bytes())?;
            encoder.clear();
            Ok(encoder)
        };
        let encoder = begin(&mut output).map_err(|source| CaptureError::Create {
            file: file.into(),
            source,
        })?;
        let shared = Arc::new(Shared {
            queue: RecordQueue::new(options.queue),
            interfaces: Mutex::default(),
            snap: snap as usize,
        });
        let writer = Writer {
            shared: Arc::clone(&shared),
            output,
            encoder,
            described: 0,
            start: now(),
        };
        let run = move || writer.run();
        let thread =
            postern_confine::spawn(Kind::CaptureFile, "capture", run).map_err(|source| {
                CaptureError::Thread {
                    file: file.into(),
                    source,
                }
            })?;
        Ok(Capture {
            shared,
            file: file.into(),
            thread: Some(thread),
        })
    }

    /// Adds an interface, at any time.
    pub fn interface(&self, name: &str) -> Tap {
        let interface = Arc::new(Interface {
            name: name.into(),
            written: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        });
        let mut list = self
            .shared
            .interfaces
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let number = list.len() as u32;
        list.push(Arc::clone(&interface));
        Tap {
            shared: Arc::clone(&self.shared),
            interface,
            number,
        }
    }

    /// Numbers of frames that were captured so far.
    pub fn stats(&self) -> CaptureStats {
        self.shared.stats()
    }

    /// The failure that has ended the writing of the file, the first time that somebody asks after
    /// it. What taps see from then on is lost, and counted.
    pub fn take_failure(&mut self) -> Option<CaptureError> {
        let ended = self.thread.as_ref().is_some_and(JoinHandle::is_finished);
        ended.then(|| self.end().err()).flatten()
    }

    /// Writes what is queued, then the statistics, and closes the file. What taps see later is
    /// lost.
    ///
    /// # Errors
    ///
    /// The file could not be written, or not within a few seconds. It holds what was written before,
    /// in whole records.
    pub fn finish(mut self) -> Result<CaptureStats, CaptureError> {
        self.end()?;
        Ok(self.shared.stats())
    }

    fn end(&mut self) -> Result<(), CaptureError> {
        self.shared.queue.close();
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        let until = Instant::now() + PATIENCE;
        while !thread.is_finished() {
            if Instant::now() >= until {
                // It ends by itself when the file system answers.
                let file = self.file.clone();
                return Err(CaptureError::Slow { file });
            }
            thread::sleep(PATIENCE / 5000);
        }
        match thread.join() {
            Ok(Ok(())) => Ok(()),
            Ok(Err(source)) => Err(CaptureError::Write {
                file: self.file.clone(),
                source,
            }),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // Whoever wants to know of a failure has called `finish`.
        let _ = self.end();
    }
}
