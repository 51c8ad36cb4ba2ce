//! The newer format, pcapng: blocks, of which those of packets refer to those of interfaces (IETF
//! draft draft-ietf-opsawg-pcapng, "PCAP Next Generation (pcapng) Capture File Format").
//!
//! Blocks and options whose content is not used are skipped unread, so that nothing that they may
//! hold makes a file unreadable: text in no known encoding, options of other lengths than the
//! draft's, blocks of programs of their own.
#![forbid(unsafe_code)]

use super::Packets;
use super::error::RecordingError;
use super::fields::{Fields, Order};
use super::packet::{Packet, SECOND};

/// The first bytes of a section's header, and so of a file; the same in both byte orders.
pub(super) const SECTION_MAGIC: [u8; 4] = SECTION.to_be_bytes();

// Types of blocks.
const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
/// The obsolete Packet Block.
const OLD_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

// Codes of options: of all blocks, of packets, and of interfaces.
const OPT_END: u16 = 0;
const EPB_FLAGS: u16 = 2;
const IF_TSRESOL: u16 = 9;
const IF_FCSLEN: u16 = 13;
const IF_TSOFFSET: u16 = 14;

/// Size of a block's type and first length in bytes, and of its second length.
const HEAD: usize = 8;
const TAIL: usize = 4;
/// Offset of the data in the body of a packet block, in bytes.
const DATA: usize = 20;
/// Most interfaces of a section.
const MAX_INTERFACES: usize = 1 << 16;

/// What a section says of an interface.
#[derive(Clone, Copy, Debug)]
struct Interface {
    link: u16,
    /// Most bytes captured of a packet; 0 is no limit.
    snap: u32,
    /// `if_tsresol`: the units of times.
    resolution: u8,
    /// `if_tsoffset`: seconds that are to be added to times.
    offset: i64,
    /// Length of the FCS in bytes.
    fcs: u32,
}

impl Interface {
    fn parse(body: Fields<'_>) -> Result<Interface, &'static str> {
        const OPTIONS: usize = 8;
        let (Some(link), Some(snap)) = (body.u16(0), body.u32(4)) else {
            return Err("the block of an interface is too short");
        };
        let mut interface = Interface {
            link,
            snap,
            resolution: 6,
            offset: 0,
            fcs: 0,
        };
        // An option of another length than its own says nothing.
        options(body, OPTIONS, |code, value| {
            match (code, value.bytes, value.i64(0)) {
                (IF_TSRESOL, [resolution], _) => interface.resolution = *resolution,
                (IF_FCSLEN, [length], _) => interface.fcs = fcs_length(*length),
                (IF_TSOFFSET, [_, _, _, _, _, _, _, _], Some(seconds)) => {
                    interface.offset = seconds;
                }
                _ => {}
            }
        })?;
        Ok(interface)
    }

    /// A time in the units of the interface, in nanoseconds since the epoch.
    fn nanoseconds(&self, ticks: u64) -> u128 {
        let ticks = u128::from(ticks);
        let exponent = u32::from(self.resolution & 0x7f);
        let time = if self.resolution & 0x80 != 0 {
            // Below 2^64 times 10^9: no overflow.
            (ticks * SECOND) >> exponent
        } else if exponent <= 9 {
            ticks * 10u128.pow(9 - exponent)
        } else {
            10u128
                .checked_pow(exponent - 9)
                .map_or(0, |unit| ticks / unit)
        };
        let seconds = i128::from(self.offset) * SECOND as i128;
        time.saturating_add_signed(seconds)
    }
}

/// Length of an FCS in bytes, of which the draft says that it is in bits, and gives 4 as an example.
fn fcs_length(option: u8) -> u32 {
    match option {
        0..8 => option.into(),
        bits => u32::from(bits) / 8,
    }
}

/// Calls `each` with the code and value of each option from offset `at` of a block's body on.
fn options(
    body: Fields<'_>,
    mut at: usize,
    mut each: impl FnMut(u16, Fields<'_>),
) -> Result<(), &'static str> {
    // The option that ends them may be missing.
    while let (Some(code), Some(length)) = (body.u16(at), body.u16(at + 2)) {
        if code == OPT_END {
            break;
        }
        let start = at + 4;
        let end = start + usize::from(length);
        let bytes = body.bytes.get(start..end);
        let bytes = bytes.ok_or("an option is longer than its block")?;
        let order = body.order;
        each(code, Fields { bytes, order });
        at = end.next_multiple_of(4);
    }
    Ok(())
}

/// The packet of a block, with the offset of its data in the body; `None` for a block without one.
fn packet(kind: u32, body: Fields<'_>, interfaces: &[Interface]) -> Result<Packet, &'static str> {
    const SHORT: &str = "the block of a packet is too short";
    let find = |number: u32| {
        let interface = interfaces.get(number as usize);
        interface.ok_or("the interface of the packet is not described")
    };
    if kind == SIMPLE_PACKET {
        const SIMPLE_DATA: usize = 4;
        let interface = find(0)?;
        let original = body.u32(0).ok_or(SHORT)?;
        let most = match interface.snap {
            0 => original,
            snap => original.min(snap),
        };
        return Ok(Packet {
            link: interface.link.into(),
            time: 0,
            original,
            fcs: interface.fcs,
            offset: SIMPLE_DATA,
            captured: (body.bytes.len() - SIMPLE_DATA).min(most as usize),
        });
    }
    let number = match kind {
        OLD_PACKET => body.u16(0).map(u32::from),
        _ => body.u32(0),
    };
    let word = |index: usize| body.u32(4 * index).ok_or(SHORT);
    let interface = find(number.ok_or(SHORT)?)?;
    let ticks = u64::from(word(1)?) << 32 | u64::from(word(2)?);
    let (captured, original) = (word(3)? as usize, word(4)?);
    if captured > body.bytes.len() - DATA {
        return Err("the packet is longer than its block");
    }
    let mut fcs = interface.fcs;
    let at = (DATA + captured).next_multiple_of(4);
    options(body, at, |code, value| {
        if let (EPB_FLAGS, [_, _, _, _], Some(flags)) = (code, value.bytes, value.u32(0)) {
            // Zero is none that is known here.
            let here = flags >> 5 & 0xf;
            fcs = if here != 0 { here } else { fcs };
        }
    })?;
    Ok(Packet {
        link: interface.link.into(),
        time: interface.nanoseconds(ticks),
        original,
        fcs,
        offset: DATA,
        captured,
    })
}

/// The byte order of the section whose header these bytes begin with.
fn section_order(bytes: &[u8]) -> Option<Result<Order, &'static str>> {
    Some(match bytes.get(HEAD..)?.first_chunk::<4>()? {
        [0x4d, 0x3c, 0x2b, 0x1a] => Ok(Order::Little),
        [0x1a, 0x2b, 0x3c, 0x4d] => Ok(Order::Big),
        _ => Err("a section has no byte order"),
    })
}

/// Reads the packets of a file.
pub(super) fn read(packets: &mut Packets<'_>) -> Result<(), RecordingError> {
    let mut order = Order::Little;
    let mut interfaces: Vec<Interface> = Vec::new();
    while let Some(bytes) = packets.bytes.get(packets.at..)
        && !bytes.is_empty()
    {
        if bytes.starts_with(&SECTION_MAGIC) {
            let found = section_order(bytes).ok_or_else(|| packets.cut())?;
            order = found.map_err(|fault| packets.damaged(fault))?;
        }
        let block = Fields { bytes, order };
        let word = |at| block.u32(at).ok_or_else(|| packets.cut());
        let (kind, length) = (word(0)?, word(4)? as usize);
        if length < HEAD + TAIL || !length.is_multiple_of(4) {
            return Err(packets.damaged(&format!("it has a block of {length} bytes")));
        }
        let end = length - TAIL;
        if word(end)? as usize != length {
            return Err(packets.damaged("the two lengths of a block differ"));
        }
        let body = Fields {
            bytes: bytes.get(HEAD..end).unwrap_or_default(),
            order,
        };
        match kind {
            SECTION => {
                let version = (body.u16(4), body.u16(6));
                let (Some(major), Some(minor)) = version else {
                    return Err(packets.damaged("the header of a section is too short"));
                };
                if major != 1 {
                    let text = format!("its version is {major}.{minor}, and only 1 is known");
                    return Err(packets.damaged(&text));
                }
                interfaces.clear();
            }
            INTERFACE => {
                let interface = Interface::parse(body);
                interfaces.push(interface.map_err(|fault| packets.damaged(fault))?);
                if interfaces.len() > MAX_INTERFACES {
                    return Err(packets.damaged("it has over 65536 interfaces"));
                }
            }
            OLD_PACKET | SIMPLE_PACKET | ENHANCED_PACKET => {
                let mut packet =
                    packet(kind, body, &interfaces).map_err(|fault| packets.damaged(fault))?;
                packet.offset += packets.at + HEAD;
                packets.add(packet)?;
            }
            _ => {}
        }
        packets.at += length;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_every_resolution_become_nanoseconds() {
        let time = |resolution, offset, ticks| {
            let (link, snap, fcs) = (1, 0, 0);
            let interface = Interface {
                link,
                snap,
                resolution,
                offset,
                fcs,
            };
            interface.nanoseconds(ticks)
        };
        assert_eq!(time(6, 0, 5), 5000);
        assert_eq!(time(9, 0, 5), 5);
        assert_eq!(time(0, 0, 5), 5_000_000_000);
        assert_eq!(time(12, 0, 5999), 5);
        assert_eq!(time(127, 0, u64::MAX), 0);
        assert_eq!(time(0x80 | 10, 0, 1024), 1_000_000_000);
        assert_eq!(time(0xff, 0, u64::MAX), 0);
        assert_eq!(time(6, 2, 1), 2_000_001_000);
        assert_eq!(time(6, -1, 1), 0, "before the epoch");
        assert_eq!(time(0, 0, u64::MAX), u128::from(u64::MAX) * SECOND);
    }

    #[test]
    fn an_fcs_has_four_bytes_or_32_bits() {
        assert_eq!([0, 4, 32, 16].map(fcs_length), [0, 4, 4, 2]);
    }
}
