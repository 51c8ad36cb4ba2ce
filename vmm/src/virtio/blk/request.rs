//! What a driver asks of a disk, and the status that it gets ("Block Device: Device Operation").
#![deny(unsafe_code)]

use std::io;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD,
    VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};

use super::image::{Image, SECTOR};
use crate::virtio::buffers::Buffers;

/// Most sectors of one range to discard.
pub(super) const MAX_DISCARD_SECTORS: u32 = 1 << 22;
/// Most ranges of one request to discard.
pub(super) const MAX_DISCARD_RANGES: u32 = 16;
/// Most sectors of the one range of a request to write zeros: where the host cannot do it at once,
/// this much is written while the queue waits.
pub(super) const MAX_ZERO_SECTORS: u32 = 1 << 16;
/// Most ranges of one request to write zeros.
pub(super) const MAX_ZERO_RANGES: u32 = 1;

/// Bytes that precede the data of a request: type, reserved, first sector.
const HEADER: usize = 16;
/// Bytes that describe a range to discard or to zero: first sector, number of sectors, flags.
const RANGE: usize = 16;

/// Why a request was not done.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The driver's mistake, or the host cannot: this status says so.
    Status(u32),
    /// The host's error.
    Host(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Refusal {
        match error.kind() {
            io::ErrorKind::Unsupported => Refusal::Status(VIRTIO_BLK_S_UNSUPP),
            _ => Refusal::Host(error),
        }
    }
}

impl Refusal {
    const OUT_OF_RANGE: Refusal = Refusal::Status(VIRTIO_BLK_S_IOERR);
    const UNSUPPORTED: Refusal = Refusal::Status(VIRTIO_BLK_S_UNSUPP);
}

/// What a request left behind.
#[derive(Debug)]
pub(super) struct Done {
    /// Bytes written to the driver's buffers, the status among them.
    pub(super) written: u32,
    /// The host's error, if there was one.
    pub(super) error: Option<io::Error>,
}

/// What all requests to a disk have in common.
#[derive(Debug)]
pub(super) struct Server<'a> {
    pub(super) image: &'a Image,
    pub(super) serial: [u8; 20],
    /// Whether each write is durable when it is done, since the driver cannot flush.
    pub(super) write_through: bool,
}

impl Server<'_> {
    /// Serves a request: its bytes to read, and those to write with the status behind them, which
    /// [`Buffers::split_last`] has taken away.
    pub(super) fn serve(&self, readable: &mut Buffers, writable: &mut Buffers) -> Done {
        let room = writable.len();
        let result = self.execute(readable, writable);
        let (status, error) = match result {
            Ok(()) => (VIRTIO_BLK_S_OK, None),
            Err(Refusal::Status(status)) => (status, None),
            Err(Refusal::Host(error)) => (VIRTIO_BLK_S_IOERR, Some(error)),
        };
        writable.write_last(status as u8);
        // A chain has at most 4 GiB.
        let written = u32::try_from(room - writable.len()).unwrap_or(u32::MAX);
        Done {
            written: written.saturating_add(1),
            error,
        }
    }

    fn execute(&self, readable: &mut Buffers, writable: &mut Buffers) -> Result<(), Refusal> {
        let mut header = [0; HEADER];
        if !readable.read(&mut header) {
            return Err(Refusal::OUT_OF_RANGE);
        }
        let kind = word(&header, 0);
        let sector = long(&header, 8);
        match kind {
            VIRTIO_BLK_T_IN => {
                let offset = self.range(sector, writable.len())?;
                Ok(self.image.read(writable, offset)?)
            }
            VIRTIO_BLK_T_OUT => {
                self.writable()?;
                let offset = self.range(sector, readable.len())?;
                Ok(self.image.write(readable, offset, self.write_through)?)
            }
            VIRTIO_BLK_T_FLUSH => Ok(self.image.flush()?),
            VIRTIO_BLK_T_GET_ID => {
                writable.write(&self.serial);
                Ok(())
            }
            VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES => {
                self.writable()?;
                self.each_range(kind == VIRTIO_BLK_T_DISCARD, readable)
            }
            _ => Err(Refusal::UNSUPPORTED),
        }
    }

    fn writable(&self) -> Result<(), Refusal> {
        match self.image.readonly() {
            true => Err(Refusal::OUT_OF_RANGE),
            false => Ok(()),
        }
    }

    /// The offset of a range of the disk, in bytes.
    fn range(&self, sector: u64, len: u64) -> Result<u64, Refusal> {
        let offset = sector.checked_mul(SECTOR).ok_or(Refusal::OUT_OF_RANGE)?;
        let end = offset.checked_add(len).ok_or(Refusal::OUT_OF_RANGE)?;
        match len.is_multiple_of(SECTOR) && end <= self.image.size() {
            true => Ok(offset),
            false => Err(Refusal::OUT_OF_RANGE),
        }
    }

    /// Discards or zeroes ranges. All are checked before the first is touched.
    fn each_range(&self, discard: bool, readable: &mut Buffers) -> Result<(), Refusal> {
        let (max_ranges, max_sectors) = match discard {
            true => (MAX_DISCARD_RANGES, MAX_DISCARD_SECTORS),
            false => (MAX_ZERO_RANGES, MAX_ZERO_SECTORS),
        };
        let mut bytes = [0; RANGE * MAX_DISCARD_RANGES as usize];
        let count = readable.len() / RANGE as u64;
        if !readable.len().is_multiple_of(RANGE as u64) || count > u64::from(max_ranges) {
            return Err(Refusal::OUT_OF_RANGE);
        }
        let bytes = &mut bytes[..RANGE * count as usize];
        readable.read(bytes);
        for range in bytes.chunks_exact(RANGE) {
            let flags = word(range, 12);
            let known = match discard {
                true => 0,
                false => VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
            };
            if flags & !known != 0 {
                return Err(Refusal::UNSUPPORTED);
            }
            let sectors = word(range, 8);
            if sectors > max_sectors {
                return Err(Refusal::OUT_OF_RANGE);
            }
            self.range(long(range, 0), u64::from(sectors) * SECTOR)?;
        }
        for range in bytes.chunks_exact(RANGE) {
            let (offset, len) = (long(range, 0) * SECTOR, u64::from(word(range, 8)) * SECTOR);
            match discard {
                _ if len == 0 => {}
                true => self.image.discard(offset, len)?,
                false => self.image.write_zeroes(offset, len, word(range, 12) != 0)?,
            }
        }
        match self.write_through {
            true => Ok(self.image.flush()?),
            false => Ok(()),
        }
    }
}

/// The 32 bits at an offset, which lie in `bytes`.
fn word(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

/// The 64 bits at an offset, which lie in `bytes`.
fn long(bytes: &[u8], at: usize) -> u64 {
    let mut long = [0; 8];
    long.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(long)
}
