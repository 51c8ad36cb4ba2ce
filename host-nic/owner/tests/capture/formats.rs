//! Files that the formats allow, and that not all readers take.

use postern_nic_owner::capture::Skipped;

use super::net::frame;
use super::{block, contents, parse};

/// A frame with its FCS, which need not be right.
fn with_fcs(seed: u64) -> Vec<u8> {
    [&frame(60, seed)[..], &[0xde, 0xad, 0xbe, 0xef]].concat()
}

/// An option, little endian.
fn option(code: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = code.to_le_bytes().to_vec();
    bytes.extend((value.len() as u16).to_le_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn section(options: &[u8]) -> Vec<u8> {
    block(false, 0x0a0d_0d0a, &[0x1a2b_3c4d, 1, !0, !0], options)
}

fn interface(options: &[u8]) -> Vec<u8> {
    block(false, 1, &[1, 0], options)
}

fn packet(data: &[u8], options: &[u8]) -> Vec<u8> {
    let length = data.len() as u32;
    block(
        false,
        6,
        &[0, 0, 0, length, length],
        &[data, options].concat(),
    )
}

const END: [u8; 4] = [0; 4];

/// What is in a pcapng file of these blocks: frames of the numbers from 0 on, whole.
fn is_read(what: &str, blocks: &[Vec<u8>]) {
    let recording = parse(&blocks.concat()).unwrap_or_else(|error| panic!("{what}: {error}"));
    let found: Vec<_> = contents(&recording)
        .into_iter()
        .map(|(_, data)| data)
        .collect();
    assert_eq!(found, [frame(60, 0), frame(60, 1)], "{what}");
    assert_eq!(recording.skipped(), Skipped::default(), "{what}");
}

#[test]
fn options_need_no_end_no_known_text_and_no_known_length() {
    let frames = [frame(60, 0), frame(60, 1)];
    let latin = option(1, b"caf\xe9");
    let odd: Vec<u8> = [
        option(1, b"\xff\xfe"),
        option(4, b"name\0"),
        option(10, &[0; 4]), // if_tzone as the format has it
        option(9, &[9, 0]),  // of no known length
        option(2988, &[1; 6]),
        option(0x7123, b"q"),
    ]
    .concat();
    for (what, all) in [
        ("no options", vec![]),
        ("no end", option(1, b"eth0")),
        ("text", latin.clone()),
        ("text and an end", [&latin[..], &END].concat()),
        ("odd ones", odd.clone()),
        (
            "odd ones and an end",
            [&odd[..], &END, b"behind it"].concat(),
        ),
    ] {
        let [one, two] = &frames;
        let plain = [
            section(&[]),
            interface(&[]),
            packet(one, &[]),
            packet(two, &[]),
        ];
        for place in 0..4 {
            let mut blocks = plain.clone();
            blocks[place] = match place {
                0 => section(&all),
                1 => interface(&all),
                _ => packet(&frames[place - 2], &all),
            };
            is_read(&format!("{what}, block {place}"), &blocks);
        }
    }
    let long = [2, 0, 200, 0, 1, 2, 3, 4];
    let bytes = [section(&[]), interface(&long), packet(&frames[0], &[])].concat();
    let error = parse(&bytes).unwrap_err().to_string();
    assert!(error.contains("longer than its block"), "{error}");
}

#[test]
fn blocks_of_others_are_skipped() {
    let other = |kind, data: &[u8]| block(false, kind, &[], data);
    let blocks = [
        section(&[]),
        interface(&[]),
        // Names, statistics, a journal's entry, secrets, those of other programs.
        other(4, &[1, 0, 200, 0, 1]),
        other(5, &[0; 3]),
        other(9, b"__REALTIME_TIMESTAMP=1"),
        other(10, b"\x4b"),
        other(0xbad, &[]),
        other(0x8000_0123, b"\xff"),
        packet(&frame(60, 0), &[]),
        // Another interface, of which no packet is.
        block(false, 1, &[113, 0], &[]),
        packet(&frame(60, 1), &[]),
    ];
    is_read("blocks of others", &blocks);
}

#[test]
fn the_fcs_is_no_part_of_a_frame() {
    let (one, two) = (with_fcs(0), with_fcs(1));
    for (what, of_interface, of_packet) in [
        ("if_fcslen", option(13, &[4]), vec![]),
        ("if_fcslen in bits", option(13, &[32]), vec![]),
        (
            "the packets' flags",
            vec![],
            option(2, &(4u32 << 5).to_le_bytes()),
        ),
        (
            "flags that overrule it",
            option(13, &[2]),
            option(2, &(4u32 << 5 | 1).to_le_bytes()),
        ),
    ] {
        let blocks = [
            section(&[]),
            interface(&of_interface),
            packet(&one, &of_packet),
            packet(&two, &of_packet),
        ];
        is_read(what, &blocks);
    }
    // libpcap's bits above the link type, and those of the first drafts.
    for link in [2 << 28 | 1 << 26 | 1u32, 2 << 29 | 1 << 28 | 1] {
        let mut bytes = super::pcap(&[(1, 2, 64, &one), (1, 2, 64, &two), (1, 2, 64, &one[..60])]);
        bytes[20..24].copy_from_slice(&link.to_le_bytes());
        let recording = parse(&bytes).unwrap();
        let found: Vec<_> = recording
            .frames()
            .map(|frame| frame.data.to_vec())
            .collect();
        // Of the last one all is there but the FCS.
        assert_eq!(
            found,
            [frame(60, 0), frame(60, 1), frame(60, 0)],
            "{link:#x}"
        );
    }
    // Without such a bit nobody knows.
    let bytes = super::pcap(&[(1, 2, 64, &one)]);
    assert_eq!(contents(&parse(&bytes).unwrap())[0].1, one);
}

#[test]
fn old_files_have_their_lengths_the_other_way_round() {
    let data = frame(60, 0);
    for (minor, captured, original) in [(2, 100, 60), (3, 100, 60), (3, 60, 100), (4, 60, 100)] {
        let mut bytes = super::pcap(&[(1, 2, original, &data)]);
        bytes[6..8].copy_from_slice(&u16::to_le_bytes(minor));
        bytes[32..36].copy_from_slice(&u32::to_le_bytes(captured));
        let error = parse(&bytes).unwrap_err().to_string();
        assert!(error.contains("1 cut short"), "{minor}: {error}");
    }
}

#[test]
fn another_version_is_named() {
    let mut bytes = section(&[]);
    bytes[12] = 2;
    let error = parse(&bytes).unwrap_err().to_string();
    assert!(error.contains("its version is 2.0"), "{error}");
}
