//! The frames of a pcap or pcapng file, in memory.
//!
//! The whole file is read and checked before anything is done with its frames. What the file's
//! format does not allow is an error; a frame that only cannot be sent is skipped and counted.
//!
//! The crate that writes these formats ([`pcap_file`]) was not used to read them: it refuses files
//! that the formats allow (without the option that ends options, with text that is not UTF-8, with
//! the length of an FCS), and another one (pcap-parser) leaves out the packets of old blocks. Of
//! either format little more is needed than where its records begin.
#![forbid(unsafe_code)]

mod error;
mod fields;
mod packet;
mod pcap;
mod pcapng;

use std::path::Path;

pub use error::{MAX_FILE, RecordingError, Skipped};
use packet::Packet;
use postern_abi::window::{MAX_FRAME, MIN_FRAME};
use postern_nic_client::file::{self, FileError};

/// Number of the link type of Ethernet (LINKTYPE_ETHERNET).
const ETHERNET: u32 = 1;

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
    pub fn open(path: &Path) -> Result<Recording, RecordingError> {
        let bytes = file::read(path, MAX_FILE).map_err(|source| {
            let file = path.into();
            match source {
                FileError::TooLarge { .. } => RecordingError::TooLarge { file },
                source => RecordingError::File { file, source },
            }
        })?;
        Recording::parse(path, bytes)
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
        let mut packets = Packets {
            file,
            bytes: &bytes,
            at: 0,
            packet: 1,
            entries: Vec::new(),
            skipped: Skipped::default(),
        };
        match bytes.first_chunk() {
            Some(&pcapng::SECTION_MAGIC) => pcapng::read(&mut packets)?,
            Some(_) => pcap::read(&mut packets)?,
            None => return Err(packets.no_capture(&format!("it has {} bytes", bytes.len()))),
        }
        let Packets {
            entries, skipped, ..
        } = packets;
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

/// The packets of a file, while it is read.
struct Packets<'a> {
    file: &'a Path,
    bytes: &'a [u8],
    /// Offset of the record that is read.
    at: usize,
    /// The next packet.
    packet: u64,
    entries: Vec<Entry>,
    skipped: Skipped,
}

impl Packets<'_> {
    /// Takes the next packet, if it can be sent.
    fn add(&mut self, packet: Packet) -> Result<(), RecordingError> {
        if packet.link != ETHERNET {
            return Err(RecordingError::LinkType {
                file: self.file.into(),
                packet: self.packet,
                link: packet.link,
            });
        }
        self.packet += 1;
        // The FCS is no part of the frame (IEEE 802.3 "MAC frame format"): it is made when the frame
        // is sent.
        let whole = (packet.original as usize).max(packet.captured);
        let whole = whole.saturating_sub(packet.fcs as usize);
        let length = packet.captured.min(whole);
        if whole > MAX_FRAME as usize {
            self.skipped.too_long += 1;
        } else if whole > length {
            self.skipped.truncated += 1;
        } else if length < MIN_FRAME as usize {
            self.skipped.too_short += 1;
        } else {
            self.entries.push(Entry {
                time: u64::try_from(packet.time).unwrap_or(u64::MAX),
                offset: packet.offset,
                length,
            });
        }
        Ok(())
    }

    fn no_capture(&self, reason: &str) -> RecordingError {
        RecordingError::NoCapture {
            file: self.file.into(),
            reason: reason.into(),
        }
    }

    /// The error for a file that ends inside the record that is read.
    fn cut(&self) -> RecordingError {
        match self.at {
            0 => self.no_capture("it ends inside its header"),
            offset => RecordingError::Cut {
                file: self.file.into(),
                packet: self.packet,
                offset,
            },
        }
    }

    /// The error for a record that breaks the rules.
    fn damaged(&self, reason: &str) -> RecordingError {
        match self.at {
            0 => self.no_capture(reason),
            offset => RecordingError::Damaged {
                file: self.file.into(),
                packet: self.packet,
                offset,
                reason: reason.into(),
            },
        }
    }
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
}
