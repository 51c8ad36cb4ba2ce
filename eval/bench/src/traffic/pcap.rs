//! Reading, checking and writing capture files.
//!
//! Accepted: pcap (both byte orders, micro- and nanoseconds) and pcapng, link type Ethernet, every
//! frame whole and of a length that an Ethernet with an MTU of 1500 carries. Everything else is
//! refused with the frame's number, what is wrong with it, and what to do.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pcap_file::pcap::{PcapHeader, PcapPacket, PcapParser, PcapWriter};
use pcap_file::pcapng::{Block, PcapNgParser};
use pcap_file::{DataLink, Endianness, PcapError, TsResolution};
use postern_lab::output;
use sha2::{Digest, Sha256};

use super::{Frame, HEADER_LEN, MAX_LEN, Trace};

/// Largest capture file that is read, in bytes.
pub const MAX_FILE_SIZE: u64 = 256 << 20;

/// Error in a capture file. Frames are numbered from 1, as tcpdump and Wireshark do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be opened or read.
    #[error("cannot read capture {}; give a file that exists and is readable", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write capture {}", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file is larger than [`MAX_FILE_SIZE`].
    #[error(
        "capture {} has over {} bytes; cut it, for example with `editcap -r {} cut.pcap 1-10000`",
        file.display(), MAX_FILE_SIZE, file.display()
    )]
    TooLarge {
        /// The file.
        file: PathBuf,
    },
    /// The file has no bytes.
    #[error(
        "capture {} is empty; give a file written by tcpdump -w or Wireshark",
        file.display()
    )]
    Empty {
        /// The file.
        file: PathBuf,
    },
    /// The file has a header and no frames.
    #[error(
        "capture {} holds no frames; capture again while there is traffic",
        file.display()
    )]
    NoFrames {
        /// The file.
        file: PathBuf,
    },
    /// The file is compressed.
    #[error("{} is compressed; decompress it first, with gunzip", file.display())]
    Compressed {
        /// The file.
        file: PathBuf,
    },
    /// The first bytes are those of no capture format.
    #[error(
        "{} is not a pcap or pcapng file (it starts with {start}); give a file written by tcpdump \
         -w or Wireshark", file.display()
    )]
    NotACapture {
        /// The file.
        file: PathBuf,
        /// First bytes of the file, in hexadecimal.
        start: String,
    },
    /// The file ends inside a header or a frame.
    #[error(
        "capture {} is truncated: it ends inside frame {frame}, whose record starts at byte \
         {offset} of {size}; copy it again, or keep the whole frames with \
         `editcap -r {} whole.pcap 1-{}`",
        file.display(), file.display(), frame - 1
    )]
    Truncated {
        /// The file.
        file: PathBuf,
        /// Number of the frame that is cut.
        frame: usize,
        /// Offset of the frame's record in the file, in bytes.
        offset: usize,
        /// Size of the file.
        size: usize,
    },
    /// The file ends inside its own header.
    #[error(
        "capture {} is truncated: it ends inside its header, after {size} bytes; copy it again",
        file.display()
    )]
    TruncatedHeader {
        /// The file.
        file: PathBuf,
        /// Size of the file.
        size: usize,
    },
    /// The frames are not Ethernet frames.
    #[error(
        "capture {} has link type {link} at frame {frame}, not Ethernet (1); capture on an \
         Ethernet interface (tcpdump -i eth0, not -i any)", file.display()
    )]
    LinkType {
        /// The file.
        file: PathBuf,
        /// First frame of this kind.
        frame: usize,
        /// Link type of the frame: name and number.
        link: String,
    },
    /// A frame was captured only in part.
    #[error(
        "capture {}, frame {frame}: only {captured} of its {wire} bytes were captured; capture \
         again without a limit (tcpdump -s 0)", file.display()
    )]
    Snapped {
        /// The file.
        file: PathBuf,
        /// Number of the frame.
        frame: usize,
        /// Bytes in the file.
        captured: u32,
        /// Bytes on the wire.
        wire: u32,
    },
    /// A frame is longer than [`MAX_LEN`].
    #[error(
        "capture {}, frame {frame}: {length} bytes are over the limit of {MAX_LEN} (MTU 1500); \
         capture with segmentation offloads off (ethtool -K DEVICE tso off gso off gro off) and an \
         MTU of 1500 at most", file.display()
    )]
    TooLong {
        /// The file.
        file: PathBuf,
        /// Number of the frame.
        frame: usize,
        /// Length of the frame in bytes.
        length: usize,
    },
    /// A frame is shorter than an Ethernet header.
    #[error(
        "capture {}, frame {frame}: {length} bytes are less than the {HEADER_LEN} of an Ethernet \
         header; remove the frame, for example with `editcap {} cut.pcap {frame}`",
        file.display(), file.display()
    )]
    TooShort {
        /// The file.
        file: PathBuf,
        /// Number of the frame.
        frame: usize,
        /// Length of the frame in bytes.
        length: usize,
    },
    /// A record breaks the rules of the format.
    #[error(
        "capture {} is damaged at frame {frame}, byte {offset}: {reason}; copy or capture it again",
        file.display()
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Number of the frame that should be there.
        frame: usize,
        /// Offset of the frame's record in the file, in bytes.
        offset: usize,
        /// The rule that the record breaks.
        reason: String,
    },
}

/// Reads the capture `file` and checks every frame.
///
/// # Errors
///
/// The first thing that is wrong, as in [`Error`].
pub fn load(file: &Path) -> Result<Trace, Error> {
    let read_error = |source| Error::Read {
        file: file.into(),
        source,
    };
    let mut bytes = Vec::new();
    File::open(file)
        .map_err(read_error)?
        .take(MAX_FILE_SIZE + 1)
        .read_to_end(&mut bytes)
        .map_err(read_error)?;
    if bytes.len() as u64 > MAX_FILE_SIZE {
        return Err(Error::TooLarge { file: file.into() });
    }
    let name = file.file_name().unwrap_or(file.as_os_str());
    Ok(Trace::new(name.to_string_lossy(), parse(file, &bytes)?))
}

/// The frames of a capture file whose content is `bytes`; `file` is for messages.
///
/// # Errors
///
/// Those of [`load`], but for opening the file.
pub fn parse(file: &Path, bytes: &[u8]) -> Result<Vec<Frame>, Error> {
    let mut reader = Reader {
        file,
        bytes,
        frames: Vec::new(),
    };
    match bytes {
        [] => return Err(Error::Empty { file: file.into() }),
        [0xa1, 0xb2, 0xc3, 0xd4, ..]
        | [0xa1, 0xb2, 0x3c, 0x4d, ..]
        | [0xd4, 0xc3, 0xb2, 0xa1, ..]
        | [0x4d, 0x3c, 0xb2, 0xa1, ..] => reader.pcap()?,
        [0x0a, 0x0d, 0x0d, 0x0a, ..] => reader.pcapng()?,
        // gzip, RFC 1952, "Member header and trailer".
        [0x1f, 0x8b, ..] => return Err(Error::Compressed { file: file.into() }),
        _ => {
            let start: Vec<_> = bytes.iter().take(4).map(|b| format!("{b:02x}")).collect();
            return Err(Error::NotACapture {
                file: file.into(),
                start: start.join(" "),
            });
        }
    }
    if reader.frames.is_empty() {
        return Err(Error::NoFrames { file: file.into() });
    }
    Ok(reader.frames)
}

struct Reader<'a> {
    file: &'a Path,
    bytes: &'a [u8],
    frames: Vec<Frame>,
}

impl<'a> Reader<'a> {
    fn pcap(&mut self) -> Result<(), Error> {
        let (mut rest, parser) =
            PcapParser::new(self.bytes).map_err(|error| self.header_error(error))?;
        let link = parser.header().datalink;
        while !rest.is_empty() {
            let (after, packet) = parser
                .next_raw_packet(rest)
                .map_err(|error| self.record_error(rest, error))?;
            self.add(link, packet.orig_len, &packet.data)?;
            rest = after;
        }
        Ok(())
    }

    fn pcapng(&mut self) -> Result<(), Error> {
        let (mut rest, mut parser) =
            PcapNgParser::new(self.bytes).map_err(|error| self.header_error(error))?;
        while !rest.is_empty() {
            let (after, block) = parser
                .next_block(rest)
                .map_err(|error| self.record_error(rest, error))?;
            let packet = match &block {
                Block::EnhancedPacket(p) => Some((p.interface_id, p.original_len, &p.data[..])),
                Block::Packet(p) => Some((p.interface_id.into(), p.original_len, &p.data[..])),
                // The crate leaves the padding to four bytes in.
                Block::SimplePacket(p) => {
                    let length = p.data.len().min(p.original_len as usize);
                    Some((0, p.original_len, &p.data[..length]))
                }
                _ => None,
            };
            if let Some((interface, wire, data)) = packet {
                let link = parser
                    .interfaces()
                    .get(interface as usize)
                    .ok_or_else(|| {
                        self.record_error(rest, PcapError::InvalidInterfaceId(interface))
                    })?
                    .linktype;
                self.add(link, wire, data)?;
            }
            rest = after;
        }
        Ok(())
    }

    /// Checks one frame and keeps it.
    fn add(&mut self, link: DataLink, wire: u32, data: &[u8]) -> Result<(), Error> {
        let file = || self.file.to_path_buf();
        let frame = self.frames.len() + 1;
        let length = data.len();
        if link != DataLink::ETHERNET {
            return Err(Error::LinkType {
                file: file(),
                frame,
                link: format!("{link:?} ({})", u32::from(link)),
            });
        }
        if wire as usize > length {
            return Err(Error::Snapped {
                file: file(),
                frame,
                captured: length as u32,
                wire,
            });
        }
        if length > MAX_LEN {
            return Err(Error::TooLong {
                file: file(),
                frame,
                length,
            });
        }
        if length < HEADER_LEN {
            return Err(Error::TooShort {
                file: file(),
                frame,
                length,
            });
        }
        self.frames.push(data.into());
        Ok(())
    }

    fn header_error(&self, error: PcapError) -> Error {
        match error {
            PcapError::IncompleteBuffer => Error::TruncatedHeader {
                file: self.file.into(),
                size: self.bytes.len(),
            },
            other => self.record_error(self.bytes, other),
        }
    }

    /// The error for a record at the start of `rest`.
    fn record_error(&self, rest: &[u8], error: PcapError) -> Error {
        let file = self.file.to_path_buf();
        let frame = self.frames.len() + 1;
        let size = self.bytes.len();
        let offset = size - rest.len();
        match error {
            PcapError::IncompleteBuffer => Error::Truncated {
                file,
                frame,
                offset,
                size,
            },
            other => Error::Damaged {
                file,
                frame,
                offset,
                reason: other.to_string(),
            },
        }
    }
}

/// Writes frames with their times since the epoch as a pcap file (little endian, nanoseconds) that
/// appears whole or not at all.
///
/// # Errors
///
/// [`Error::Write`].
pub fn save<'a>(
    file: &Path,
    frames: impl IntoIterator<Item = (Duration, &'a [u8])>,
) -> Result<(), Error> {
    output::write_whole(file, |out| write(out, frames)).map_err(|source| Error::Write {
        file: file.into(),
        source,
    })
}

/// Bytes of the header of a pcap file.
const FILE_HEADER: u64 = 24;

/// Bytes of the header of a record of a pcap file.
pub const RECORD_HEADER: u64 = 16;

/// Bytes of a pcap file with these frames.
pub fn size(frames: &[Frame]) -> u64 {
    let record = |frame: &Frame| RECORD_HEADER + frame.len() as u64;
    FILE_HEADER + frames.iter().map(record).sum::<u64>()
}

/// A pcap file with these frames, without times, as bytes.
///
/// # Errors
///
/// A frame that no pcap file can hold.
pub fn to_bytes(frames: &[Frame]) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    write(
        &mut bytes,
        frames.iter().map(|frame| (Duration::ZERO, &frame[..])),
    )?;
    Ok(bytes)
}

fn write<'a>(
    out: impl io::Write,
    frames: impl IntoIterator<Item = (Duration, &'a [u8])>,
) -> io::Result<()> {
    let header = PcapHeader {
        snaplen: 65535,
        datalink: DataLink::ETHERNET,
        ts_resolution: TsResolution::NanoSecond,
        endianness: Endianness::Little,
        ..PcapHeader::default()
    };
    let mut writer = PcapWriter::with_header(out, header).map_err(io::Error::other)?;
    for (time, data) in frames {
        let packet = PcapPacket::new(time, data.len() as u32, data);
        writer.write_packet(&packet).map_err(io::Error::other)?;
    }
    Ok(())
}

/// SHA-256 over the frames, each preceded by its length as four little-endian bytes.
pub(super) fn hash_frames(frames: &[Frame]) -> String {
    let mut hash = Sha256::new();
    for frame in frames {
        hash.update((frame.len() as u32).to_le_bytes());
        hash.update(frame);
    }
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
#[path = "pcap_tests.rs"]
mod tests;
