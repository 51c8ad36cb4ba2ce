//! Cutting what the host's stack left whole: one large TCP segment, or several UDP datagrams in one, with
//! the size of the parts beside it (TSO, `UDP_SEGMENT`; `gso_size` of `struct virtio_net_hdr`).
//!
//! Sources: Linux kernel documentation, "Segmentation Offloads"; `tcp_gso_segment` and
//! `__udp_gso_segment` in net/ipv4; RFC 791, 8200, 9293, 768, 3168 (CWR).

use super::super::checksum::{checksum, sum};

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
const TYPE_IPV4: [u8; 2] = [0x08, 0x00];
const TYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const IPV6: usize = 40;
const TCP: u8 = 6;
const UDP: u8 = 17;
const FIN_PSH: u8 = 0x09;
const CWR: u8 = 0x80;
// VIRTIO_NET_HDR_GSO_*
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// A frame and how it is to be cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segments<'a> {
    headers: &'a [u8],
    payload: &'a [u8],
    size: usize,
    transport: usize,
    protocol: u8,
    v4: bool,
}

impl<'a> Segments<'a> {
    /// A frame of type `gso`, its payload to be cut into parts of `size` bytes, whose checksum starts at
    /// `start` if it is not yet there. `None` where the frame is not plainly what the type says
    /// (tunnels, extension headers, fragments).
    pub(super) fn new(
        frame: &'a [u8],
        gso: u8,
        size: u16,
        start: Option<u16>,
    ) -> Option<Segments<'a>> {
        let kind = frame.get(12..14)?;
        let (v4, transport, protocol) = if kind == TYPE_IPV4 {
            let header = frame.get(ETHERNET..ETHERNET + 20)?;
            let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff;
            if header[0] >> 4 != 4 || fragment != 0 {
                return None;
            }
            let length = usize::from(header[0] & 0xf) * 4;
            (true, ETHERNET + length.max(20), header[9])
        } else if kind == TYPE_IPV6 {
            (false, ETHERNET + IPV6, *frame.get(ETHERNET + 6)?)
        } else {
            return None;
        };
        match (gso & !GSO_ECN, v4, protocol) {
            (GSO_TCPV4, true, TCP) | (GSO_TCPV6, false, TCP) | (GSO_UDP_L4, _, UDP) => {}
            _ => return None,
        }
        let own = match protocol {
            TCP => usize::from(frame.get(transport + 12)? >> 4) * 4,
            _ => 8,
        };
        let elsewhere = start.is_some_and(|start| usize::from(start) != transport);
        if elsewhere || own < 8 || (protocol == TCP && own < 20) || size == 0 {
            return None;
        }
        let (headers, payload) = frame.split_at_checked(transport + own)?;
        Some(Segments {
            headers,
            payload,
            size: usize::from(size),
            transport,
            protocol,
            v4,
        })
    }

    /// How many frames it becomes.
    pub(super) fn count(&self) -> usize {
        self.payload.len().div_ceil(self.size).max(1)
    }

    /// Bytes of the longest of them.
    pub(super) fn longest(&self) -> usize {
        self.headers.len() + self.size.min(self.payload.len())
    }

    /// Writes the frame of this number, from 0, to `out`; its length, or `None` when it does not fit.
    pub(super) fn write(&self, number: usize, out: &mut [u8]) -> Option<usize> {
        let from = number.checked_mul(self.size)?;
        let to = from.saturating_add(self.size).min(self.payload.len());
        let payload = self.payload.get(from..to)?;
        let length = self.headers.len() + payload.len();
        let out = out.get_mut(..length)?;
        let (headers, data) = out.split_at_mut_checked(self.headers.len())?;
        headers.copy_from_slice(self.headers);
        data.copy_from_slice(payload);

        let behind = |place: usize| u16::try_from(length - place).ok();
        let addresses = if self.v4 {
            put(out, ETHERNET + 2, behind(ETHERNET)?)?;
            let id = get(out, ETHERNET + 4)?.wrapping_add(number as u16);
            put(out, ETHERNET + 4, id)?;
            put(out, ETHERNET + 10, 0)?;
            let value = checksum(sum(out.get(ETHERNET..self.transport)?));
            put(out, ETHERNET + 10, value)?;
            ETHERNET + 12..ETHERNET + 20
        } else {
            put(out, ETHERNET + 4, behind(ETHERNET + IPV6)?)?;
            ETHERNET + 8..ETHERNET + 40
        };
        let transport_length = behind(self.transport)?;
        let field = if self.protocol == TCP {
            let first = u32::from(get(out, self.transport + 4)?) << 16
                | u32::from(get(out, self.transport + 6)?);
            let sequence = first.wrapping_add(from as u32);
            put(out, self.transport + 4, (sequence >> 16) as u16)?;
            put(out, self.transport + 6, sequence as u16)?;
            let flags = out.get_mut(self.transport + 13)?;
            if number + 1 != self.count() {
                *flags &= !FIN_PSH;
            }
            if number != 0 {
                *flags &= !CWR;
            }
            self.transport + 16
        } else {
            put(out, self.transport + 4, transport_length)?;
            self.transport + 6
        };
        put(out, field, 0)?;
        let pseudo =
            sum(out.get(addresses)?) + u64::from(self.protocol) + u64::from(transport_length);
        let value = checksum(pseudo + sum(out.get(self.transport..)?));
        put(out, field, value)?;
        Some(length)
    }
}

fn get(bytes: &[u8], place: usize) -> Option<u16> {
    let word = bytes.get(place..)?.first_chunk()?;
    Some(u16::from_be_bytes(*word))
}

fn put(bytes: &mut [u8], place: usize, value: u16) -> Option<()> {
    *bytes.get_mut(place..)?.first_chunk_mut()? = value.to_be_bytes();
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp4(payload: usize, flags: u8) -> Vec<u8> {
        let mut frame = vec![2; 12];
        frame.extend(TYPE_IPV4);
        frame.extend([
            0x45, 0, 0, 0, 0xff, 0xff, 0x40, 0, 64, TCP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ]);
        frame.extend([
            0, 80, 1, 0, 0xff, 0xff, 0xff, 0xf0, 0, 0, 0, 9, 0x60, flags, 1, 2, 0, 0, 0, 0,
        ]);
        frame.extend([1, 1, 1, 1]);
        frame.extend((0..payload).map(|number| number as u8));
        frame
    }

    /// Whether the ones' complement sum is all ones.
    fn sound(bytes: &[u8], pseudo: u64) -> bool {
        let mut total = sum(bytes) + pseudo;
        while total > 0xffff {
            total = (total & 0xffff) + (total >> 16);
        }
        total == 0xffff
    }

    #[test]
    fn a_large_tcp_segment_becomes_several() {
        let frame = tcp4(250, 0x80 | 0x10 | FIN_PSH);
        let segments = Segments::new(&frame, GSO_TCPV4 | GSO_ECN, 100, Some(34)).unwrap();
        assert_eq!(segments.count(), 3);
        let mut payload: Vec<u8> = Vec::new();
        for number in 0..3 {
            let mut out = [0xaa; 400];
            let length = segments.write(number, &mut out).unwrap();
            let out = &out[..length];
            assert_eq!(length, 58 + if number == 2 { 50 } else { 100 });
            assert_eq!(get(out, 16), Some(length as u16 - 14));
            assert_eq!(get(out, 18), Some(0xffff_u16.wrapping_add(number as u16)));
            assert!(sound(&out[14..34], 0), "header checksum");
            let sequence = u32::from_be_bytes(out[38..42].try_into().unwrap());
            assert_eq!(sequence, 0xffff_fff0_u32.wrapping_add(100 * number as u32));
            let expected = [0x90, 0x10, 0x19][number];
            assert_eq!(out[47], expected, "CWR first, FIN and PSH last");
            let pseudo = sum(&out[26..34]) + 6 + (length as u64 - 34);
            assert!(sound(&out[34..], pseudo), "TCP checksum");
            payload.extend(&out[58..]);
        }
        assert_eq!(payload, frame[58..]);
        assert_eq!(segments.write(3, &mut [0; 400]), None);
        assert_eq!(segments.write(0, &mut [0; 157]), None, "no room");
    }

    #[test]
    fn what_is_not_plain_is_refused() {
        let frame = tcp4(250, 0x10);
        for (gso, size, start) in [
            (GSO_TCPV6, 100, 34),
            (GSO_UDP_L4, 100, 34),
            (3, 100, 34),
            (GSO_TCPV4, 0, 34),
            (GSO_TCPV4, 100, 54),
        ] {
            assert!(
                Segments::new(&frame, gso, size, Some(start)).is_none(),
                "{gso} {size} {start}"
            );
        }
        for (place, value) in [
            (12, 0x81),
            (14, 0x65),
            (14, 0x46),
            (20, 0x20),
            (23, UDP),
            (46, 0x40),
        ] {
            let mut frame = frame.clone();
            frame[place] = value;
            assert!(
                Segments::new(&frame, GSO_TCPV4, 100, Some(34)).is_none(),
                "{place}"
            );
        }
        for end in 0..58 {
            assert!(
                Segments::new(&frame[..end], GSO_TCPV4, 100, Some(34)).is_none(),
                "{end}"
            );
        }
    }
}
