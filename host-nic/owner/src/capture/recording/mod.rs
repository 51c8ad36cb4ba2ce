//! The frames of a pcap or pcapng file, in memory.
//!
//! The whole file is read and checked before anything is done with its frames. What the file's
//! format does not allow is an error; a frame that only cannot be sent is skipped and counted.
#![forbid(unsafe_code)]

mod error;

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

pub use error::{MAX_FILE, RecordingError, Skipped};
use pcap_file::pcap::PcapParser;
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::{Block, PcapNgParser};
use pcap_file::{DataLink, Endianness, PcapError, TsResolution};

use postern_abi::window::{MAX_FRAME, MIN_FRAME};

/// Most interfaces of a file.
const MAX_INTERFACES: usize = 1 << 16;
const SECOND: u128 = 1_000_000_000;

/// A frame of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordedFrame<'a> {
    /// Time of the capture, in nanoseconds since the epoch; 0 where the file does not say.
    pub time: u64,
    /// The frame.
    pub data: &'a [u8],
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    time: u64,
    offset: usize,
    length: usize,
}

/// A capture file in memory.
#[derive(Debug)]
pub struct Recording {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    skipped: Skipped,
}

impl Recording {
    /// Reads a file of at most [`MAX_FILE`] bytes.
    ///
    /// # Errors
    ///
    /// The first fault of the file.
    pub fn open(file: &Path) -> Result<Recording, RecordingError> {
        let error = |source| RecordingError::Read {
            file: file.into(),
            source,
        };
        // A pipe without a writer must not make this wait.
        let flags = libc::O_NONBLOCK;
        let source = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(file)
            .map_err(error)?;
        let about = source.metadata().map_err(error)?;
        if !about.is_file() {
            return Err(RecordingError::NoFile { file: file.into() });
        }
        let mut bytes = Vec::new();
        source
            .take(MAX_FILE + 1)
            .read_to_end(&mut bytes)
            .map_err(error)?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(RecordingError::TooLarge {
                file: file.into(),
                size: about.len(),
            });
        }
        Recording::parse(file, bytes)
    }

    /// Reads the content of a file; `file` is its name in errors.
    ///
    /// # Errors
    ///
    /// The first fault of the content.
    pub fn parse(file: &Path, bytes: Vec<u8>) -> Result<Recording, RecordingError> {
        if let Some(program) = decompressor(&bytes) {
            let file = file.into();
            return Err(RecordingError::Compressed { file, program });
        }
        let mut parser = Parser {
            file,
            bytes: &bytes,
            rest: &bytes,
            packet: 1,
            entries: Vec::new(),
            skipped: Skipped::default(),
        };
        match bytes.get(..4) {
            Some([0x0a, 0x0d, 0x0d, 0x0a]) => parser.pcapng()?,
            Some(_) => parser.pcap()?,
            None => {
                return Err(RecordingError::NoCapture {
                    file: file.into(),
                    reason: format!("it has {} bytes", bytes.len()),
                });
            }
        }
        let Parser {
            entries, skipped, ..
        } = parser;
        if entries.is_empty() {
            return Err(RecordingError::Empty {
                file: file.into(),
                skipped,
            });
        }
        Ok(Recording {
            bytes,
            entries,
            skipped,
        })
    }

    /// Number of frames that can be sent: at least one.
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// The frame of this number, from 0.
    pub fn frame(&self, number: usize) -> Option<RecordedFrame<'_>> {
        let entry = self.entries.get(number)?;
        let end = entry.offset.checked_add(entry.length)?;
        Some(RecordedFrame {
            time: entry.time,
            data: self.bytes.get(entry.offset..end)?,
        })
    }

    /// The frames in the order of the file.
    pub fn frames(&self) -> impl Iterator<Item = RecordedFrame<'_>> {
        (0..self.len()).filter_map(|number| self.frame(number))
    }

    /// The packets of the file that are not among the frames.
    pub fn skipped(&self) -> Skipped {
        self.skipped
    }
}

struct Parser<'a> {
    file: &'a Path,
    bytes: &'a [u8],
    rest: &'a [u8],
    /// The next packet.
    packet: u64,
    entries: Vec<Entry>,
    skipped: Skipped,
}

impl<'a> Parser<'a> {
    fn pcap(&mut self) -> Result<(), RecordingError> {
        let (rest, parser) = PcapParser::new(self.rest).map_err(|error| self.no_capture(&error))?;
        self.rest = rest;
        let header = parser.header();
        while !self.rest.is_empty() {
            let (rest, packet) = parser
                .next_raw_packet(self.rest)
                .map_err(|error| self.damaged(&error))?;
            let fraction = match header.ts_resolution {
                TsResolution::MicroSecond => u128::from(packet.ts_frac) * 1000,
                TsResolution::NanoSecond => u128::from(packet.ts_frac),
            };
            let time = u128::from(packet.ts_sec) * SECOND + fraction;
            // As long as this record, whose data the parser gives as a part of it.
            let data = self.part(rest, packet.data.len());
            self.add(header.datalink, time, packet.orig_len, data)?;
            self.rest = rest;
        }
        Ok(())
    }

    fn pcapng(&mut self) -> Result<(), RecordingError> {
        let (rest, mut parser) =
            PcapNgParser::new(self.rest).map_err(|error| self.no_capture(&error))?;
        self.rest = rest;
        while !self.rest.is_empty() {
            let (rest, block) = parser
                .next_block(self.rest)
                .map_err(|error| self.damaged(&error))?;
            let little = parser.section().endianness == Endianness::Little;
            let packet = match &block {
                Block::EnhancedPacket(packet) => Some((
                    packet.interface_id,
                    // The crate takes any unit for nanoseconds.
                    Some(packet.timestamp.as_nanos() as u64),
                    packet.original_len,
                    &packet.data,
                )),
                Block::Packet(packet) => Some((
                    u32::from(packet.interface_id),
                    // Two words, upper one first, which the crate takes for one number.
                    Some(packet.timestamp.rotate_left(if little { 32 } else { 0 })),
                    packet.original_len,
                    &packet.data,
                )),
                Block::SimplePacket(packet) => Some((0, None, packet.original_len, &packet.data)),
                _ => None,
            };
            if parser.interfaces().len() > MAX_INTERFACES {
                return Err(self.damaged_for("it has over 65536 interfaces".into()));
            }
            if let Some((number, ticks, original, data)) = packet {
                let interface = parser
                    .interfaces()
                    .get(number as usize)
                    .ok_or_else(|| self.damaged(&PcapError::InvalidInterfaceId(number)))?;
                let time = ticks.map_or(0, |ticks| nanoseconds(interface, ticks));
                let mut data = self.inside(data);
                if matches!(block, Block::SimplePacket(_)) {
                    // The crate leaves the padding to four bytes in.
                    data.1 = data.1.min(original as usize);
                    if interface.snaplen != 0 {
                        data.1 = data.1.min(interface.snaplen as usize);
                    }
                }
                self.add(interface.linktype, time, original, data)?;
            }
            self.rest = rest;
        }
        Ok(())
    }

    /// Offset in the file of the `length` bytes before `rest`.
    fn part(&self, rest: &[u8], length: usize) -> (usize, usize) {
        let end = self.bytes.len() - rest.len();
        (end.saturating_sub(length), length)
    }

    /// Offset of a part of the file in it.
    fn inside(&self, part: &[u8]) -> (usize, usize) {
        let offset = (part.as_ptr() as usize).wrapping_sub(self.bytes.as_ptr() as usize);
        (offset, part.len())
    }

    fn add(
        &mut self,
        link: DataLink,
        time: u128,
        original: u32,
        (offset, length): (usize, usize),
    ) -> Result<(), RecordingError> {
        if link != DataLink::ETHERNET {
            return Err(RecordingError::LinkType {
                file: self.file.into(),
                packet: self.packet,
                link: link.into(),
            });
        }
        self.packet += 1;
        if length.max(original as usize) > MAX_FRAME as usize {
            self.skipped.too_long += 1;
        } else if (original as usize) > length {
            self.skipped.truncated += 1;
        } else if length < MIN_FRAME as usize {
            self.skipped.too_short += 1;
        } else {
            let time = u64::try_from(time).unwrap_or(u64::MAX);
            self.entries.push(Entry {
                time,
                offset,
                length,
            });
        }
        Ok(())
    }

    fn no_capture(&self, error: &PcapError) -> RecordingError {
        RecordingError::NoCapture {
            file: self.file.into(),
            reason: match error {
                PcapError::IncompleteBuffer => "it ends inside its header".into(),
                other => other.to_string(),
            },
        }
    }

    fn damaged(&self, error: &PcapError) -> RecordingError {
        match error {
            PcapError::IncompleteBuffer => RecordingError::Cut {
                file: self.file.into(),
                packet: self.packet,
                offset: self.bytes.len() - self.rest.len(),
            },
            other => self.damaged_for(other.to_string()),
        }
    }

    fn damaged_for(&self, reason: String) -> RecordingError {
        RecordingError::Damaged {
            file: self.file.into(),
            packet: self.packet,
            offset: self.bytes.len() - self.rest.len(),
            reason,
        }
    }
}

/// A time in the units of an interface (`if_tsresol`, `if_tsoffset`), in nanoseconds since the
/// epoch.
fn nanoseconds(interface: &InterfaceDescriptionBlock<'_>, ticks: u64) -> u128 {
    let mut resolution = 6;
    let mut offset = 0;
    for option in &interface.options {
        match option {
            InterfaceDescriptionOption::IfTsResol(value) => resolution = *value,
            InterfaceDescriptionOption::IfTsOffset(value) => offset = *value as i64,
            _ => {}
        }
    }
    let ticks = u128::from(ticks);
    let exponent = u32::from(resolution & 0x7f);
    let time = if resolution & 0x80 != 0 {
        // Below 2^64 times 10^9: no overflow.
        (ticks * SECOND) >> exponent
    } else if exponent <= 9 {
        ticks * 10u128.pow(9 - exponent)
    } else {
        10u128
            .checked_pow(exponent - 9)
            .map_or(0, |unit| ticks / unit)
    };
    let seconds = i128::from(offset) * SECOND as i128;
    time.saturating_add_signed(seconds)
}

/// The program that decompresses a file that begins like this, if it is compressed.
fn decompressor(bytes: &[u8]) -> Option<&'static str> {
    const MAGIC: [(&[u8], &str); 5] = [
        (&[0x1f, 0x8b], "gunzip"),
        (&[0x28, 0xb5, 0x2f, 0xfd], "unzstd"),
        (&[0xfd, b'7', b'z', b'X', b'Z', 0], "unxz"),
        (b"BZh", "bunzip2"),
        (&[0x04, 0x22, 0x4d, 0x18], "unlz4"),
    ];
    let found = MAGIC.iter().find(|(magic, _)| bytes.starts_with(magic));
    found.map(|(_, program)| *program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressed_files_are_told_from_damaged_ones() {
        for (magic, program) in [
            (&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0][..], "gunzip"),
            (&[0x28, 0xb5, 0x2f, 0xfd, 0][..], "unzstd"),
            (&b"\xfd7zXZ\0\0"[..], "unxz"),
        ] {
            let error = Recording::parse(Path::new("x.pcap.gz"), magic.to_vec()).unwrap_err();
            let text = error.to_string();
            assert!(text.contains("x.pcap.gz is compressed"), "{text}");
            assert!(text.contains(program), "{text}");
        }
    }

    #[test]
    fn times_of_every_resolution_become_nanoseconds() {
        let time = |options, ticks| {
            let mut interface = InterfaceDescriptionBlock::new(DataLink::ETHERNET, 0);
            interface.options = options;
            nanoseconds(&interface, ticks)
        };
        use InterfaceDescriptionOption::{IfTsOffset, IfTsResol};
        assert_eq!(time(vec![], 5), 5000, "microseconds if it does not say");
        assert_eq!(time(vec![IfTsResol(9)], 5), 5);
        assert_eq!(time(vec![IfTsResol(0)], 5), 5_000_000_000);
        assert_eq!(time(vec![IfTsResol(12)], 5999), 5);
        assert_eq!(time(vec![IfTsResol(127)], u64::MAX), 0);
        assert_eq!(time(vec![IfTsResol(0x80 | 10)], 1024), 1_000_000_000);
        assert_eq!(time(vec![IfTsResol(0xff)], u64::MAX), 0);
        assert_eq!(time(vec![IfTsOffset(2)], 1), 2_000_001_000);
        assert_eq!(time(vec![IfTsOffset(u64::MAX)], 1), 0, "before the epoch");
        assert_eq!(
            time(vec![IfTsResol(0)], u64::MAX),
            u128::from(u64::MAX) * SECOND
        );
    }
}
