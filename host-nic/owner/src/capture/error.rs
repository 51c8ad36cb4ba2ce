//! What can go wrong with capture files.

use std::io;
use std::path::PathBuf;

use super::recording::{MAX_FILE, Skipped};
use postern_abi::window::{MAX_FRAME, MIN_FRAME};

/// Why there is no capture, or not a whole one.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file is there already.
    #[error("capture file {} exists; remove it or name another", file.display())]
    Exists {
        /// The file.
        file: PathBuf,
    },
    /// The file cannot be made.
    #[error("cannot create capture file {}", file.display())]
    Create {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error(
        "cannot write to capture file {}; it holds what was captured before that", file.display()
    )]
    Write {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The thread cannot be started.
    #[error("cannot start the thread that writes capture file {}", file.display())]
    Thread {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What is wrong with a file. Packets are numbered from 1, as tcpdump and Wireshark do.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// It cannot be read.
    #[error("cannot read {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is a directory, a device or a pipe.
    #[error("{} is no regular file; save what it gives to one first", file.display())]
    NoFile {
        /// The file.
        file: PathBuf,
    },
    /// It is larger than [`MAX_FILE`].
    #[error(
        "{} has {size} bytes, over the limit of {MAX_FILE}; cut it, for example with \
         `editcap -c 100000 {} part.pcap`", file.display(), file.display()
    )]
    TooLarge {
        /// The file.
        file: PathBuf,
        /// Its size, in bytes.
        size: u64,
    },
    /// It is none of the formats.
    #[error(
        "{} is no pcap or pcapng file: {reason}; give one that tcpdump -w or Wireshark wrote",
        file.display()
    )]
    NoCapture {
        /// The file.
        file: PathBuf,
        /// What is wrong with its beginning.
        reason: String,
    },
    /// It ends inside a packet.
    #[error(
        "{} ends inside packet {packet}, whose record starts at byte {offset}; copy it again, or keep its \
         whole packets with `tcpdump -r {} -w whole.pcap`", file.display(), file.display()
    )]
    Cut {
        /// The file.
        file: PathBuf,
        /// The packet.
        packet: u64,
        /// Where its record starts.
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
        /// Where its record starts.
        offset: usize,
        /// What is wrong.
        reason: String,
    },
    /// Its frames are not Ethernet frames.
    #[error(
        "{} has link type {link} at packet {packet}, not Ethernet (1); capture on an Ethernet interface \
         (tcpdump -i eth0, not -i any)", file.display()
    )]
    LinkType {
        /// The file.
        file: PathBuf,
        /// First packet of that kind.
        packet: u64,
        /// Its number.
        link: u32,
    },
    /// There is nothing to send.
    #[error(
        "{} has no frame that can be sent ({} cut short, {} over {MAX_FRAME} bytes, {} under {MIN_FRAME} \
         bytes); capture again while there is traffic, with whole frames (tcpdump -s 0)",
        file.display(), skipped.truncated, skipped.too_long, skipped.too_short
    )]
    Empty {
        /// The file.
        file: PathBuf,
        /// What it has.
        skipped: Skipped,
    },
}
