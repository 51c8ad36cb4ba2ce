//! Classic pcap files: reading one that lies in memory, and writing one into memory.
//!
//! The reader takes both byte orders and both time resolutions of the format (microseconds and
//! nanoseconds), link type Ethernet. It checks the whole file before it gives out the first frame.

use core::fmt;

use postern_abi::window::MIN_FRAME;

/// Size of the file header in bytes.
pub const FILE_HEADER: usize = 24;

/// Size of a record's header in bytes.
pub const RECORD_HEADER: usize = 16;

/// Link type of Ethernet.
const ETHERNET: u32 = 1;

/// First word of the file: time in microseconds.
const MAGIC_MICROS: u32 = 0xa1b2_c3d4;

/// First word of the file: time in nanoseconds.
const MAGIC_NANOS: u32 = 0xa1b2_3c4d;

/// First word of a pcapng file, the same in both byte orders.
const MAGIC_NG: u32 = 0x0a0d_0d0a;

/// A file that [`PcapReader::parse`] refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PcapError {
    /// The file is shorter than a file header.
    NoHeader {
        /// Bytes in the file.
        len: usize,
    },
    /// The file is a pcapng file.
    NextGeneration,
    /// The file begins with this word, which no pcap file does.
    Magic(u32),
    /// The file has a version other than 2.4.
    Version(u16, u16),
    /// The file has a link type other than Ethernet.
    LinkType(u32),
    /// The file ends within a record.
    Truncated {
        /// Number of the record, from 1.
        record: usize,
    },
    /// The frame was cut when it was captured.
    Cut {
        /// Number of the record, from 1.
        record: usize,
        /// Bytes in the file.
        captured: u32,
        /// Bytes on the wire.
        original: u32,
    },
    /// A frame is shorter than an Ethernet header, or longer than the NIC takes.
    FrameLength {
        /// Number of the record, from 1.
        record: usize,
        /// Bytes of the frame.
        len: u32,
        /// The most that the NIC takes.
        max: usize,
    },
    /// The file has no frame.
    Empty,
}

impl fmt::Display for PcapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            PcapError::NoHeader { len } => write!(
                f,
                "{len} bytes are too few for a pcap file, whose header alone has {FILE_HEADER}"
            ),
            PcapError::NextGeneration => f.write_str(
                "this is a pcapng file; convert it to classic pcap (editcap -F pcap IN OUT)",
            ),
            PcapError::Magic(word) => {
                write!(f, "this is no pcap file: its first word is {word:#010x}")
            }
            PcapError::Version(major, minor) => {
                write!(f, "the pcap has version {major}.{minor}, known is 2.4")
            }
            PcapError::LinkType(kind) => write!(
                f,
                "the pcap has link type {kind}, supported is Ethernet ({ETHERNET})"
            ),
            PcapError::Truncated { record } => {
                write!(f, "the pcap ends within record {record}: it was truncated")
            }
            PcapError::Cut {
                record,
                captured,
                original,
            } => write!(
                f,
                "record {record} of the pcap holds {captured} of a frame's {original} bytes; \
                 capture whole frames (tcpdump -s 0)"
            ),
            PcapError::FrameLength { record, len, max } => write!(
                f,
                "record {record} of the pcap is a frame of {len} bytes; \
                 the NIC takes {MIN_FRAME} to {max}"
            ),
            PcapError::Empty => f.write_str("the pcap holds no frame"),
        }
    }
}

/// A checked pcap file of Ethernet frames, at least one.
#[derive(Clone, Copy, Debug)]
pub struct PcapReader<'a> {
    records: &'a [u8],
    order: ByteOrder,
    frames: usize,
}

impl<'a> PcapReader<'a> {
    /// Checks a file whose frames are at most `max_frame` bytes long.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong with the file.
    pub fn parse(file: &'a [u8], max_frame: usize) -> Result<PcapReader<'a>, PcapError> {
        let len = file.len();
        let (header, records) = file
            .split_first_chunk::<FILE_HEADER>()
            .ok_or(PcapError::NoHeader { len })?;
        let order = match ByteOrder::Little.u32(header, 0) {
            MAGIC_MICROS | MAGIC_NANOS => ByteOrder::Little,
            MAGIC_NG => return Err(PcapError::NextGeneration),
            magic => match magic.swap_bytes() {
                MAGIC_MICROS | MAGIC_NANOS => ByteOrder::Big,
                _ => return Err(PcapError::Magic(magic)),
            },
        };
        let version = (order.u16(header, 4), order.u16(header, 6));
        if version != (2, 4) {
            return Err(PcapError::Version(version.0, version.1));
        }
        // The upper bits say whether frames end in a checksum, and how long it is.
        let link_type = order.u32(header, 20);
        if link_type != ETHERNET {
            return Err(PcapError::LinkType(link_type));
        }

        let mut walk = Records { records, order };
        let mut frames = 0;
        while !walk.records.is_empty() {
            let record = frames + 1;
            let (frame, original) = walk.next().ok_or(PcapError::Truncated { record })?;
            let captured = frame.len() as u32;
            if captured < original {
                return Err(PcapError::Cut {
                    record,
                    captured,
                    original,
                });
            }
            if frame.len() < MIN_FRAME as usize || frame.len() > max_frame {
                return Err(PcapError::FrameLength {
                    record,
                    len: captured,
                    max: max_frame,
                });
            }
            frames = record;
        }
        if frames == 0 {
            return Err(PcapError::Empty);
        }
        Ok(PcapReader {
            records,
            order,
            frames,
        })
    }

    /// Number of the file's frames; never zero.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.frames
    }

    /// The frames in the order of the file.
    pub fn frames(&self) -> impl Iterator<Item = &'a [u8]> + Clone + use<'a> {
        let walk = Records {
            records: self.records,
            order: self.order,
        };
        walk.map(|(frame, _)| frame)
    }
}

/// Byte order of a file.
#[derive(Clone, Copy, Debug)]
enum ByteOrder {
    Little,
    Big,
}

impl ByteOrder {
    fn u16(self, bytes: &[u8; FILE_HEADER], at: usize) -> u16 {
        let word = [bytes[at], bytes[at + 1]];
        match self {
            ByteOrder::Little => u16::from_le_bytes(word),
            ByteOrder::Big => u16::from_be_bytes(word),
        }
    }

    fn u32<const N: usize>(self, bytes: &[u8; N], at: usize) -> u32 {
        let word = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        match self {
            ByteOrder::Little => u32::from_le_bytes(word),
            ByteOrder::Big => u32::from_be_bytes(word),
        }
    }
}

/// An iterator over records: each frame, and its length in bytes when it was captured. It ends
/// where the next record is not there in full.
#[derive(Clone, Debug)]
struct Records<'a> {
    records: &'a [u8],
    order: ByteOrder,
}

impl<'a> Iterator for Records<'a> {
    type Item = (&'a [u8], u32);

    fn next(&mut self) -> Option<(&'a [u8], u32)> {
        let (header, rest) = self.records.split_first_chunk::<RECORD_HEADER>()?;
        let captured = self.order.u32(header, 8);
        let original = self.order.u32(header, 12);
        let (frame, rest) = rest.split_at_checked(captured as usize)?;
        self.records = rest;
        Some((frame, original))
    }
}

/// A pcap file that is being written into a piece of memory. The time of each frame is its number,
/// in microseconds: the same run gives the same file.
#[derive(Debug)]
pub struct PcapWriter<'a> {
    memory: &'a mut [u8],
    used: usize,
    frames: u64,
}

/// The error of a [`PcapWriter`] whose memory is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PcapFullError;

impl<'a> PcapWriter<'a> {
    /// Starts a file with no frame.
    ///
    /// # Errors
    ///
    /// [`PcapFullError`] if the memory does not hold even a file header.
    pub fn new(memory: &'a mut [u8]) -> Result<PcapWriter<'a>, PcapFullError> {
        let header = memory
            .first_chunk_mut::<FILE_HEADER>()
            .ok_or(PcapFullError)?;
        header.fill(0);
        header[0..4].copy_from_slice(&MAGIC_MICROS.to_le_bytes());
        header[4] = 2;
        header[6] = 4;
        header[16..20].copy_from_slice(&u32::from(u16::MAX).to_le_bytes());
        header[20..24].copy_from_slice(&ETHERNET.to_le_bytes());
        Ok(PcapWriter {
            memory,
            used: FILE_HEADER,
            frames: 0,
        })
    }

    /// Appends a frame of `len` bytes, which `fill` writes.
    ///
    /// # Errors
    ///
    /// [`PcapFullError`] if the memory has no room for it; the file stays as it was.
    pub fn append(
        &mut self,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(), PcapFullError> {
        let (header, rest) = self.memory[self.used..]
            .split_first_chunk_mut::<RECORD_HEADER>()
            .ok_or(PcapFullError)?;
        let frame = rest.get_mut(..len).ok_or(PcapFullError)?;
        let size = (len as u32).to_le_bytes();
        header[0..4].copy_from_slice(&((self.frames / 1_000_000) as u32).to_le_bytes());
        header[4..8].copy_from_slice(&((self.frames % 1_000_000) as u32).to_le_bytes());
        header[8..12].copy_from_slice(&size);
        header[12..16].copy_from_slice(&size);
        fill(frame);
        self.used += RECORD_HEADER + len;
        self.frames += 1;
        Ok(())
    }

    /// Number of frames so far.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// The file so far.
    pub fn file(&self) -> &[u8] {
        &self.memory[..self.used]
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 1514;

    fn file(magic: u32, big: bool, link_type: u32, frames: &[Vec<u8>]) -> Vec<u8> {
        let u16 = |v: u16| {
            if big {
                v.to_be_bytes()
            } else {
                v.to_le_bytes()
            }
        };
        let u32 = |v: u32| {
            if big {
                v.to_be_bytes()
            } else {
                v.to_le_bytes()
            }
        };
        let mut file = Vec::new();
        file.extend(u32(magic));
        file.extend(u16(2));
        file.extend(u16(4));
        file.extend([0; 8]);
        file.extend(u32(65535));
        file.extend(u32(link_type));
        for frame in frames {
            file.extend([7; 8]);
            file.extend(u32(frame.len() as u32));
            file.extend(u32(frame.len() as u32));
            file.extend(frame);
        }
        file
    }

    fn good() -> Vec<u8> {
        file(MAGIC_MICROS, false, ETHERNET, &[vec![1; 60], vec![2; 1514]])
    }

    #[test]
    fn says_what_is_wrong_with_a_file() {
        let parse = |bytes: &[u8]| PcapReader::parse(bytes, MAX).unwrap_err();
        assert_eq!(parse(&[]), PcapError::NoHeader { len: 0 });
        assert_eq!(parse(&good()[..23]), PcapError::NoHeader { len: 23 });
        assert_eq!(parse(&good()[..24]), PcapError::Empty);
        assert_eq!(parse(&good()[..39]), PcapError::Truncated { record: 1 });
        assert_eq!(parse(&good()[..1600]), PcapError::Truncated { record: 2 });
        assert_eq!(
            parse(&file(MAGIC_NG, false, 1, &[])),
            PcapError::NextGeneration
        );
        assert_eq!(
            parse(&file(0x1234, false, 1, &[])),
            PcapError::Magic(0x1234)
        );
        assert_eq!(
            parse(&file(MAGIC_NANOS, true, 113, &[])),
            PcapError::LinkType(113)
        );
        let mut version = good();
        version[4] = 1;
        assert_eq!(parse(&version), PcapError::Version(1, 4));
        let mut cut = good();
        cut[36] = 61;
        assert_eq!(
            parse(&cut),
            PcapError::Cut {
                record: 1,
                captured: 60,
                original: 61
            }
        );
        for len in [13, 1515] {
            assert_eq!(
                parse(&file(MAGIC_MICROS, true, 1, &[vec![0; 60], vec![0; len]])),
                PcapError::FrameLength {
                    record: 2,
                    len: len as u32,
                    max: MAX
                }
            );
        }
    }

    #[test]
    fn a_full_recorder_keeps_what_it_has() {
        let mut memory = [0; FILE_HEADER + RECORD_HEADER + 60];
        let mut writer = PcapWriter::new(&mut memory).unwrap();
        assert_eq!(writer.append(61, |_| panic!("no room")), Err(PcapFullError));
        writer.append(60, |frame| frame.fill(9)).unwrap();
        assert_eq!(writer.append(0, |_| panic!("no room")), Err(PcapFullError));
        let pcap = PcapReader::parse(writer.file(), MAX).unwrap();
        assert!(pcap.frames().eq([&[9; 60][..]]));
        assert!(PcapWriter::new(&mut [0; FILE_HEADER - 1]).is_err());
    }

    proptest! {
        #[test]
        fn every_variant_of_the_format_is_read(
            frames in vec(vec(any::<u8>(), 14..200), 1..20),
            nanos in any::<bool>(),
            big in any::<bool>(),
        ) {
            let magic = if nanos { MAGIC_NANOS } else { MAGIC_MICROS };
            let bytes = file(magic, big, ETHERNET, &frames);
            let pcap = PcapReader::parse(&bytes, MAX).unwrap();
            prop_assert_eq!(pcap.len(), frames.len());
            prop_assert!(pcap.frames().eq(frames.iter().map(Vec::as_slice)));
        }

        #[test]
        fn what_the_recorder_writes_is_read(frames in vec(vec(any::<u8>(), 14..200), 1..20)) {
            let mut memory = vec![0xee; 8192];
            let mut writer = PcapWriter::new(&mut memory).unwrap();
            for frame in &frames {
                writer.append(frame.len(), |room| room.copy_from_slice(frame)).unwrap();
            }
            let pcap = PcapReader::parse(writer.file(), MAX).unwrap();
            prop_assert!(pcap.frames().eq(frames.iter().map(Vec::as_slice)));
        }

        #[test]
        fn a_damaged_file_is_read_or_refused(
            cut in 0usize..=1630,
            at in 0usize..1630,
            value in any::<u8>(),
        ) {
            let mut bytes = good();
            let len = bytes.len();
            bytes[at % len] = value;
            bytes.truncate(cut);
            if let Ok(pcap) = PcapReader::parse(&bytes, MAX) {
                prop_assert_eq!(pcap.frames().count(), pcap.len());
                prop_assert!(pcap.frames().all(|frame| (14..=MAX).contains(&frame.len())));
            }
        }

        #[test]
        fn garbage_is_read_or_refused(bytes in vec(any::<u8>(), 0..300)) {
            if let Ok(pcap) = PcapReader::parse(&bytes, MAX) {
                prop_assert_eq!(pcap.frames().count(), pcap.len());
            }
        }
    }
}
