//! The capture itself needs root; without it the tests say so and pass.

use etherparse::{NetSlice, SlicedPacket, TransportSlice};

use super::*;

fn capture_or_skip() -> Option<Vec<(Duration, Frame)>> {
    match record() {
        Ok(frames) => Some(frames),
        Err(Error::Namespace { source }) if source.kind() == io::ErrorKind::PermissionDenied => {
            println!("SKIP: no network namespace without root");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn frames_are_whole_in_order_and_have_right_checksums() {
    let Some(frames) = capture_or_skip() else {
        return;
    };
    assert!(frames.is_sorted_by_key(|(time, _)| *time));
    let mut lengths: Vec<_> = frames.iter().map(|(_, frame)| frame.len()).collect();
    lengths.sort();
    assert_eq!(
        (lengths[0], lengths[lengths.len() - 1]),
        (MIN_WIRE_LEN, MAX_LEN)
    );
    lengths.dedup();
    assert!(lengths.len() > 20, "only the lengths {lengths:?}");

    let mut checked = 0;
    for (_, frame) in &frames {
        let packet = SlicedPacket::from_ethernet(frame).unwrap();
        let Some(NetSlice::Ipv4(ip)) = &packet.net else {
            continue;
        };
        assert_eq!(
            ip.header().to_header().calc_header_checksum(),
            ip.header().header_checksum()
        );
        let (source, destination) = (ip.header().source(), ip.header().destination());
        match packet.transport.unwrap() {
            TransportSlice::Tcp(tcp) => assert_eq!(
                tcp.calc_checksum_ipv4(source, destination).unwrap(),
                tcp.checksum()
            ),
            TransportSlice::Udp(udp) => assert_eq!(
                udp.to_header()
                    .calc_checksum_ipv4_raw(source, destination, udp.payload())
                    .unwrap(),
                udp.checksum()
            ),
            TransportSlice::Icmpv4(icmp) => {
                let header = icmp.header();
                let again = etherparse::Icmpv4Header::with_checksum(
                    header.icmp_type.clone(),
                    icmp.payload(),
                );
                assert_eq!(again.checksum, header.checksum);
            }
            other => panic!("unexpected {other:?}"),
        }
        checked += 1;
    }
    assert!(checked > 200, "only {checked} frames over IPv4");
}

#[test]
fn a_kept_capture_is_used_again_and_a_damaged_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let first = match cached(folder.path()) {
        Err(Error::Namespace { .. }) => return println!("SKIP: no network namespace without root"),
        other => other.unwrap(),
    };
    let again = cached(folder.path()).unwrap();
    assert_eq!(first, again);

    let file = folder.path().join(FILE);
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
    let new = cached(folder.path()).unwrap();
    assert_eq!(new.name(), NAME);
    assert_ne!(new.sha256(), first.sha256());
}

#[test]
fn short_frames_are_padded_and_long_ones_refused() {
    let time = Duration::ZERO;
    let padded = finish(vec![(time, vec![7; 42])]).unwrap();
    assert_eq!(padded[0].1[..42], [7; 42]);
    assert_eq!(padded[0].1[42..], [0; 18]);
    assert!(matches!(
        finish(vec![(time, vec![0; 1515])]),
        Err(Error::TooLong { length: 1515 })
    ));
}
