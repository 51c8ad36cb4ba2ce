//! Frames on which work is left to do: which of them a port takes, and how they are finished for one
//! that does not.
//!
//! The work itself is the switch's ([`postern_switch::offload`]), and the switch does it when a
//! frame goes to a guest that has agreed to nothing. It is done here, by the same routines, only
//! for a port that has not agreed to it, and for frames that the switch does not take with work
//! left to do: segments that are longer than the NIC's rings take, or become very many frames, and
//! checksums behind headers that the switch does not know.
#![forbid(unsafe_code)]

use postern_abi::window::{
    FEATURE_CSUM, FEATURE_TSO4, FEATURE_TSO6, FEATURE_USO, FLAG_NEEDS_CSUM, GSO_ECN, GSO_NONE,
    GSO_TCPV4, GSO_TCPV6, MAX_FRAME, MAX_SEGMENT, MIN_FRAME, RecordHeader,
};
use postern_switch::offload::checksum::{Partial, Sum};
use postern_switch::offload::segment::{MAX_SEGMENTS, Offload, Segments, Shape};
use postern_switch::policy::headers::{Headers, PROTOCOL_TCP, PROTOCOL_UDP, Snapshot};

use crate::frame::{Frame, Unusable};

/// Offset of the checksum (a CRC32c, which no header can ask for) in a header of SCTP, in bytes.
const SCTP_CHECKSUM: u16 = 8;

/// Checks the length of a finished frame, in bytes.
pub fn check_length(length: usize) -> Result<(), Unusable> {
    if length < MIN_FRAME as usize {
        Err(Unusable::TooShort)
    } else if length > MAX_FRAME as usize {
        Err(Unusable::TooLong)
    } else {
        Ok(())
    }
}

/// Checks a frame of an interface against its header. Gives the header that goes to the port.
///
/// A large segment whose checksum is right already (a NIC has merged it, LRO) gets the form of one
/// whose checksum is left to do: there is no other one.
pub fn check(header: RecordHeader, frame: &mut [u8]) -> Result<RecordHeader, Unusable> {
    if header.gso_type == GSO_NONE {
        check_length(frame.len())?;
        if header.flags != 0 {
            let length = frame.len() as u32;
            let partial = Partial::new(header.csum_start, header.csum_offset, length);
            if partial.is_none() || header.csum_offset == SCTP_CHECKSUM {
                return Err(Unusable::Offload);
            }
        }
        return Ok(header);
    }
    if frame.len() > MAX_SEGMENT as usize {
        return Err(Unusable::TooLong);
    }
    let header = match header.flags {
        0 => leave_checksum(header, frame).ok_or(Unusable::Offload)?,
        _ => header,
    };
    let (_, shape) = shape(header, frame).ok_or(Unusable::Offload)?;
    match shape.longest() > MAX_FRAME {
        true => Err(Unusable::TooLong),
        false => Ok(header),
    }
}

/// What is to be done with a frame of an interface before it goes to a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nothing: the port takes it with its header.
    Whole,
    /// It is to be checked ([`check`]) and finished ([`Finishing`]).
    Finish,
    /// No port takes it, whatever is done.
    Drop(Unusable),
}

/// What is to be done with a frame of `length` bytes before it goes to a port that has agreed to
/// `features` and takes segments of `longest` bytes. `word` gives eight of its bytes, as far as it has
/// them, by their number divided by eight; most frames are not looked at. Large segments of a kernel are
/// what their headers say, or the switch drops them.
pub fn fate(
    header: RecordHeader,
    length: usize,
    word: impl Fn(usize) -> u64,
    features: u32,
    longest: usize,
) -> Fate {
    if header.gso_type != GSO_NONE {
        let most = usize::from(header.gso_size) * MAX_SEGMENTS as usize;
        let fits = length <= longest.min(most);
        return match header.flags != 0 && fits && needs(header) & !features == 0 {
            true => Fate::Whole,
            false => Fate::Finish,
        };
    }
    if let Err(reason) = check_length(length) {
        return Fate::Drop(reason);
    }
    if header.flags == 0 {
        return Fate::Whole;
    }
    let partial = Partial::new(header.csum_start, header.csum_offset, length as u32);
    match partial {
        Some(partial) if header.csum_offset != SCTP_CHECKSUM => {
            let head = Snapshot::read(length as u32, word);
            match features & FEATURE_CSUM != 0 && partial.is_payload(&Headers::parse(&head)) {
                true => Fate::Whole,
                false => Fate::Finish,
            }
        }
        _ => Fate::Drop(Unusable::Offload),
    }
}

/// Features that a receiver needs to take a frame with this header as it is.
pub fn needs(header: RecordHeader) -> u32 {
    match (header.gso_type & !GSO_ECN, header.flags) {
        (GSO_NONE, 0) => 0,
        (GSO_NONE, _) => FEATURE_CSUM,
        (GSO_TCPV4, _) => FEATURE_CSUM | FEATURE_TSO4,
        (GSO_TCPV6, _) => FEATURE_CSUM | FEATURE_TSO6,
        _ => FEATURE_CSUM | FEATURE_USO,
    }
}

/// Whether the switch takes a frame that [`check`] has let pass with its work undone, from a port
/// that has agreed to that kind of work and whose longest segment has `longest` bytes.
///
/// The switch cuts no segment into more than [`MAX_SEGMENTS`] frames, and completes no checksum
/// that may lie where it looks for headers.
pub fn passes_switch(frame: &Frame<'_>, longest: usize) -> bool {
    let Frame { header, bytes } = *frame;
    match (header.gso_type, header.flags) {
        (GSO_NONE, 0) => true,
        (GSO_NONE, _) => {
            let length = bytes.len() as u32;
            let partial = Partial::new(header.csum_start, header.csum_offset, length);
            let headers = Headers::parse(&snapshot(bytes));
            partial.is_some_and(|partial| partial.is_payload(&headers))
        }
        _ => {
            let most = usize::from(header.gso_size) * MAX_SEGMENTS as usize;
            bytes.len() <= longest && bytes.len() <= most
        }
    }
}

/// Length of the longest frame that leaves an interface for this one, in bytes.
pub fn wire_length(frame: &Frame<'_>) -> usize {
    let header = frame.header;
    let length = frame.bytes.len();
    match header.gso_type {
        GSO_NONE => length,
        _ => length.min(usize::from(header.hdr_len) + usize::from(header.gso_size)),
    }
}

/// Eight bytes of a frame, the first one lowest, with zeros behind its end.
fn word(frame: &[u8], index: usize) -> u64 {
    let rest = frame.get(index * 8..).unwrap_or_default();
    match rest.first_chunk() {
        Some(bytes) => u64::from_le_bytes(*bytes),
        None => {
            let mut bytes = [0; 8];
            for (to, byte) in bytes.iter_mut().zip(rest) {
                *to = *byte;
            }
            u64::from_le_bytes(bytes)
        }
    }
}

fn snapshot(frame: &[u8]) -> Snapshot {
    Snapshot::read(frame.len() as u32, |index| word(frame, index))
}

/// The shape of a large segment, if its headers are what its header says.
fn shape(header: RecordHeader, frame: &[u8]) -> Option<(Snapshot, Shape)> {
    let snapshot = snapshot(frame);
    let headers = Headers::parse(&snapshot);
    // Never more than one for each byte.
    let shape = Shape::check_up_to(MAX_SEGMENT, &snapshot, &headers, Offload::of(header)).ok()?;
    Some((snapshot, shape))
}

/// Puts the sum of the pseudo-header in place of the checksum of a large segment.
fn leave_checksum(header: RecordHeader, frame: &mut [u8]) -> Option<RecordHeader> {
    let headers = Headers::parse(&snapshot(frame));
    let protocol = headers.protocol?;
    let csum_offset = match protocol {
        PROTOCOL_TCP => 16,
        PROTOCOL_UDP => 6,
        _ => return None,
    };
    let csum_start = u16::from(headers.l4_offset);
    let length = frame.len().checked_sub(usize::from(csum_start))?;
    let mut sum = Sum::ZERO.add_be16(protocol.into()).add_be16(length as u16);
    for half in headers.source_ip.iter().chain(&headers.destination_ip) {
        for shift in [0, 16, 32, 48] {
            sum = sum.add_be16((half >> shift) as u16);
        }
    }
    let place = usize::from(csum_start) + usize::from(csum_offset);
    let field = frame.get_mut(place..)?.first_chunk_mut()?;
    *field = sum.fold().to_le_bytes();
    Some(RecordHeader {
        flags: FLAG_NEEDS_CSUM,
        csum_start,
        csum_offset,
        ..header
    })
}

/// A frame that is being finished: it becomes one or several on which nothing is left to do.
#[derive(Debug)]
pub struct Finishing {
    work: Work,
}

#[derive(Debug)]
enum Work {
    /// All frames have been written.
    Done,
    /// The frame is to be copied.
    Copy,
    Checksum(Partial),
    Segmentation(Box<Segments>),
}

impl Finishing {
    /// Begins with a frame that [`check`] has let pass.
    pub fn new(frame: Frame<'_>) -> Option<Finishing> {
        let Frame { header, bytes } = frame;
        let work = if header.gso_type != GSO_NONE {
            let (snapshot, shape) = shape(header, bytes)?;
            Work::Segmentation(Box::new(Segments::new(&snapshot, shape)))
        } else if header.flags != 0 {
            let length = bytes.len() as u32;
            Work::Checksum(Partial::new(header.csum_start, header.csum_offset, length)?)
        } else {
            Work::Copy
        };
        Some(Finishing { work })
    }

    /// Writes the next frame to `out`, of the bytes with which this began; gives its length. `None`
    /// after the last one, and where it does not fit.
    pub fn write_next(&mut self, frame: &[u8], out: &mut [u8]) -> Option<usize> {
        if let Work::Segmentation(segments) = &mut self.work {
            let payload = segments.advance()?;
            let (from, to) = (payload.offset, payload.offset.checked_add(payload.length)?);
            let sum = segments.sum();
            segments.finish(sum.add_range(from, to, |index| word(frame, index)));
            let headers = segments.header_length() as usize;
            let payload = frame.get(from as usize..to as usize)?;
            let out = out.get_mut(..headers + payload.len())?;
            let (head, tail) = out.split_at_mut_checked(headers)?;
            for (to, from) in head.chunks_mut(8).zip(segments.header()) {
                to.copy_from_slice(from.to_le_bytes().get(..to.len())?);
            }
            tail.copy_from_slice(payload);
            return Some(headers + payload.len());
        }
        let work = std::mem::replace(&mut self.work, Work::Done);
        if let Work::Done = work {
            return None;
        }
        let out = out.get_mut(..frame.len())?;
        out.copy_from_slice(frame);
        if let Work::Checksum(partial) = work {
            let checksum = partial.finish(|index| word(frame, index));
            let field = out.get_mut(partial.place() as usize..)?.first_chunk_mut()?;
            *field = checksum.to_le_bytes();
        }
        Some(out.len())
    }
}
