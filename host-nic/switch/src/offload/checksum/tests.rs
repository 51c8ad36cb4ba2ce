use etherparse::checksum::Sum16BitWords;
use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use proptest::prelude::*;

use super::*;
use crate::policy::snapshot::tests::word;

/// The checksum of bytes in network order, computed as RFC 1071 section 4.1 does.
fn naive(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Whether two checksums are equal; all ones and zero are the same number.
fn same(a: u16, b: u16) -> bool {
    a == b || (a.is_multiple_of(0xffff) && b.is_multiple_of(0xffff))
}

#[test]
fn the_example_of_the_rfc() {
    // Section 3: 00 01 f2 03 f4 f5 f6 f7 sums up to ddf2.
    let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
    let sum = Sum::ZERO.add_range(0, 8, |index| word(&bytes, index));
    assert_eq!(sum.fold().to_le_bytes(), [0xdd, 0xf2]);
    assert_eq!(sum.checksum().to_le_bytes(), [0x22, 0x0d]);
}

#[test]
fn zero_is_sent_as_all_ones() {
    let ones = Sum::ZERO.add_be16(0xffff);
    assert_eq!((ones.checksum(), ones.checksum_not_zero()), (0, 0xffff));
    assert_eq!(Sum::ZERO.checksum(), 0xffff);
    let most = Sum::ZERO.add_word(u64::MAX).add_word(u64::MAX);
    assert_eq!(most.fold(), 0xffff);
}

#[test]
fn partial_fields_out_of_the_frame_are_refused() {
    assert_eq!(Partial::new(13, 16, 100), None);
    assert_eq!(Partial::new(34, 65, 100), None);
    assert_eq!(Partial::new(u16::MAX, u16::MAX, 65_535), None);
    assert_eq!(Partial::new(34, 0, 0), None);
    let last = Partial::new(34, 64, 100).unwrap();
    assert_eq!(
        (last.start(), last.place(), last.words()),
        (34, 98, [12, 12])
    );
    assert_eq!(Partial::new(34, 61, 100).unwrap().words(), [11, 12]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_range(bytes in prop::collection::vec(any::<u8>(), 0..300), from in 0usize..300, to in 0usize..300) {
        let mut next = from / 8;
        let sum = Sum::ZERO.add_range(from as u32, to as u32, |index| {
            assert_eq!(index, next, "each word once, in order");
            assert!(index * 8 < to);
            next += 1;
            word(&bytes, index)
        });
        if to > bytes.len() {
            return Ok(());
        }
        let range = bytes.get(from..to).unwrap_or(&[]);
        let ours = sum.checksum().to_le_bytes();
        prop_assert!(same(u16::from_be_bytes(ours), naive(range)));
        let theirs = Sum16BitWords::new().add_slice(range).ones_complement().to_be();
        prop_assert!(same(u16::from_be_bytes(ours), theirs), "{:x} {:x}", u16::from_be_bytes(ours), theirs);
    }

    /// Ranges of even length can be added one after the other, wherever they begin.
    #[test]
    fn parts_add_up(bytes in prop::collection::vec(any::<u8>(), 0..300), shift in 0usize..8, cut in 0usize..150) {
        let cut = (2 * cut).min(bytes.len());
        let moved = [&vec![0x5a; shift][..], &bytes].concat();
        let at = |place: usize| (place + shift) as u32;
        let read = |index| word(&moved, index);
        let parts = Sum::ZERO.add_range(at(0), at(cut), read).add_range(at(cut), at(bytes.len()), read);
        let checksum = u16::from_be_bytes(parts.checksum().to_le_bytes());
        prop_assert!(same(checksum, naive(&bytes)));
    }

    #[test]
    fn a_partial_checksum_becomes_that_of_etherparse(
        payload in prop::collection::vec(any::<u8>(), 0..200),
        tcp: bool,
        six: bool,
        source: [u8; 16],
    ) {
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let builder = if six {
            builder.ipv6(source, [7; 16], 64)
        } else {
            builder.ipv4([source[0], source[1], source[2], source[3]], [10, 0, 0, 1], 64)
        };
        let mut frame = Vec::new();
        if tcp {
            builder.tcp(1, 2, 3, 4).write(&mut frame, &payload).unwrap();
        } else {
            builder.udp(1, 2).write(&mut frame, &payload).unwrap();
        }
        let built = frame.clone();
        let sliced = SlicedPacket::from_ethernet(&built).unwrap();
        let (start, offset) = match sliced.transport.unwrap() {
            TransportSlice::Tcp(tcp) => (tcp.slice().as_ptr() as usize - built.as_ptr() as usize, 16),
            TransportSlice::Udp(udp) => (udp.slice().as_ptr() as usize - built.as_ptr() as usize, 6),
            other => panic!("{other:?}"),
        };
        // The sum of the pseudo-header, which a driver puts into the checksum's place.
        let length = (frame.len() - start) as u16;
        let mut pseudo = frame[if six { 22..54 } else { 26..34 }].to_vec();
        pseudo.extend([0, if tcp { 6 } else { 17 }]);
        pseudo.extend(length.to_be_bytes());
        let place = start + offset;
        let mut expected = built.clone();
        if expected[place..place + 2] == [0, 0] {
            // All ones is the same number as zero, and the one that UDP needs.
            expected[place..place + 2].fill(0xff);
        }
        frame[place..place + 2].copy_from_slice(&(!naive(&pseudo)).to_be_bytes());

        let partial = Partial::new(start as u16, offset as u16, frame.len() as u32).unwrap();
        let checksum = partial.finish(|index| word(&frame, index));
        let mut words: Vec<u64> = (0..frame.len().div_ceil(8)).map(|index| word(&frame, index)).collect();
        for index in partial.words() {
            words[index] = partial.patch(checksum, index, words[index]);
        }
        let mut patched: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
        patched.truncate(frame.len());
        prop_assert_eq!(patched, expected);
    }

    /// Only the two bytes of the checksum change, wherever a hostile sender puts them.
    #[test]
    fn only_the_checksum_changes(start in 14u16..400, offset in 0u16..400, length in 0u32..400, value: u16) {
        let Some(partial) = Partial::new(start, offset, length) else {
            return Ok(());
        };
        let place = partial.place() as usize;
        prop_assert!(place + 2 <= length as usize);
        let mut expected = vec![0xa5; 408];
        expected[place..place + 2].copy_from_slice(&value.to_le_bytes());
        let patched: Vec<u8> = (0..51)
            .map(|index| partial.patch(value, index, 0xa5a5_a5a5_a5a5_a5a5))
            .flat_map(u64::to_le_bytes)
            .collect();
        prop_assert_eq!(patched, expected);
        let words = partial.words();
        prop_assert!(words[0] == place / 8 && words[1] == (place + 1) / 8);
    }
}
