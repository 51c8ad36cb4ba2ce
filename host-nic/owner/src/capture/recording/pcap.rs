//! The older format, pcap: one header, then records of packets (IETF draft
//! draft-ietf-opsawg-pcap, "PCAP Capture File Format").
#![forbid(unsafe_code)]

use super::Packets;
use super::error::RecordingError;
use super::fields::{Fields, Order};
use super::packet::{Packet, SECOND};

/// Size of the file's header in bytes.
const HEADER: usize = 24;
/// Size of the header of a packet in bytes.
const RECORD: usize = 16;

/// What the file's header says.
#[derive(Clone, Copy)]
struct Header {
    order: Order,
    /// The unit of fractions of a second, in nanoseconds.
    unit: u128,
    minor: u16,
    link: u32,
    fcs: u32,
}

impl Header {
    fn parse(bytes: &[u8]) -> Result<Header, &'static str> {
        let (order, unit) = match bytes.first_chunk() {
            Some([0xd4, 0xc3, 0xb2, 0xa1]) => (Order::Little, 1000),
            Some([0xa1, 0xb2, 0xc3, 0xd4]) => (Order::Big, 1000),
            Some([0x4d, 0x3c, 0xb2, 0xa1]) => (Order::Little, 1),
            Some([0xa1, 0xb2, 0x3c, 0x4d]) => (Order::Big, 1),
            _ => return Err("it begins with the magic number of neither"),
        };
        let fields = Fields { bytes, order };
        let (Some(minor), Some(link)) = (fields.u16(6), fields.u32(HEADER - 4)) else {
            return Err("it ends inside its header");
        };
        Ok(Header {
            order,
            unit,
            minor,
            // With the bits of the class, of which those of 0 alone have Ethernet.
            link: link & 0x03ff_ffff,
            fcs: fcs_length(link),
        })
    }
}

/// Length in bytes of the FCS behind each frame, which the field of the link type has above the type,
/// in units of two bytes: four bits of it, and bit 26 if they count. In drafts before 2021 three
/// bits, and bit 28.
fn fcs_length(field: u32) -> u32 {
    if field & 1 << 26 != 0 {
        2 * (field >> 28)
    } else if field & 1 << 28 != 0 {
        2 * (field >> 29)
    } else {
        0
    }
}

/// Reads the packets of a file.
pub(super) fn read(packets: &mut Packets<'_>) -> Result<(), RecordingError> {
    let header = Header::parse(packets.bytes).map_err(|fault| packets.no_capture(fault))?;
    packets.at = HEADER;
    while let Some(bytes) = packets.bytes.get(packets.at..)
        && !bytes.is_empty()
    {
        let order = header.order;
        let fields = Fields { bytes, order };
        let word = |index: usize| fields.u32(4 * index).ok_or_else(|| packets.cut());
        let (seconds, fraction) = (word(0)?, word(1)?);
        let (mut captured, mut original) = (word(2)?, word(3)?);
        // Writers of version 2.2 and before had them the other way round, those of 2.3 either way.
        if header.minor < 3 || header.minor == 3 && captured > original {
            (captured, original) = (original, captured);
        }
        let length = captured as usize;
        if length > bytes.len() - RECORD {
            return Err(packets.cut());
        }
        packets.add(Packet {
            link: header.link,
            time: u128::from(seconds) * SECOND + u128::from(fraction) * header.unit,
            original,
            fcs: header.fcs,
            offset: packets.at + RECORD,
            captured: length,
        })?;
        packets.at += RECORD + length;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_the_fcs_is_above_the_link_type() {
        for (field, length) in [
            (1, 0),
            // As libpcap has it: two units of two bytes.
            (2 << 28 | 1 << 26 | 1, 4),
            (1 << 26 | 1, 0),
            // Bits that do not count.
            (2 << 28 | 1, 0),
            // As the first drafts had it.
            (2 << 29 | 1 << 28 | 1, 4),
        ] {
            assert_eq!(fcs_length(field), length, "{field:#x}");
        }
    }
}
