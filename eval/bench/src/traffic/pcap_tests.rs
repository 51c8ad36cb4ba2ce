//! Every kind of bad file gets its own refusal; every kind of good file gives the same frames.

use std::borrow::Cow;

use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionBlock;
use pcap_file::pcapng::blocks::simple_packet::SimplePacketBlock;
use proptest::prelude::*;

use super::*;

const RECORD: usize = 16;
const HEADER: usize = 24;

fn three() -> Vec<Frame> {
    [60, 64, 1514]
        .map(|len| vec![len as u8; len].into_boxed_slice())
        .to_vec()
}

/// A pcap file of `frames`, each with a length on the wire.
fn build(frames: &[(u32, Frame)], change: impl FnOnce(&mut PcapHeader)) -> Vec<u8> {
    let mut header = PcapHeader::default();
    change(&mut header);
    let mut writer = PcapWriter::with_header(Vec::new(), header).unwrap();
    for (wire, data) in frames {
        let packet = PcapPacket::new(Duration::from_secs(1), *wire, data);
        writer.write_packet(&packet).unwrap();
    }
    writer.into_writer()
}

fn whole(frames: &[Frame]) -> Vec<(u32, Frame)> {
    frames.iter().map(|f| (f.len() as u32, f.clone())).collect()
}

fn build_ng(endianness: Endianness, link: DataLink, frames: &[Frame]) -> Vec<u8> {
    let mut writer = PcapNgWriter::with_endianness(Vec::new(), endianness).unwrap();
    let interface = InterfaceDescriptionBlock {
        linktype: link,
        snaplen: 0,
        options: vec![],
    };
    writer.write_pcapng_block(interface).unwrap();
    for frame in frames {
        let packet = EnhancedPacketBlock {
            interface_id: 0,
            timestamp: Duration::ZERO,
            original_len: frame.len() as u32,
            data: Cow::Borrowed(frame),
            options: vec![],
        };
        writer.write_pcapng_block(packet).unwrap();
    }
    writer.into_inner()
}

fn refusal(bytes: &[u8]) -> Error {
    parse(Path::new("in.pcap"), bytes).unwrap_err()
}

#[test]
fn byte_orders_and_resolutions_give_the_same_frames() {
    for order in [Endianness::Big, Endianness::Little] {
        for resolution in [TsResolution::MicroSecond, TsResolution::NanoSecond] {
            let bytes = build(&whole(&three()), |header| {
                header.endianness = order;
                header.ts_resolution = resolution;
            });
            assert_eq!(parse(Path::new("x"), &bytes).unwrap(), three());
        }
        let bytes = build_ng(order, DataLink::ETHERNET, &three());
        assert_eq!(parse(Path::new("x"), &bytes).unwrap(), three());
    }
}

#[test]
fn simple_packet_blocks_are_read() {
    let mut writer = PcapNgWriter::new(Vec::new()).unwrap();
    let interface = InterfaceDescriptionBlock {
        linktype: DataLink::ETHERNET,
        snaplen: 0,
        options: vec![],
    };
    writer.write_pcapng_block(interface).unwrap();
    for frame in three() {
        let packet = SimplePacketBlock {
            original_len: frame.len() as u32,
            data: Cow::Owned(frame.into_vec()),
        };
        writer.write_pcapng_block(packet).unwrap();
    }
    assert_eq!(
        parse(Path::new("x"), &writer.into_inner()).unwrap(),
        three()
    );
}

#[test]
fn saved_files_load_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("out.pcap");
    let times = (1..).map(Duration::from_millis);
    let frames = three();
    save(&file, times.zip(frames.iter().map(|frame| &frame[..]))).unwrap();
    let trace = load(&file).unwrap();
    assert_eq!(trace.frames(), three());
    assert_eq!(trace.name(), "out.pcap");
    // Nothing but the file is left.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn saving_into_a_missing_folder_is_refused() {
    let error = save(Path::new("/nonexistent/out.pcap"), []).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/out.pcap"));
}

#[test]
fn a_missing_file_is_named() {
    let error = load(Path::new("/nonexistent.pcap")).unwrap_err();
    assert!(matches!(error, Error::Read { .. }));
    assert!(error.to_string().contains("/nonexistent.pcap"));
}

#[test]
fn files_without_frames_are_refused() {
    assert!(matches!(refusal(&[]), Error::Empty { .. }));
    assert!(matches!(
        refusal(&build(&[], |_| ())),
        Error::NoFrames { .. }
    ));
    assert!(matches!(refusal(b"GIF89a"), Error::NotACapture { .. }));
    let error = refusal(&[0x1f, 0x8b, 8, 0]);
    assert!(matches!(error, Error::Compressed { .. }));
    assert!(error.to_string().contains("gunzip"), "{error}");
    assert!(refusal(b"GIF89a").to_string().contains("47 49 46 38"));
    assert!(matches!(refusal(b"x"), Error::NotACapture { .. }));
}

#[test]
fn truncation_is_named_at_every_byte() {
    let bytes = build(&whole(&three()), |_| ());
    let starts = [
        HEADER,
        HEADER + RECORD + 60,
        HEADER + 2 * RECORD + 60 + 64,
        bytes.len(),
    ];
    for cut in 4..bytes.len() {
        match refusal_of_cut(&bytes, cut) {
            None => assert!(starts.contains(&cut)),
            Some(Error::TruncatedHeader { size, .. }) => assert!(cut < HEADER && size == cut),
            Some(Error::NoFrames { .. }) => assert_eq!(cut, HEADER),
            Some(Error::Truncated {
                frame,
                offset,
                size,
                ..
            }) => {
                assert_eq!((offset, size), (starts[frame - 1], cut));
                assert!(offset < cut && cut < starts[frame]);
            }
            Some(other) => panic!("cut at {cut}: {other}"),
        }
    }
}

fn refusal_of_cut(bytes: &[u8], cut: usize) -> Option<Error> {
    parse(Path::new("in.pcap"), &bytes[..cut]).err()
}

#[test]
fn truncated_pcapng_is_refused() {
    let bytes = build_ng(Endianness::Little, DataLink::ETHERNET, &three());
    let error = refusal(&bytes[..bytes.len() - 5]);
    assert!(
        matches!(error, Error::Truncated { frame: 3, .. }),
        "{error}"
    );
}

#[test]
fn other_link_types_are_refused() {
    let bytes = build(&whole(&three()), |h| h.datalink = DataLink::LINUX_SLL);
    let text = refusal(&bytes).to_string();
    assert!(
        text.contains("LINUX_SLL (113)") && text.contains("in.pcap"),
        "{text}"
    );
    let bytes = build_ng(Endianness::Big, DataLink::RAW, &three());
    assert!(matches!(refusal(&bytes), Error::LinkType { frame: 1, .. }));
}

#[test]
fn frames_over_the_mtu_are_refused() {
    let mut frames = three();
    frames.push(vec![0; 1515].into());
    let text = refusal(&build(&whole(&frames), |_| ())).to_string();
    assert!(
        text.contains("frame 4: 1515 bytes are over the limit of 1514"),
        "{text}"
    );
    let bytes = build_ng(Endianness::Little, DataLink::ETHERNET, &frames);
    assert!(matches!(
        refusal(&bytes),
        Error::TooLong {
            frame: 4,
            length: 1515,
            ..
        }
    ));
}

#[test]
fn frames_captured_in_part_are_refused() {
    let frames = [(60, vec![0; 60].into()), (1514, vec![0; 96].into())];
    let text = refusal(&build(&frames, |_| ())).to_string();
    assert!(
        text.contains("frame 2: only 96 of its 1514 bytes") && text.contains("-s 0"),
        "{text}"
    );
}

#[test]
fn runts_are_refused() {
    let frames = whole(&[vec![0; 14].into(), vec![0; 13].into()]);
    assert!(matches!(
        refusal(&build(&frames, |_| ())),
        Error::TooShort {
            frame: 2,
            length: 13,
            ..
        }
    ));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(
        ng in any::<bool>(),
        noise in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = match ng {
            true => build_ng(Endianness::Little, DataLink::ETHERNET, &three()),
            false => build(&whole(&three()), |_| ()),
        };
        for (position, value) in noise {
            let position = position.index(bytes.len());
            bytes[position] = value;
        }
        bytes.truncate(cut.index(bytes.len()) + 1);
        if let Err(error) = parse(Path::new("in.pcap"), &bytes) {
            prop_assert!(error.to_string().contains("in.pcap"));
        }
    }
}

#[test]
fn the_size_of_a_file_is_known_before_it_is_written() {
    for trace in [Trace::synthetic(64, 0), Trace::synthetic(60, 7)] {
        let bytes = to_bytes(trace.frames()).unwrap();
        assert_eq!(size(trace.frames()), bytes.len() as u64);
    }
}
