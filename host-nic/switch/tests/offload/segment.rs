//! Large segments: whole for receivers that agreed to them, cut for others as the sender would have
//! done.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use postern_abi::window::{
    FEATURE_CSUM, FEATURE_TSO4, FEATURE_TSO6, FEATURE_USO, FEATURES, Geometry, RecordHeader,
};
use postern_nic_client::policy::vlan::VlanSpec;
use postern_switch::state::Cause;

use crate::ports::packet::{Flow, KINDS, Kind, payload, tagged, untagged};
use crate::ports::{BROADCAST, LARGE, Net, mac, port};

/// Numbers of bytes of payload, of the large segment and of each frame.
const SIZES: [(usize, usize); 12] = [
    (1, 1),
    (1448, 1448),
    (1449, 1448),
    (2896, 1448),
    (10_000, 1448),
    (10_001, 1447),
    (256, 1),
    (1000, 7),
    (9001, 4500),
    (20_000, 8900),
    (60_000, 1448),
    (65_400, 8900),
];

fn feature(kind: Kind) -> u32 {
    match kind {
        Kind::Tcp4 => FEATURE_TSO4,
        Kind::Tcp6 => FEATURE_TSO6,
        Kind::Udp4 | Kind::Udp6 => FEATURE_USO,
    }
}

#[test]
fn cut_for_those_who_cannot_and_whole_for_those_who_can() {
    let net = Net::new(4);
    let mut guests = net.guests();
    guests[0].agree(FEATURES);
    for kind in KINDS {
        // One receiver agrees to this kind, and one to all kinds but this.
        guests[2].agree(FEATURE_CSUM | feature(kind));
        guests[3].agree(FEATURES & !feature(kind));
        for (length, size) in SIZES {
            for tag in [None, Some(0x5000 | 99)] {
                let mut flow = Flow::new(kind, BROADCAST, mac(0));
                flow.tag = tag;
                let payload = payload(length, length as u64);
                let (header, bytes) = flow.large(&payload, size);
                guests[0].send_with(header, &bytes);
                let cut = flow.cut(&payload, size);
                assert_eq!(guests[1].receive(), cut, "{flow:?} {length} {size}");
                assert_eq!(guests[3].receive(), cut);
                let got = guests[2].take();
                assert_eq!(got.len(), 1);
                assert_eq!((got[0].header, &got[0].bytes), (header, &bytes));
            }
        }
    }
}

#[test]
fn cut_or_whole_with_tags_put_in_and_taken_out() {
    let net = Net::new(4);
    let trunk = VlanSpec::Trunk {
        pvid: None,
        members: vec![10],
        untagged: vec![],
    };
    for port in [0, 1] {
        net.set(port, |policy| {
            policy.vlan = Some(VlanSpec::Access { pvid: 10 })
        });
        net.set(port + 2, |policy| policy.vlan = Some(trunk.clone()));
    }
    let mut guests = net.guests();
    for port in [0, 2] {
        guests[port].agree(FEATURES);
    }
    let shifted = |header: RecordHeader, by: i16| RecordHeader {
        csum_start: header.csum_start.wrapping_add_signed(by),
        hdr_len: header.hdr_len.wrapping_add_signed(by),
        ..header
    };
    for kind in KINDS {
        for (length, size) in SIZES {
            let payload = payload(length, length as u64);
            let mut flow = Flow::new(kind, BROADCAST, mac(0));
            let (header, bytes) = flow.large(&payload, size);
            guests[0].send_with(header, &bytes);
            let cut = flow.cut(&payload, size);
            let with_tags: Vec<_> = cut.iter().map(|bytes| tagged(bytes, 10)).collect();
            assert_eq!(guests[1].receive(), cut, "{kind:?} {length} {size}");
            assert_eq!(guests[3].receive(), with_tags, "{kind:?} {length} {size}");
            let got = guests[2].take().pop().unwrap();
            assert_eq!(
                (got.header, got.bytes),
                (shifted(header, 4), tagged(&bytes, 10))
            );

            flow.from = mac(2);
            flow.tag = Some(10);
            let (header, bytes) = flow.large(&payload, size);
            guests[2].send_with(header, &bytes);
            let cut = flow.cut(&payload, size);
            let without: Vec<_> = cut.iter().map(|bytes| untagged(bytes)).collect();
            assert_eq!(guests[3].receive(), cut);
            assert_eq!(guests[1].receive(), without);
            let got = guests[0].take().pop().unwrap();
            assert_eq!(
                (got.header, got.bytes),
                (shifted(header, -4), untagged(&bytes))
            );
        }
    }
}

/// The NIC passes on the true length of the headers, not the one that the sender gives.
#[test]
fn the_hint_is_put_right() {
    let net = Net::new(2);
    let mut guests = net.guests();
    guests.iter().for_each(|guest| guest.agree(FEATURES));
    let flow = Flow::new(Kind::Tcp4, mac(1), mac(0));
    let (header, bytes) = flow.large(&payload(5000, 1), 1000);
    for hint in [0, 1, header.hdr_len - 1, u16::MAX] {
        guests[0].send_with(
            RecordHeader {
                hdr_len: hint,
                ..header
            },
            &bytes,
        );
        let got = guests[1].take();
        assert_eq!((got[0].header, &got[0].bytes), (header, &bytes));
    }
    let (header, bytes) = flow.partial(&payload(500, 1));
    guests[0].send_with(
        RecordHeader {
            hdr_len: 7,
            gso_size: 9,
            ..header
        },
        &bytes,
    );
    assert_eq!(guests[1].take()[0].header.hdr_len, 0);
}

#[test]
fn longest_segments_and_longest_frames() {
    let net = Net::new(3);
    let mut guests = net.guests();
    guests[0].agree(FEATURES);
    guests[2].agree(FEATURES);
    let mut flow = Flow::new(Kind::Tcp4, BROADCAST, mac(0));
    flow.tag = Some(5);
    // The IP packet has 65535 bytes, and the frames that it is cut into 9018.
    let most = 65535 - 20 - 32;
    let size = 9018 - 18 - 52;
    let payload = payload(most, 1);
    let (header, bytes) = flow.large(&payload, size);
    assert_eq!(bytes.len(), 65535 + 18);
    guests[0].send_with(header, &bytes);
    let cut = flow.cut(&payload, size);
    assert_eq!(cut[0].len(), 9018);
    assert_eq!(guests[1].receive(), cut);
    assert_eq!(guests[2].take()[0].bytes, bytes);
    // With one byte more in each, no receiver could be sure to get them.
    let (header, bytes) = flow.large(&payload, size + 1);
    guests[0].send_with(header, &bytes);
    assert_eq!(net.drops(0, Cause::BadDescriptor), 1);
    assert_eq!((guests[1].take().len(), guests[2].take().len()), (0, 0));
}

#[test]
fn lanes_that_hold_no_large_segment_take_no_longer_ones() {
    let net = Net::sized(Geometry::new(3, 1, LARGE, 4096).unwrap());
    let longest = net.memory.geometry().max_segment() as usize;
    let mut guests = net.guests();
    guests[0].agree(FEATURES);
    guests[2].agree(FEATURES);
    let flow = Flow::new(Kind::Tcp4, BROADCAST, mac(0));
    let head = flow.whole(&[]).len();
    let data = payload(longest - head, 1);
    let (header, bytes) = flow.large(&data, 700);
    guests[0].send_with(header, &bytes);
    assert_eq!(guests[1].receive(), flow.cut(&data, 700));
    assert_eq!(guests[2].take()[0].bytes, bytes);
    // The guest library does not write longer ones. A guest that does so by itself has them
    // counted.
    let (header, bytes) = flow.large(&payload(longest - head + 1, 1), 700);
    guests[0].put_raw(header, &bytes);
    assert_eq!(guests[0].call(), 1);
    assert_eq!(net.drops(0, Cause::TooLong), 1);
    assert_eq!((guests[1].take().len(), guests[2].take().len()), (0, 0));
}

/// A receiver that reads between calls gets every frame, once.
#[test]
fn large_segments_that_wait_are_not_cut_halfway() {
    let net = Net::sized(Geometry::new(2, 1, LARGE, 32 << 10).unwrap());
    let mut guests = net.guests();
    guests[0].agree(FEATURES);
    let (mut sent, mut got) = (Vec::new(), Vec::new());
    for round in 0..40u64 {
        let mut flow = Flow::new(KINDS[round as usize % 4], mac(1), mac(0));
        flow.identification = round as u16;
        let data = payload(3000 + 300 * round as usize, round);
        let size = 600 + 11 * round as usize;
        let (header, bytes) = flow.large(&data, size);
        guests[0].put_on(0, header, &bytes);
        sent.extend(flow.cut(&data, size));
        for _ in 0..3 {
            guests[0].call_hold();
        }
        if round % 3 == 0 {
            got.extend(guests[1].receive());
        }
        while guests[0].pending() > 4 {
            got.extend(guests[1].receive());
            guests[0].call_hold();
        }
    }
    while guests[0].pending() != 0 {
        guests[0].call_hold();
        got.extend(guests[1].receive());
    }
    got.extend(guests[1].receive());
    assert_eq!(got.len(), sent.len());
    assert!(got == sent);
    assert_eq!((net.drops(0, Cause::Full), net.lane_drops(1)), (0, 0));
}

/// A large segment has more frames than a lane ever holds. Those that fit are sent once the lane is
/// empty, and the sender is not stuck.
#[test]
fn what_never_fits_waits_for_an_empty_lane_alone() {
    let net = Net::sized(Geometry::new(2, 1, LARGE, 4096).unwrap());
    let mut guests = net.guests();
    guests[0].agree(FEATURES);
    let flow = Flow::new(Kind::Udp4, mac(1), mac(0));
    let data = payload(1900, 1);
    let (header, bytes) = flow.large(&data, 10);
    guests[1].send(&flow_hello());
    guests[0].receive();
    guests[0].put(&flow.whole(&[1, 2, 3]));
    guests[0].put_on(0, header, &bytes);
    assert_eq!(guests[0].call_hold(), 1);
    assert_eq!(guests[0].call_hold(), 0);
    assert_eq!(guests[1].receive().len(), 1);
    assert_eq!(guests[0].call_hold(), 1);
    let got = guests[1].receive();
    let cut = flow.cut(&data, 10);
    assert!(!got.is_empty() && got.len() < cut.len());
    assert_eq!(got, cut[..got.len()]);
    assert_eq!(net.drops(0, Cause::Full), 1);
}

fn flow_hello() -> Vec<u8> {
    Flow::new(Kind::Udp4, BROADCAST, mac(1)).whole(&[])
}

/// Frames of the greatest length have no room for a tag.
#[test]
fn a_tag_makes_no_segment_longer_than_frames_are() {
    let net = Net::new(3);
    let trunk = VlanSpec::Trunk {
        pvid: None,
        members: vec![10],
        untagged: vec![],
    };
    net.set(0, |policy| {
        policy.vlan = Some(VlanSpec::Access { pvid: 10 });
    });
    for port in [1, 2] {
        net.set(port, |policy| policy.vlan = Some(trunk.clone()));
    }
    let mut guests = net.guests();
    for port in [0, 2] {
        guests[port].agree(FEATURES);
    }
    let flow = Flow::new(Kind::Tcp4, BROADCAST, mac(0));
    let head = flow.whole(&[]).len();
    for (longest, fits) in [(9014, true), (9015, false), (9018, false)] {
        let size = longest - head;
        let data = payload(20_000, 1);
        let (header, bytes) = flow.large(&data, size);
        guests[0].send_with(header, &bytes);
        // The receiver that takes large segments gets it whole, and cuts no frames from it.
        assert_eq!(guests[2].take().len(), 1);
        let cut = flow.cut(&data, size).len();
        assert_eq!(guests[1].receive().len(), if fits { cut } else { 0 });
    }
    assert_eq!(net.drops(0, Cause::TooLong), 2);
}

/// Whatever somebody has written into the state: a large segment stays in the lane.
#[test]
fn whole_in_a_lane_whose_limit_lies() {
    let net = Net::new(3);
    let mut guests = net.guests();
    guests[0].agree(FEATURES);
    guests[1].agree(FEATURES);
    let flow = Flow::new(Kind::Tcp4, mac(1), mac(0));
    let (header, bytes) = flow.large(&payload(60_000, 1), 1448);
    guests[0].send_with(header, &bytes);
    assert_eq!(guests[1].take().len(), 1);
    let switch = net.memory.switch();
    let (number, lane) = switch.lane_from(0, 1).unwrap();
    lane.published
        .store(2 << 32 | u64::from(LARGE - 32), Relaxed);
    lane.limit.store(2 << 32 | 0x7fff_fff0, Relaxed);
    guests[0].send_with(header, &bytes);
    let lanes = net.memory.geometry().lanes();
    let behind = switch
        .lane_ring(port(1), 0, (number + 1).min(lanes - 1))
        .unwrap();
    assert_ne!(number + 1, lanes, "a lane follows");
    for offset in (0..LARGE as usize).step_by(8) {
        // SAFETY: the word lies in a lane, and is accessed atomically only.
        let word = unsafe { AtomicU64::from_ptr(behind.add(offset).cast()) };
        assert_eq!(word.load(Relaxed), 0, "{offset:#x}");
    }
}
