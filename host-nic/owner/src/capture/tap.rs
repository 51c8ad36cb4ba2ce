//! Taps on ports, and the thread that writes what they see to a file.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::SystemTime;

use postern_nic_client::control::Format;
use serde::Serialize;

use super::encode::Encoder;
use super::error::CaptureError;
use super::queue::{Queue, Record};
use super::writer::{Output, Writer, plain};
use crate::frame_port::FramePort;

/// Largest number of bytes of a frame that can be kept.
const MAX_SNAP: u32 = 262_144;

/// How to capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaptureOptions {
    /// Format of the file.
    pub format: Format,
    /// Bytes kept of each frame; from 1 to 262144.
    pub snap: u32,
    /// Bytes of the queue, with 32 for each frame. As much again is used while they are written.
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

/// Which way a frame went, seen from the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the port into the switch.
    In,
    /// From the switch out of the port.
    Out,
}

/// What was captured on one interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InterfaceStats {
    /// Its name.
    pub name: String,
    /// Frames in the file.
    pub written: u64,
    /// Frames that are not, because the queue was full or the file could not be written.
    pub lost: u64,
}

/// What was captured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// On each interface, in the order in which they were added.
    pub interfaces: Vec<InterfaceStats>,
}

#[derive(Debug)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) written: AtomicU64,
    pub(super) lost: AtomicU64,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) queue: Queue,
    interfaces: Mutex<Vec<Arc<Interface>>>,
    snap: usize,
}

impl Shared {
    pub(super) fn interfaces(&self) -> Vec<Arc<Interface>> {
        self.interfaces
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn stats(&self) -> Stats {
        let stats = |interface: &Arc<Interface>| InterfaceStats {
            name: interface.name.clone(),
            written: interface.written.load(Relaxed),
            lost: interface.lost.load(Relaxed),
        };
        Stats {
            interfaces: self.interfaces().iter().map(stats).collect(),
        }
    }
}

/// Sees the frames of one interface. Cheap to clone; any thread may use it.
#[derive(Clone, Debug)]
pub struct Tap {
    shared: Arc<Shared>,
    interface: Arc<Interface>,
    number: u32,
}

impl Tap {
    /// Captures a frame that passes now. Never waits for the file.
    pub fn frame(&self, direction: Direction, frame: &[u8]) {
        self.frame_at(now(), direction, frame);
    }

    /// Counts frames that were lost before they came here.
    pub fn count_lost(&self, frames: u64) {
        self.interface.lost.fetch_add(frames, Relaxed);
    }

    /// Captures a frame that passed at `time`, in nanoseconds since the epoch.
    pub fn frame_at(&self, time: u64, direction: Direction, frame: &[u8]) {
        let kept = frame.len().min(self.shared.snap);
        let pushed = self.shared.queue.push(&Record {
            time,
            interface: self.number,
            // epb_flags: bits 0 and 1.
            flags: match direction {
                Direction::In => 1,
                Direction::Out => 2,
            },
            original: u32::try_from(frame.len()).unwrap_or(u32::MAX),
            data: frame.get(..kept).unwrap_or(frame),
        });
        if !pushed {
            self.interface.lost.fetch_add(1, Relaxed);
        }
    }
}

/// A port whose frames are captured: those that it takes, and those that it gives.
#[derive(Debug)]
pub struct Tapped<P> {
    port: P,
    tap: Tap,
}

impl<P: FramePort> Tapped<P> {
    /// Captures what passes `port`.
    pub fn new(port: P, tap: Tap) -> Tapped<P> {
        Tapped { port, tap }
    }
}

impl<P: FramePort> FramePort for Tapped<P> {
    fn send(&mut self, frames: &[&[u8]]) -> usize {
        let time = now();
        let taken = self.port.send(frames);
        for frame in frames.iter().take(taken) {
            self.tap.frame_at(time, Direction::In, frame);
        }
        taken
    }

    fn receive(&mut self, most: usize, sink: &mut dyn FnMut(&[u8])) -> usize {
        let tap = &self.tap;
        let time = now();
        self.port.receive(most, &mut |frame| {
            tap.frame_at(time, Direction::Out, frame);
            sink(frame);
        })
    }
}

pub(super) fn now() -> u64 {
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    time.map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

/// A capture file that is being written. Dropping it ends it like [`Capture::finish`].
#[derive(Debug)]
pub struct Capture {
    shared: Arc<Shared>,
    file: PathBuf,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Capture {
    /// Creates the file, which must not exist, readable for its owner only.
    ///
    /// # Errors
    /// When the file exists or cannot be created or written. Then no file is left.
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
    /// When it cannot be written.
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
            let mut encoder = Encoder::new(options.format, snap).map_err(plain)?;
            output.write(encoder.bytes())?;
            encoder.clear();
            Ok(encoder)
        };
        let encoder = begin(&mut output).map_err(|source| CaptureError::Create {
            file: file.into(),
            source,
        })?;
        let shared = Arc::new(Shared {
            queue: Queue::new(options.queue),
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
        let thread = thread::Builder::new()
            .name("capture".into())
            .spawn(move || writer.run())
            .map_err(|source| CaptureError::Thread {
                file: file.into(),
                source,
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

    /// What was captured so far.
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// Whether the file can no longer be written; [`Capture::finish`] says why.
    pub fn has_failed(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Writes what is queued, then the statistics, and closes the file. What taps see later is lost.
    ///
    /// # Errors
    /// When the file could not be written. It holds what was written before, in whole records.
    pub fn finish(mut self) -> Result<Stats, CaptureError> {
        self.end()?;
        Ok(self.shared.stats())
    }

    fn end(&mut self) -> Result<(), CaptureError> {
        self.shared.queue.close();
        match self.thread.take().map(JoinHandle::join) {
            None | Some(Ok(Ok(()))) => Ok(()),
            Some(Ok(Err(source))) => Err(CaptureError::Write {
                file: self.file.clone(),
                source,
            }),
            Some(Err(panic)) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.shared.queue.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
