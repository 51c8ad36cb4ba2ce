//! Segmentation: a large TCP segment (TSO) or UDP datagram (USO) is cut into frames, for receivers
//! that take no large ones.
//!
//! A sender asks for it with the fields of `virtio_net_hdr` ([`Offload`]). They are hostile:
//! [`Shape::check`] compares them with the headers of the frame and refuses whatever contradicts
//! these, so that a frame that is passed on uncut carries only true fields too. `hdr_len` is not
//! one of the fields: virtio 1.2 ("Packet Transmission") tells devices not to rely on it, and the
//! headers say the same.
//!
//! [`Segments`] then makes the headers of one frame after the other:
//!
//! ```
//! # use postern_switch::offload::segment::{Offload, Refused, Segments, Shape};
//! # use postern_switch::policy::headers::{Headers, Snapshot};
//! # fn cut(
//! #     snapshot: &Snapshot, offload: Offload, frame: impl Fn(usize) -> u64,
//! # ) -> Result<(), Refused> {
//! let headers = Headers::parse(snapshot);
//! let shape = Shape::check(snapshot, &headers, offload)?;
//! let mut segments = Segments::new(snapshot, shape);
//! while let Some(payload) = segments.advance() {
//!     let (from, to) = (payload.offset, payload.offset + payload.length);
//!     segments.finish(segments.sum().add_range(from, to, &frame));
//!     // Deliver segments.header_length() bytes of segments.header(), and then bytes from..to.
//! }
//! # Ok(())
//! # }
//! ```
//!
//! These fields differ from frame to frame: the lengths of IP and UDP, the IPv4 identification (one
//! more each, as RFC 6864 demands for all but atomic datagrams) and header checksum, the TCP
//! sequence number, FIN and PSH (only in the last one), CWR (only in the first one, RFC 3168
//! section 6.1.2), and the checksum.

use super::checksum::{Sum, put_u16};
use crate::policy::headers::{
    Fragment, Headers, Hidden, PROTOCOL_TCP, PROTOCOL_UDP, SNAPSHOT_WORDS, Snapshot,
};

pub use postern_abi::window::MAX_SEGMENTS;
use postern_abi::window::RecordHeader;
use postern_abi::window::record_size;
pub use postern_abi::window::{
    FLAG_NEEDS_CSUM as NEEDS_CSUM, GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4,
};

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// The segmentation that a sender asks for: fields of `virtio_net_hdr`, read once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offload {
    /// Flags: [`NEEDS_CSUM`] and others.
    pub flags: u8,
    /// Type of the large frame, one of the `GSO_` constants.
    pub gso_type: u8,
    /// Number of bytes of payload in each frame but the last.
    pub gso_size: u16,
    /// Offset in the frame of the header of layer 4, in bytes.
    pub csum_start: u16,
    /// Offset of the checksum in that header, in bytes.
    pub csum_offset: u16,
}

impl Offload {
    /// What a record's header asks for.
    #[inline]
    pub const fn of(header: RecordHeader) -> Offload {
        Offload {
            flags: header.flags,
            gso_type: header.gso_type,
            gso_size: header.gso_size,
            csum_start: header.csum_start,
            csum_offset: header.csum_offset,
        }
    }
}

/// The reason why a large frame is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// `gso_type` is unknown, or may not have the bit for ECN that it has.
    Type,
    /// The frame is not of the IP version and protocol that `gso_type` says, or a fragment, or has
    /// an IPv6 routing header, or its headers do not lie in the snapshot.
    Headers,
    /// The lengths in the headers of IP and UDP are not those of the frame.
    Length,
    /// The TCP header is one that no large segment has: too short, or with SYN or RST.
    Tcp,
    /// The flag [`NEEDS_CSUM`] is missing, or `csum_start` and `csum_offset` are not the
    /// protocol's.
    Checksum,
    /// `gso_size` is zero, or so small that there would be more than [`MAX_SEGMENTS`] frames, or
    /// than another limit.
    Size,
    /// There is no payload behind the headers.
    Empty,
}

impl core::fmt::Display for Refused {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Refused::Type => "gso_type is unknown",
            Refused::Headers => "the headers are not those of gso_type",
            Refused::Length => "a length in the headers is not the frame's",
            Refused::Tcp => "no TCP header of a large segment",
            Refused::Checksum => "the checksum is not where the protocol has it",
            Refused::Size => "gso_size is too small",
            Refused::Empty => "there is no payload",
        })
    }
}

impl core::error::Error for Refused {}

/// The shape of a large frame whose fields are true. All offsets and sizes are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Offset of the header of layer 3.
    l3: u32,
    /// Offset of the header of layer 4.
    l4: u32,
    /// Offset of the payload, the end of all headers.
    end: u32,
    /// Length of the large frame.
    length: u32,
    /// Size of the payload of each frame but the last.
    size: u32,
    /// Whether layer 3 is IPv6, else IPv4.
    six: bool,
    /// Whether layer 4 is TCP, else UDP.
    tcp: bool,
}

impl Shape {
    /// Compares the fields with the headers of the frame, which must have been parsed from this
    /// snapshot.
    ///
    /// # Errors
    ///
    /// [`Refused`]: the first reason that applies.
    #[inline]
    pub fn check(
        snapshot: &Snapshot,
        headers: &Headers,
        offload: Offload,
    ) -> Result<Shape, Refused> {
        Shape::check_up_to(MAX_SEGMENTS, snapshot, headers, offload)
    }

    /// [`Shape::check`] with another limit than [`MAX_SEGMENTS`], for one who has time to cut.
    ///
    /// # Errors
    ///
    /// [`Refused`]: the first reason that applies.
    #[inline]
    pub fn check_up_to(
        max_segments: u32,
        snapshot: &Snapshot,
        headers: &Headers,
        offload: Offload,
    ) -> Result<Shape, Refused> {
        let tcp = headers.protocol == Some(PROTOCOL_TCP);
        let udp = headers.protocol == Some(PROTOCOL_UDP);
        let fits = if offload.gso_type & !GSO_ECN == GSO_TCPV4 {
            tcp && headers.ip_version == 4
        } else if offload.gso_type & !GSO_ECN == GSO_TCPV6 {
            tcp && headers.ip_version == 6
        } else if offload.gso_type == GSO_UDP_L4 {
            udp && headers.ip_version != 0
        } else {
            return Err(Refused::Type);
        };
        let whole = headers.fragment == Fragment::Whole && headers.hidden == Hidden::Nothing;
        if !fits || !whole || headers.routed {
            return Err(Refused::Headers);
        }
        let (l3, l4) = (u32::from(headers.l3_offset), u32::from(headers.l4_offset));
        let length = snapshot.length();
        let mut end = l4 + if tcp { 20 } else { 8 };
        if end > snapshot.known() {
            return Err(Refused::Headers);
        }
        let six = headers.ip_version == 6;
        let said = if six {
            l3 + 40 + u32::from(snapshot.be16(l3 + 4))
        } else {
            l3 + u32::from(snapshot.be16(l3 + 2))
        };
        if said != length || (udp && l4 + u32::from(snapshot.be16(l4 + 4)) != length) {
            return Err(Refused::Length);
        }
        if tcp {
            end = l4 + u32::from(snapshot.byte(l4 + 12) >> 4) * 4;
            if end < l4 + 20 || snapshot.byte(l4 + 13) & (SYN | RST) != 0 {
                return Err(Refused::Tcp);
            }
            if end > snapshot.known() {
                return Err(Refused::Headers);
            }
        }
        let place = if tcp { 16 } else { 6 };
        if offload.flags & NEEDS_CSUM == 0
            || u32::from(offload.csum_start) != l4
            || offload.csum_offset != place
        {
            return Err(Refused::Checksum);
        }
        if end >= length {
            return Err(Refused::Empty);
        }
        let size = u32::from(offload.gso_size);
        if size.saturating_mul(max_segments) < length - end {
            return Err(Refused::Size);
        }
        Ok(Shape {
            l3,
            l4,
            end,
            length,
            size,
            six,
            tcp,
        })
    }

    /// Number of bytes of all headers, from the beginning of the frame: a true `hdr_len`.
    #[inline]
    pub const fn header_length(&self) -> u32 {
        self.end
    }

    /// Number of the frames.
    #[inline]
    fn frames(&self) -> u32 {
        let (mut at, mut frames) = (self.end, 0u32);
        // At most MAX_SEGMENTS times, as `check` has seen. The build for the host's kernel has no
        // division.
        while at < self.length && self.size != 0 {
            at = at.saturating_add(self.size);
            frames = frames.wrapping_add(1);
        }
        frames
    }

    /// Number of bytes of a lane that the frames take, each longer by `shift` bytes: those of one
    /// record more than there are frames, for the padding where the lane ends.
    #[inline(never)]
    pub fn records(&self, shift: i32) -> u32 {
        let record = record_size(self.longest().wrapping_add_signed(shift)) as u32;
        record.saturating_mul(self.frames().wrapping_add(1))
    }

    /// Number of bytes of all frames together, each longer by `shift` bytes.
    #[inline(never)]
    pub fn bytes(&self, shift: i32) -> u32 {
        let headers = self.end.wrapping_add_signed(shift);
        let payload = self.length.wrapping_sub(self.end);
        headers
            .saturating_mul(self.frames())
            .saturating_add(payload)
    }

    /// Length in bytes of the longest frame that the large one is cut into.
    #[inline]
    pub const fn longest(&self) -> u32 {
        let whole = self.end + self.size;
        if whole < self.length {
            whole
        } else {
            self.length
        }
    }
}

/// The payload of one of the frames: a part of the large one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload {
    /// Offset in the large frame of its first byte.
    pub offset: u32,
    /// Number of its bytes, at least one.
    pub length: u32,
}

/// The frames that a large one is cut into, one after the other.
#[derive(Clone, Debug)]
pub struct Segments {
    /// The headers of the present frame, first byte lowest, zero behind them.
    header: [u64; SNAPSHOT_WORDS],
    shape: Shape,
    /// Offset in the large frame of the next payload.
    at: u32,
    /// TCP sequence number of the next frame.
    sequence: u32,
    /// IPv4 identification of the next frame.
    identification: u16,
    /// TCP flags of the large frame.
    flags: u8,
    /// Sum of the pseudo-header without its length.
    addresses: Sum,
    /// Sum of the present frame's pseudo-header.
    pseudo: Sum,
}

impl Segments {
    /// Begins to cut a frame. The shape must have been found on this snapshot.
    #[inline(never)]
    pub fn new(snapshot: &Snapshot, shape: Shape) -> Segments {
        let (l3, l4, end) = (shape.l3, shape.l4, shape.end);
        let protocol = if shape.tcp {
            PROTOCOL_TCP
        } else {
            PROTOCOL_UDP
        };
        // The two addresses lie one behind the other.
        let (from, to) = if shape.six { (8, 40) } else { (12, 20) };
        let addresses = Sum::ZERO
            .add_range(l3 + from, l3 + to, |index| word(snapshot.words(), index))
            .add_be16(protocol.into());
        // A snapshot of the headers alone, with zeros behind them.
        let headers = Snapshot::read(end, |index| word(snapshot.words(), index));
        Segments {
            header: headers.into_words(),
            shape,
            at: end,
            sequence: snapshot.be32(l4 + 4),
            identification: snapshot.be16(l3 + 4),
            flags: snapshot.byte(l4 + 13),
            addresses,
            pseudo: Sum::ZERO,
        }
    }

    /// Makes the headers of the next frame, all but the checksum of layer 4, and returns the
    /// frame's payload. `None` after the last frame.
    #[inline(never)]
    pub fn advance(&mut self) -> Option<Payload> {
        let Shape {
            l3,
            l4,
            end,
            length: all,
            size,
            six,
            tcp,
        } = self.shape;
        let offset = self.at;
        if offset >= all {
            return None;
        }
        let length = size.min(all - offset);
        let (first, last) = (offset == end, offset + length == all);
        self.at = offset + length;
        // All lengths are at most those of the large frame, which fit into their fields.
        let transport = (end - l4 + length) as u16;
        if six {
            self.put(l3 + 4, (end - l3 - 40 + length) as u16);
        } else {
            self.put(l3 + 2, (end - l3 + length) as u16);
            self.put(l3 + 4, self.identification);
            self.identification = self.identification.wrapping_add(1);
            self.put(l3 + 10, 0);
            let sum = Sum::ZERO.add_range(l3, l4, |index| word(&self.header, index));
            self.put(l3 + 10, sum.checksum().swap_bytes());
        }
        if tcp {
            self.put(l4 + 4, (self.sequence >> 16) as u16);
            self.put(l4 + 6, self.sequence as u16);
            self.sequence = self.sequence.wrapping_add(length);
            let mut flags = self.flags;
            if !first {
                flags &= !CWR;
            }
            if !last {
                flags &= !(FIN | PSH);
            }
            let beside =
                (word(&self.header, ((l4 + 12) >> 3) as usize) >> (8 * ((l4 + 12) & 7))) as u8;
            self.put(l4 + 12, u16::from(beside) << 8 | u16::from(flags));
        } else {
            self.put(l4 + 4, transport);
        }
        self.put(self.place(), 0);
        self.pseudo = self.addresses.add_be16(transport);
        Some(Payload { offset, length })
    }

    /// The sum of all bytes that the checksum covers but the payload: those of the pseudo-header
    /// and of the header of layer 4.
    #[inline]
    pub fn sum(&self) -> Sum {
        let Shape { l4, end, .. } = self.shape;
        self.pseudo
            .add_range(l4, end, |index| word(&self.header, index))
    }

    /// Stores the checksum. `sum` is [`Segments::sum`] plus the sum of the payload.
    #[inline]
    pub fn finish(&mut self, sum: Sum) {
        self.put(self.place(), sum.checksum_not_zero().swap_bytes());
    }

    /// Stores the sum of the pseudo-header in the checksum's place, for a receiver that agreed to
    /// partial checksums. The frame then needs [`NEEDS_CSUM`], with the `csum_start` and
    /// `csum_offset` of the large one.
    #[inline]
    pub fn finish_partial(&mut self) {
        self.put(self.place(), self.pseudo.fold().swap_bytes());
    }

    /// The headers, first byte lowest, zero behind [`Segments::header_length`].
    #[inline]
    pub const fn header(&self) -> &[u64; SNAPSHOT_WORDS] {
        &self.header
    }

    /// Number of bytes of the headers, equal for all frames.
    #[inline]
    pub const fn header_length(&self) -> u32 {
        self.shape.end
    }

    /// Offset of the checksum of layer 4.
    #[inline]
    const fn place(&self) -> u32 {
        self.shape.l4 + if self.shape.tcp { 16 } else { 6 }
    }

    /// Stores a field in network order. All fields begin at even offsets, so none straddles two
    /// words.
    #[inline]
    fn put(&mut self, place: u32, value: u16) {
        let index = (place >> 3) as usize & (SNAPSHOT_WORDS - 1);
        self.header[index] = put_u16(self.header[index], index, place, value.swap_bytes());
    }
}

/// Word `index` of a snapshot, which wraps at the snapshot's end.
#[inline]
const fn word(words: &[u64; SNAPSHOT_WORDS], index: usize) -> u64 {
    words[index & (SNAPSHOT_WORDS - 1)]
}

#[cfg(test)]
mod tests;
