//! Capture files that cannot be sent.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use postern_abi::window::{MAX_FRAME, MIN_FRAME};
use postern_nic_client::file::FileError;
use serde::Serialize;

/// Size of the largest file that is read, in bytes.
pub const MAX_FILE: u64 = 1 << 30;
/// Numbers of frames of a file that cannot be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// Frames that were captured only in part.
    pub truncated: u64,
    /// Frames longer than [`MAX_FRAME`].
    pub too_long: u64,
    /// Frames shorter than [`MIN_FRAME`].
    pub too_short: u64,
}

/// A file that cannot be sent. Packets are numbered from 1, as tcpdump and Wireshark number them.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The file cannot be read.
    #[error("the capture {}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// The fault of the file.
        source: FileError,
    },
    /// The file is larger than [`MAX_FILE`].
    #[error(
        "{} has more than {} MiB; cut it, for example with \
         `editcap -c 100000 {} part.pcap`", file.display(), MAX_FILE >> 20, file.display()
    )]
    TooLarge {
        /// The file.
        file: PathBuf,
    },
    /// The file has none of the formats.
    #[error(
        "{} is no pcap or pcapng file: {reason}; give one that tcpdump -w or Wireshark wrote",
        file.display()
    )]
    NoCapture {
        /// The file.
        file: PathBuf,
        /// The fault of its beginning.
        reason: String,
    },
    /// The file is compressed.
    #[error(
        "{} is compressed; decompress it first, with {program}", file.display()
    )]
    Compressed {
        /// The file.
        file: PathBuf,
        /// The program that decompresses it.
        program: &'static str,
    },
    /// The file ends inside a packet.
    #[error(
        "{} ends inside packet {packet}, whose record starts at byte {offset}; copy it again, \
         or keep its whole packets with `tcpdump -r {} -w whole.pcap`",
        file.display(), file.display()
    )]
    Cut {
        /// The file.
        file: PathBuf,
        /// The packet.
        packet: u64,
        /// Offset of its record in the file, in bytes.
        offset: usize,
    },
    /// A record breaks the rules of the format.
    #[error(
        "{} is damaged at packet {packet}, byte {offset}: {reason}; copy or capture it again",
        file.display()
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// The packet that should be there.
        packet: u64,
        /// Offset of its record in the file, in bytes.
        offset: usize,
        /// The fault.
        reason: String,
    },
    /// The file's frames are not Ethernet frames.
    #[error(
        "{} has link type {link} at packet {packet}, not Ethernet (1); \
         capture on an Ethernet interface (tcpdump -i eth0, not -i any)", file.display()
    )]
    LinkType {
        /// The file.
        file: PathBuf,
        /// The first packet of another link type.
        packet: u64,
        /// Number of the link type.
        link: u32,
    },
    /// The file has no frame that can be sent.
    #[error(
        "{} has no frame that can be sent \
         ({} cut short, {} over {MAX_FRAME} bytes, {} under {MIN_FRAME} bytes); \
         capture again while there is traffic, with whole frames (tcpdump -s 0)",
        file.display(), skipped.truncated, skipped.too_long, skipped.too_short
    )]
    Empty {
        /// The file.
        file: PathBuf,
        /// The frames that it has.
        skipped: Skipped,
    },
}
