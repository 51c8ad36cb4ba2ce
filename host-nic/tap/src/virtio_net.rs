//! `struct virtio_net_hdr`, which TAPs and packet sockets put before a frame.
//!
//! It is the form of 10 bytes, in the byte order of the host (virtio 1.2, "Device Types: Network
//! Device"; `struct virtio_net_hdr` of linux/virtio_net.h). Its fields are those of a
//! [`RecordHeader`].
#![forbid(unsafe_code)]

use postern_abi::window::{FLAG_NEEDS_CSUM, GSO_NONE, RecordHeader};

/// Size of the header in bytes.
pub const SIZE: usize = 10;

/// The work that a header describes. What the header says beyond that (that a checksum was found to
/// be right, for example) is left out.
pub fn decode(bytes: [u8; SIZE]) -> RecordHeader {
    let [flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1] = bytes;
    let mut header = RecordHeader {
        flags: flags & FLAG_NEEDS_CSUM,
        gso_type,
        ..RecordHeader::default()
    };
    if gso_type != GSO_NONE {
        header.hdr_len = u16::from_ne_bytes([h0, h1]);
        header.gso_size = u16::from_ne_bytes([g0, g1]);
    }
    if header.flags != 0 {
        header.csum_start = u16::from_ne_bytes([s0, s1]);
        header.csum_offset = u16::from_ne_bytes([o0, o1]);
    }
    header
}

/// The header that describes work.
pub fn encode(header: RecordHeader) -> [u8; SIZE] {
    let [h0, h1] = header.hdr_len.to_ne_bytes();
    let [g0, g1] = header.gso_size.to_ne_bytes();
    let [s0, s1] = header.csum_start.to_ne_bytes();
    let [o0, o1] = header.csum_offset.to_ne_bytes();
    let (flags, gso_type) = (header.flags, header.gso_type);
    [flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1]
}

#[cfg(test)]
mod tests {
    use super::*;
    use postern_abi::window::GSO_TCPV4;

    #[test]
    fn headers_survive_a_round_trip() {
        let header = RecordHeader {
            flags: FLAG_NEEDS_CSUM,
            gso_type: GSO_TCPV4,
            hdr_len: 54,
            gso_size: 1448,
            csum_start: 34,
            csum_offset: 16,
            ..RecordHeader::default()
        };
        assert_eq!(decode(encode(header)), header);
        assert_eq!(decode([0; SIZE]), RecordHeader::default());
        // VIRTIO_NET_HDR_F_DATA_VALID: the checksum is right.
        let valid = [2, 0, 1, 1, 1, 1, 1, 1, 1, 1];
        assert_eq!(decode(valid), RecordHeader::default());
    }
}
