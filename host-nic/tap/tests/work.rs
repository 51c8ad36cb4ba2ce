//! Frames with work left to do, finished and passed on, against the switch itself.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use postern_abi::window::{
    FEATURE_CSUM, FEATURE_TSO4, FEATURES, FLAG_NEEDS_CSUM, GSO_ECN, GSO_TCPV4, GSO_TCPV6,
    GSO_UDP_L4, Geometry, MAX_FRAME, RecordHeader,
};
use postern_nic_client::memory::{Memory, draw_secret};
use postern_switch::state::Cause;

use postern_nic_owner::frame_port::FramePort;
use postern_nic_owner::host_port::HostPort;
use postern_switch::policy::headers::{PROTOCOL_TCP, PROTOCOL_UDP};
use postern_tap::work::*;
use postern_tap::{Frame, Unusable, virtio_net};

/// Offset of the checksum in a header of SCTP, in bytes.
const SCTP_CHECKSUM: u16 = 8;
const ETHERNET: usize = 14;
const FIN_PSH: u8 = 0x09;
/// CWR and ACK.
const CWR_ACK: u8 = 0x90;

/// A TCP segment in IPv4, with options, and the sum of the pseudo-header in place of its checksum.
fn tcp4(payload: usize, flags: u8) -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend([8, 0]);
    let [l0, l1] = (20 + 24 + payload as u16).to_be_bytes();
    frame.extend([
        0x45,
        0,
        l0,
        l1,
        0xff,
        0xff,
        0x40,
        0,
        64,
        PROTOCOL_TCP,
        0,
        0,
        10,
        0,
        0,
        1,
        10,
        0,
        0,
        2,
    ]);
    frame.extend([
        0, 80, 1, 0, 0xff, 0xff, 0xff, 0xf0, 0, 0, 0, 9, 0x60, flags, 1, 2, 0, 0, 0, 0,
    ]);
    frame.extend([1, 1, 1, 1]);
    frame.extend((0..payload).map(|number| number as u8));
    let pseudo = sum(&frame[26..34]) + 6 + 24 + payload as u64;
    frame[50..52].copy_from_slice(&folded(pseudo).to_be_bytes());
    frame
}

fn large(gso_type: u8, gso_size: u16) -> RecordHeader {
    RecordHeader {
        flags: FLAG_NEEDS_CSUM,
        gso_type,
        gso_size,
        csum_start: 34,
        csum_offset: 16,
        ..RecordHeader::default()
    }
}

fn partial(csum_start: u16, csum_offset: u16) -> RecordHeader {
    RecordHeader {
        flags: FLAG_NEEDS_CSUM,
        csum_start,
        csum_offset,
        ..RecordHeader::default()
    }
}

/// The sum of big-endian words, the last one padded with zero: a second, plain form of it.
fn sum(bytes: &[u8]) -> u64 {
    let word = |pair: &[u8]| u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |byte| (*byte).into());
    bytes.chunks(2).map(word).sum()
}

fn folded(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn finish(header: RecordHeader, frame: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut copy = frame.to_vec();
    let header = check(header, &mut copy).ok()?;
    let bytes = &copy[..];
    let mut finishing = Finishing::new(Frame { header, bytes })?;
    let mut out = [0xaa; 10_000];
    let mut frames = Vec::new();
    while let Some(length) = finishing.write_next(bytes, &mut out) {
        frames.push(out[..length].to_vec());
    }
    Some(frames)
}

/// UDP over IPv4, with the pseudo-header 10.0.0.1, 10.0.0.2, 17, 12.
#[test]
fn a_completed_checksum_sums_to_all_ones() {
    let pseudo = [10u8, 0, 0, 1, 10, 0, 0, 2, 0, 17, 0, 12];
    let mut frame = vec![0xee; 34];
    frame.extend([0x12, 0x34, 0x56, 0x78, 0, 12]);
    frame.extend((sum(&pseudo) as u16).to_be_bytes());
    frame.extend([1, 2, 3, 4]);
    let frames = finish(partial(34, 6), &frame).unwrap();
    assert_eq!(frames.len(), 1);
    // 0x1234 + 0x5678 + 12 + 0x0102 + 0x0304 + 0x0a00 + 1 + 0x0a00 + 2 + 17 + 12 = 0x80de
    assert_eq!(frames[0][40..42], (!0x80de_u16).to_be_bytes());
    assert_eq!(frames[0][..34], [0xee; 34], "nothing else is touched");
    assert_eq!(frames[0][42..], frame[42..]);
}

#[test]
fn zero_is_sent_as_its_other_form() {
    let mut frame = vec![0; 18];
    frame[14..16].copy_from_slice(&[0xff, 0xff]);
    let frames = finish(partial(14, 2), &frame).unwrap();
    assert_eq!(frames[0][14..], [0xff; 4]);
}

#[test]
fn what_lies_outside_is_refused() {
    let mut frame = vec![0; 60];
    for (start, offset) in [
        (61, 0),
        (60, 0),
        (50, 9),
        (0, u16::MAX),
        (34, SCTP_CHECKSUM),
    ] {
        let found = check(partial(start, offset), &mut frame);
        assert_eq!(found, Err(Unusable::Offload), "{start} {offset}");
    }
    assert_eq!(frame, [0; 60]);
    assert!(
        check(partial(51, 7), &mut frame).is_ok(),
        "odd offset inside"
    );
}

#[test]
fn a_large_tcp_segment_becomes_several() {
    let frame = tcp4(250, CWR_ACK | FIN_PSH);
    let header = large(GSO_TCPV4 | GSO_ECN, 100);
    assert_eq!(needs(header), FEATURE_CSUM | FEATURE_TSO4);
    // Once with the checksum left to do, once with one that is there already.
    let merged = RecordHeader {
        flags: 0,
        csum_start: 0,
        csum_offset: 0,
        ..header
    };
    let mut other = frame.clone();
    other[50..52].fill(0x55);
    assert_eq!(check(merged, &mut other), Ok(header));
    assert_eq!(other, frame, "the sum of the pseudo-header");
    let frames = finish(header, &frame).unwrap();
    assert_eq!(frames.len(), 3);
    let mut payload: Vec<u8> = Vec::new();
    for (number, out) in frames.iter().enumerate() {
        let length = out.len();
        assert_eq!(length, 58 + if number == 2 { 50 } else { 100 });
        let be16 = |place: usize| u16::from_be_bytes([out[place], out[place + 1]]);
        assert_eq!(be16(16), length as u16 - 14);
        assert_eq!(be16(18), 0xffff_u16.wrapping_add(number as u16));
        assert_eq!(folded(sum(&out[ETHERNET..34])), 0xffff, "header checksum");
        let sequence = u32::from_be_bytes(out[38..42].try_into().unwrap());
        assert_eq!(sequence, 0xffff_fff0_u32.wrapping_add(100 * number as u32));
        let expected = [0x90, 0x10, 0x19][number];
        assert_eq!(out[47], expected, "CWR first, FIN and PSH last");
        let pseudo = sum(&out[26..34]) + 6 + (length as u64 - 34);
        assert_eq!(folded(sum(&out[34..]) + pseudo), 0xffff, "TCP checksum");
        payload.extend(&out[58..]);
    }
    assert_eq!(payload, frame[58..]);
    let bytes = &frame[..];
    let mut finishing = Finishing::new(Frame { header, bytes }).unwrap();
    assert_eq!(finishing.write_next(bytes, &mut [0; 157]), None, "no room");
}

#[test]
fn what_is_not_plain_is_refused() {
    let frame = tcp4(250, 0x10);
    let good = large(GSO_TCPV4, 100);
    assert!(check(good, &mut frame.clone()).is_ok());
    for header in [
        large(GSO_TCPV6, 100),
        large(GSO_UDP_L4, 100),
        large(3, 100),
        large(GSO_TCPV4, 0),
        RecordHeader {
            csum_start: 54,
            ..good
        },
    ] {
        let found = check(header, &mut frame.clone());
        assert_eq!(found, Err(Unusable::Offload), "{header:?}");
    }
    for (place, value) in [
        (12, 0x81),
        (14, 0x65),
        (14, 0x46),
        (20, 0x20),
        (23, PROTOCOL_UDP),
        (46, 0x40),
    ] {
        let mut frame = frame.clone();
        frame[place] = value;
        let found = check(good, &mut frame);
        assert_eq!(found, Err(Unusable::Offload), "{place}");
    }
    for end in 0..58 {
        assert!(check(good, &mut frame[..end].to_vec()).is_err(), "{end}");
    }
}

#[test]
fn segments_are_bounded_by_the_length_of_their_parts() {
    let mut frame = tcp4(20_000, 0x10);
    let found = check(large(GSO_TCPV4, 8960), &mut frame);
    assert!(found.is_ok());
    let found = check(large(GSO_TCPV4, 8961), &mut frame);
    assert_eq!(found, Err(Unusable::TooLong));
}

#[test]
fn a_segment_that_fits_one_frame_is_as_long_as_it_is() {
    let frame = tcp4(250, 0x10);
    let length = |gso_size| {
        let header = RecordHeader {
            hdr_len: 58,
            ..large(GSO_TCPV4, gso_size)
        };
        let bytes = &frame[..];
        wire_length(&Frame { header, bytes })
    };
    assert_eq!([100, 250, 2000].map(length), [158, 308, 308]);
}

/// A port that has agreed to all features, with the memory of its NIC.
fn port() -> (HostPort, Arc<Memory>) {
    let geometry = Geometry::new(2, 1, 256 << 10, 256 << 10).unwrap();
    let memory = Arc::new(Memory::create(geometry).unwrap());
    for (number, port) in geometry.all_ports().enumerate() {
        let mac = [2, 0, 0, 0, 0, number as u8];
        memory.switch().admit(port, 1, draw_secret().unwrap(), mac);
    }
    let first = geometry.port(0).unwrap();
    let mut port = HostPort::open(Arc::clone(&memory), first).unwrap();
    assert_eq!(port.agree(FEATURES), FEATURES);
    (port, memory)
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config {
        failure_persistence: None,
        ..proptest::test_runner::Config::default()
    })]

    /// The frames of an interface are whoever's is at its other end, and so may be headers.
    #[test]
    fn any_header_and_frame_end_well(
        fields: [u16; 4],
        flags: u8,
        gso_type in proptest::sample::select(vec![0u8, 1, 3, 4, 5, 0x80, 0x81, 0x84, 0x85, 0xff]),
        near: bool,
        largest_size in proptest::sample::select(vec![10u16, 2000]),
        payload in 0usize..3000,
        changes in proptest::collection::vec((0usize..70, proptest::num::u8::ANY), 0..4),
        end in 0usize..3100,
    ) {
        let mut frame = tcp4(payload, CWR_ACK | FIN_PSH);
        for (place, value) in changes {
            if let Some(byte) = frame.get_mut(place) {
                *byte = value;
            }
        }
        frame.truncate(end);
        let [hdr_len, gso_size, csum_start, csum_offset] = fields;
        let mut header = RecordHeader {
            flags,
            gso_type,
            hdr_len,
            gso_size,
            csum_start,
            csum_offset,
            ..RecordHeader::default()
        };
        if near {
            header.gso_size %= largest_size;
            (header.csum_start, header.csum_offset) = (34, 16);
        }
        // As it comes from the kernel: what a header does not need is not looked at.
        let header = virtio_net::decode(virtio_net::encode(header));
        let Ok(header) = check(header, &mut frame) else {
            return Ok(());
        };
        let bytes = &frame[..];
        let whole = Frame { header, bytes };
        let (mut port, sender) = port();
        if passes_switch(&whole, port.longest_segment()) {
            proptest::prop_assert_eq!(port.send_frames(&[whole]), 1);
            let drops = sender.switch().sender(0).unwrap().drops.each_ref();
            let drops = drops.map(|count| count.load(Relaxed));
            proptest::prop_assert_eq!(drops[Cause::BadDescriptor as usize], 0, "{:?}", header);
        }
        let mut finishing = Finishing::new(whole).unwrap();
        let mut out = [0; MAX_FRAME as usize];
        let (mut parts, mut length) = (0, 0);
        while let Some(part) = finishing.write_next(whole.bytes, &mut out) {
            parts += 1;
            length += part;
            proptest::prop_assert!(check_length(part).is_ok());
        }
        proptest::prop_assert!(parts >= 1 && length >= frame.len());
    }
}
