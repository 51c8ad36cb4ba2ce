//! Partial checksums, which senders leave to the NIC.

use postern_abi::window::{FEATURE_CSUM, FEATURES, RecordHeader};
use postern_nic_client::policy::acl::AclSpec;
use postern_nic_client::policy::port::Source;
use postern_nic_client::policy::vlan::VlanSpec;
use postern_switch::policy::acl::Verdict;
use postern_switch::state::Cause;

use crate::ports::packet::{Flow, KINDS, Kind, payload, sum, tagged, udp, untagged};
use crate::ports::{BROADCAST, Net, mac};

const LENGTHS: [usize; 12] = [0, 1, 2, 7, 40, 54, 73, 74, 75, 500, 1401, 8000];

#[test]
fn completed_for_those_who_cannot_and_left_to_those_who_can() {
    let net = Net::new(3);
    let mut guests = net.guests();
    guests[0].agree(FEATURE_CSUM);
    guests[2].agree(FEATURE_CSUM);
    for kind in KINDS {
        for length in LENGTHS {
            let mut flow = Flow::new(kind, BROADCAST, mac(0));
            for tag in [None, Some(0x3000 | 9)] {
                flow.tag = tag;
                let payload = payload(length, length as u64);
                let (header, bytes) = flow.partial(&payload);
                guests[0].send_with(header, &bytes);
                assert_eq!(
                    guests[1].receive(),
                    [flow.whole(&payload)],
                    "{flow:?} {length}"
                );
                let got = guests[2].take();
                assert_eq!(got.len(), 1);
                assert_eq!((got[0].header, &got[0].bytes), (header, &bytes));
            }
        }
    }
}

#[test]
fn right_where_a_tag_is_put_in_or_taken_out() {
    let net = Net::new(4);
    let trunk = VlanSpec::Trunk {
        pvid: None,
        members: vec![10],
        untagged: vec![],
    };
    // Two access ports and two trunks; one of each agrees to partial checksums.
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
    for kind in KINDS {
        for length in LENGTHS {
            let payload = payload(length, length as u64);
            // A frame from an access port: both trunks get it with the tag.
            let mut flow = Flow::new(kind, BROADCAST, mac(0));
            let (header, bytes) = flow.partial(&payload);
            guests[0].send_with(header, &bytes);
            let whole = flow.whole(&payload);
            assert_eq!(guests[1].receive(), [whole.clone()]);
            assert_eq!(
                guests[3].receive(),
                [tagged(&whole, 10)],
                "{kind:?} {length}"
            );
            let got = guests[2].take().pop().unwrap();
            let shifted = RecordHeader {
                csum_start: header.csum_start + 4,
                ..header
            };
            assert_eq!((got.header, got.bytes), (shifted, tagged(&bytes, 10)));
            // A frame from a trunk: both access ports get it without the tag.
            flow.from = mac(2);
            flow.tag = Some(10);
            let (header, bytes) = flow.partial(&payload);
            guests[2].send_with(header, &bytes);
            let whole = flow.whole(&payload);
            assert_eq!(guests[3].receive(), [whole.clone()]);
            assert_eq!(guests[1].receive(), [untagged(&whole)], "{kind:?} {length}");
            let got = guests[0].take().pop().unwrap();
            let shifted = RecordHeader {
                csum_start: header.csum_start - 4,
                ..header
            };
            assert_eq!((got.header, got.bytes), (shifted, untagged(&bytes)));
        }
    }
}

/// A UDP checksum of zero would say that there is none (RFC 768).
#[test]
fn a_sum_of_zero_is_sent_as_all_ones() {
    let net = Net::new(2);
    let mut guests = net.guests();
    guests[0].agree(FEATURE_CSUM);
    let flow = Flow::new(Kind::Udp4, mac(1), mac(0));
    // This payload makes the sum of all bytes all ones.
    let mut data = vec![0, 0];
    let complete = flow.whole(&data);
    let l4 = flow.l4();
    data.copy_from_slice(&complete[l4 + 6..l4 + 8]);
    let (header, bytes) = flow.partial(&data);
    assert_eq!(sum(&bytes[l4..]), 0xffff);
    guests[0].send_with(header, &bytes);
    let got = guests[1].receive().pop().unwrap();
    assert_eq!(got[l4 + 6..l4 + 8], [0xff, 0xff]);
}

/// A sender, which chooses where its checksum is stored, must not have it stored in bytes that a
/// policy has read.
#[test]
fn no_checksum_is_written_into_headers_that_a_policy_has_read() {
    let net = Net::new(2);
    let mut guests = net.guests();
    guests[0].agree(FEATURE_CSUM);
    net.set(0, |policy| {
        policy.source = Source::Own;
        policy.acl = AclSpec {
            rules: vec!["permit in udp dport 53".parse().unwrap()],
            default: Verdict::Deny,
        }
    });
    let allowed = udp(mac(1), mac(0), (9, 53), 40, 1);
    let mut refused = 0;
    for (bytes, l4) in [(allowed.clone(), 34), (tagged(&allowed, 3), 38)] {
        for start in 0..bytes.len() + 2 {
            for offset in 0..bytes.len() + 2 {
                let place = start + offset;
                let header = RecordHeader {
                    flags: 1,
                    csum_start: start as u16,
                    csum_offset: offset as u16,
                    ..RecordHeader::default()
                };
                guests[0].send_with(header, &bytes);
                let got = guests[1].receive();
                let fine = start >= l4 && place >= l4 + 4 && place + 2 <= bytes.len();
                assert_eq!(got.len(), usize::from(fine), "{start} + {offset}");
                if let Some(got) = got.first() {
                    assert_eq!(got[..l4 + 4], bytes[..l4 + 4], "{start} + {offset}");
                    assert_eq!(got[..place], bytes[..place]);
                    assert_eq!(got[place + 2..], bytes[place + 2..]);
                } else {
                    refused += 1;
                    assert_eq!(net.drops(0, Cause::BadDescriptor), refused);
                }
            }
        }
    }
}

/// Headers may be longer than the snapshot of a frame. No policy reads bytes behind it, so the
/// checksum may be there.
#[test]
fn behind_what_is_read_a_checksum_may_be_anywhere() {
    let net = Net::new(2);
    let mut guests = net.guests();
    guests[0].agree(FEATURE_CSUM);
    let flow = Flow::new(Kind::Udp6, mac(1), mac(0));
    let data = payload(100, 1);
    for options in [72usize, 80, 160] {
        // Destination options between IP and UDP: next header, length, and one PadN for the rest.
        let mut extension = vec![0; options];
        extension[0] = 17;
        extension[1] = (options / 8 - 1) as u8;
        extension[2] = 1;
        extension[3] = (options - 4) as u8;
        let extend = |bytes: &[u8]| {
            let mut bytes = [&bytes[..54], &extension, &bytes[54..]].concat();
            let length = (bytes.len() - 54) as u16;
            bytes[18..20].copy_from_slice(&length.to_be_bytes());
            bytes[20] = 60;
            bytes
        };
        let (mut header, bytes) = flow.partial(&data);
        header.csum_start += options as u16;
        guests[0].send_with(header, &extend(&bytes));
        assert_eq!(
            guests[1].receive(),
            [extend(&flow.whole(&data))],
            "{options}"
        );
        // The checksum may not be in front of it, since the bytes there may be headers.
        let before = net.drops(0, Cause::BadDescriptor);
        for place in 14..128 {
            for start in [place.min(54), place] {
                header.csum_start = start;
                header.csum_offset = place - start;
                guests[0].send_with(header, &extend(&bytes));
            }
        }
        assert_eq!(guests[1].take(), []);
        assert_eq!(net.drops(0, Cause::BadDescriptor), before + 228);
    }
}
