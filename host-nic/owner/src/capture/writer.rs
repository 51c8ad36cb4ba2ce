//! The thread of a capture, which writes what is queued to the file.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use pcap_file::PcapError;

use super::encode::{Encoder, InterfaceTotals};
use super::queue::records;
use super::shared::{Interface, Shared, now};

/// Number of encoded bytes after which they go to the file.
const CHUNK: usize = 1 << 20;

/// The output of a capture.
pub(super) enum Output {
    /// A file, and its size in bytes, up to the end of the last whole record.
    File(File, u64),
    Stream(Box<dyn Write + Send>),
}

impl Output {
    /// Writes whole records, or cuts the file behind the last one.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Output::File(file, size) => {
                if let Err(error) = file.write_all(bytes) {
                    let _ = file.set_len(*size);
                    return Err(error);
                }
                *size += bytes.len() as u64;
                Ok(())
            }
            Output::Stream(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        }
    }
}

pub(super) fn io_error(error: PcapError) -> io::Error {
    match error {
        PcapError::IoError(error) => error,
        other => io::Error::other(other),
    }
}

/// The thread of a capture.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) output: Output,
    pub(super) encoder: Encoder,
    /// Number of interfaces that the file describes.
    pub(super) described: usize,
    /// Time of the capture's beginning, in nanoseconds since the epoch.
    pub(super) start: u64,
}

impl Writer {
    pub(super) fn run(mut self) -> io::Result<()> {
        let mut bytes = Vec::new();
        let mut result = Ok(());
        while result.is_ok() && self.shared.queue.take(&mut bytes) {
            let interfaces = self.shared.interfaces();
            // Frames in the file, and all, of each interface in this round.
            let mut counts = vec![(0, 0); interfaces.len()];
            result = self.write(&interfaces, &bytes, &mut counts);
            for (interface, (written, all)) in interfaces.iter().zip(counts) {
                interface.written.fetch_add(written, Relaxed);
                interface.lost.fetch_add(all - written, Relaxed);
            }
        }
        if result.is_ok() {
            result = self.finish();
        } else {
            self.give_up(&mut bytes);
        }
        result
    }

    fn write(
        &mut self,
        interfaces: &[Arc<Interface>],
        bytes: &[u8],
        counts: &mut [(u64, u64)],
    ) -> io::Result<()> {
        for record in records(bytes) {
            if let Some((_, all)) = counts.get_mut(record.interface as usize) {
                *all += 1;
            }
        }
        self.describe(interfaces)?;
        let mut pending = vec![0; counts.len()];
        for record in records(bytes) {
            self.encoder.record(&record).map_err(io_error)?;
            if let Some(count) = pending.get_mut(record.interface as usize) {
                *count += 1;
            }
            if self.encoder.bytes().len() >= CHUNK {
                self.flush(counts, &mut pending)?;
            }
        }
        self.flush(counts, &mut pending)
    }

    /// Writes what is encoded; only then do its frames count as written.
    fn flush(&mut self, counts: &mut [(u64, u64)], pending: &mut [u64]) -> io::Result<()> {
        self.output.write(self.encoder.bytes())?;
        self.encoder.clear();
        for ((written, _), pending) in counts.iter_mut().zip(pending) {
            *written += *pending;
            *pending = 0;
        }
        Ok(())
    }

    fn describe(&mut self, interfaces: &[Arc<Interface>]) -> io::Result<()> {
        for interface in interfaces.iter().skip(self.described) {
            self.encoder.interface(&interface.name).map_err(io_error)?;
        }
        self.described = interfaces.len();
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        let interfaces = self.shared.interfaces();
        self.describe(&interfaces)?;
        for (number, interface) in interfaces.iter().enumerate() {
            let seen = InterfaceTotals {
                start: self.start,
                end: now(),
                written: interface.written.load(Relaxed),
                lost: interface.lost.load(Relaxed),
            };
            self.encoder
                .statistics(number as u32, &seen)
                .map_err(io_error)?;
        }
        self.output.write(self.encoder.bytes())?;
        self.encoder.clear();
        if let Output::File(file, _) = &self.output {
            file.sync_all()?;
        }
        Ok(())
    }

    /// Counts what is still queued as lost; later frames do not enter the queue.
    fn give_up(&self, bytes: &mut Vec<u8>) {
        self.shared.queue.close();
        while self.shared.queue.take(bytes) {
            let interfaces = self.shared.interfaces();
            for record in records(bytes) {
                if let Some(interface) = interfaces.get(record.interface as usize) {
                    interface.lost.fetch_add(1, Relaxed);
                }
            }
        }
    }
}
