//! Cutting a large TCP segment (TSO) or UDP datagram (USO) into frames, for receivers that take none.
//!
//! A sender asks for it with the fields of `virtio_net_hdr` ([`Offload`]). They are hostile: [`Shape::check`]
//! holds them against the headers of the frame and refuses whatever contradicts these, so that also a
//! frame that is passed on uncut carries only fields that are true. `hdr_len` is no part of it: virtio 1.2
//! ("Packet Transmission") tells devices not to rely on it, and the headers say the same.
//!
//! [`Segments`] then makes the headers of one frame after the other:
//!
//! ```
//! # use postern_switch::offload::segment::{Offload, Refused, Segments, Shape};
//! # use postern_switch::policy::headers::{Headers, Snapshot};
//! # fn cut(snapshot: &Snapshot, offload: Offload, frame: impl Fn(usize) -> u64) -> Result<(), Refused> {
//! let headers = Headers::parse(snapshot);
//! let shape = Shape::check(snapshot, &headers, offload)?;
//! let mut segments = Segments::new(snapshot, shape);
//! while let Some(payload) = segments.advance() {
//!     let (from, to) = (payload.offset, payload.offset + payload.length);
//!     segments.finish(segments.sum().add_range(from, to, &frame));
//!     // Deliver segments.header(), segments.header_length() bytes of it, and then bytes from..to.
//! }
//! # Ok(())
//! # }
//! ```
//!
//! What differs from frame to frame: the lengths of IP and UDP, the IPv4 identification (one more each,
//! as RFC 6864 has it for all but atomic datagrams) and header checksum, the TCP sequence number, FIN and PSH (only in
//! the last one), CWR (only in the first one, RFC 3168 section 6.1.2), and the checksum.

use super::checksum::{Sum, put_u16};
use crate::policy::headers::{
    Fragment, Headers, Hidden, PROTOCOL_TCP, PROTOCOL_UDP, SNAPSHOT_WORDS, Snapshot,
};

/// Frames that one large one is cut into at most: the work of a batch.
pub const MAX_SEGMENTS: u32 = 256;

use postern_abi::window::record_size;
pub use postern_abi::window::{
    FLAG_NEEDS_CSUM as NEEDS_CSUM, GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4,
};

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// What a sender asks for: fields of `virtio_net_hdr`, read once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offload {
    /// [`NEEDS_CSUM`] and others.
    pub flags: u8,
    /// One of the `GSO_` constants.
    pub gso_type: u8,
    /// Bytes of payload in each frame but the last.
    pub gso_size: u16,
    /// Where the header of layer 4 begins.
    pub csum_start: u16,
    /// Where the checksum is in it.
    pub csum_offset: u16,
}

/// Why a large frame is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// `gso_type` is unknown, or does not go with the bit for ECN.
    Type,
    /// The frame is not of the IP version and protocol that `gso_type` says, or a fragment, or has an
    /// IPv6 routing header, or its headers do not lie in the snapshot.
    Headers,
    /// The lengths in the headers of IP and UDP are not that of the frame.
    Length,
    /// A TCP header that no large segment has: too short, or with SYN or RST.
    Tcp,
    /// The flag [`NEEDS_CSUM`] is missing, or `csum_start` and `csum_offset` are not the protocol's.
    Checksum,
    /// `gso_size` is zero, or so small that there would be more than [`MAX_SEGMENTS`] frames.
    Size,
    /// There is nothing behind the headers.
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

/// A large frame whose fields are true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    l3: u32,
    l4: u32,
    /// End of all headers.
    end: u32,
    length: u32,
    size: u32,
    six: bool,
    tcp: bool,
}

impl Shape {
    /// Holds the fields against the headers of the frame, which must have been parsed from this snapshot.
    ///
    /// # Errors
    /// The first of [`Refused`] that is the case.
    #[inline]
    pub fn check(
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
        if size * MAX_SEGMENTS < length - end {
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

    /// Bytes of all headers, from the beginning of the frame: a true `hdr_len`.
    #[inline]
    pub const fn header_length(&self) -> u32 {
        self.end
    }

    /// Bytes of a ring that the frames take, each longer by `shift`: one record more than there are frames, for the
    /// padding where the ring ends.
    #[inline(never)]
    pub fn records(&self, shift: i32) -> u32 {
        let record = record_size(self.longest().wrapping_add_signed(shift)) as u32;
        let (mut at, mut bytes) = (self.end, record);
        // At most MAX_SEGMENTS times, as `check` has seen.
        while at < self.length && self.size != 0 {
            at = at.saturating_add(self.size);
            bytes = bytes.saturating_add(record);
        }
        bytes
    }

    /// Length of the longest frame it is cut into.
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

/// What of the large frame goes into one of the small ones, behind its headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload {
    /// Where it begins in the large frame, in bytes.
    pub offset: u32,
    /// How many bytes it has; at least one.
    pub length: u32,
}

/// A large frame being cut.
#[derive(Clone, Debug)]
pub struct Segments {
    header: [u64; SNAPSHOT_WORDS],
    shape: Shape,
    /// Where the next payload begins.
    at: u32,
    sequence: u32,
    identification: u16,
    flags: u8,
    /// The pseudo-header without length.
    addresses: Sum,
    /// The pseudo-header.
    pseudo: Sum,
}

impl Segments {
    /// Begins to cut a frame; the shape must have been found on this snapshot.
    #[inline(never)]
    pub fn new(snapshot: &Snapshot, shape: Shape) -> Segments {
        let (l3, l4, end) = (shape.l3, shape.l4, shape.end);
        let protocol = if shape.tcp {
            PROTOCOL_TCP
        } else {
            PROTOCOL_UDP
        };
        // Both addresses, one behind the other.
        let (from, to) = if shape.six { (8, 40) } else { (12, 20) };
        let addresses = Sum::ZERO
            .add_range(l3 + from, l3 + to, |index| word(snapshot.words(), index))
            .add_be16(protocol.into());
        // Only the headers, zero behind.
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

    /// Makes the headers of the next frame, all but the checksum of layer 4, and says what follows them;
    /// `None` after the last frame.
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
        // All lengths are at most the large frame's, and its fit into their fields.
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

    /// The sum of the pseudo-header and the header of layer 4: all that the checksum covers but the payload.
    #[inline]
    pub fn sum(&self) -> Sum {
        let Shape { l4, end, .. } = self.shape;
        self.pseudo
            .add_range(l4, end, |index| word(&self.header, index))
    }

    /// Stores the checksum; `sum` is [`Segments::sum`] and that of the payload.
    #[inline]
    pub fn finish(&mut self, sum: Sum) {
        self.put(self.place(), sum.checksum_not_zero().swap_bytes());
    }

    /// Stores the sum of the pseudo-header instead, for a receiver that agreed to partial checksums: the
    /// frame then needs [`NEEDS_CSUM`], with the `csum_start` and `csum_offset` of the large one.
    #[inline]
    pub fn finish_partial(&mut self) {
        self.put(self.place(), self.pseudo.fold().swap_bytes());
    }

    /// The headers, first byte lowest, zero behind [`Segments::header_length`].
    #[inline]
    pub const fn header(&self) -> &[u64; SNAPSHOT_WORDS] {
        &self.header
    }

    /// Bytes of the headers, the same for all frames.
    #[inline]
    pub const fn header_length(&self) -> u32 {
        self.shape.end
    }

    /// Where the checksum of layer 4 is.
    #[inline]
    const fn place(&self) -> u32 {
        self.shape.l4 + if self.shape.tcp { 16 } else { 6 }
    }

    /// Stores a field in network order. All fields begin at even places, so none straddles two words.
    #[inline]
    fn put(&mut self, place: u32, value: u16) {
        let index = (place >> 3) as usize & (SNAPSHOT_WORDS - 1);
        self.header[index] = put_u16(self.header[index], index, place, value.swap_bytes());
    }
}

#[inline]
const fn word(words: &[u64; SNAPSHOT_WORDS], index: usize) -> u64 {
    words[index & (SNAPSHOT_WORDS - 1)]
}

#[cfg(test)]
mod tests;
