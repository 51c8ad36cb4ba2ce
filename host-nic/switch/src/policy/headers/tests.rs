use etherparse::{
    IpFragOffset, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, NetSlice, PacketBuilder,
    SlicedPacket, TransportSlice,
};
use proptest::prelude::*;

use super::*;
use crate::policy::snapshot::tests::snapshot;

const KEY: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3211];
const DESTINATION: [u8; 6] = [2, 1, 2, 3, 4, 5];
const SOURCE: [u8; 6] = [2, 10, 11, 12, 13, 14];

fn parse(bytes: &[u8]) -> Headers {
    Headers::parse(&snapshot(bytes))
}

pub(crate) fn mac(bytes: [u8; 6]) -> u64 {
    let [a, b, c, d, e, f] = bytes;
    u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
}

/// An Ethernet header with tags in front of a packet.
fn ethernet(tags: &[(u16, u16)], ethertype: u16, packet: &[u8]) -> Vec<u8> {
    let mut frame = [DESTINATION, SOURCE].concat();
    for (kind, tci) in tags {
        frame.extend(kind.to_be_bytes());
        frame.extend(tci.to_be_bytes());
    }
    frame.extend(ethertype.to_be_bytes());
    frame.extend(packet);
    frame
}

/// An IPv6 packet with the bytes behind the fixed header given.
fn ipv6(next: u8, rest: &[u8]) -> Vec<u8> {
    let header = Ipv6Header {
        traffic_class: 0,
        flow_label: Ipv6FlowLabel::ZERO,
        payload_length: rest.len() as u16,
        next_header: IpNumber(next),
        hop_limit: 64,
        source: core::array::from_fn(|i| i as u8),
        destination: core::array::from_fn(|i| 0xf0 + i as u8),
    };
    [&header.to_bytes()[..], rest].concat()
}

fn ipv4(fragment_offset: u16, more: bool, rest: &[u8]) -> Vec<u8> {
    let mut header = Ipv4Header::new(
        rest.len() as u16,
        64,
        IpNumber::UDP,
        [10, 1, 2, 3],
        [10, 9, 8, 7],
    )
    .unwrap();
    header.fragment_offset = IpFragOffset::try_new(fragment_offset).unwrap();
    header.more_fragments = more;
    [&header.to_bytes()[..], rest].concat()
}

const UDP: [u8; 12] = [0x12, 0x34, 0, 53, 0, 12, 0, 0, 1, 2, 3, 4];

#[test]
fn a_udp_packet_with_every_number_of_tags() {
    let customer = (ETHERTYPE_CUSTOMER_TAG, 0xb123);
    let service = (ETHERTYPE_SERVICE_TAG, 0x0456);
    for (tags, vlan) in [
        (&[][..], 0),
        (&[customer], 0x123),
        (&[service], 0),
        (&[customer, customer], 0x123),
        (&[service, customer], 0),
    ] {
        let headers = parse(&ethernet(tags, ETHERTYPE_IPV4, &ipv4(0, false, &UDP)));
        let l3 = 14 + 4 * tags.len() as u8;
        let found = [headers.outer, headers.inner];
        for (place, found) in found.iter().enumerate() {
            let found = found.map(|tag| {
                let kind = [ETHERTYPE_CUSTOMER_TAG, ETHERTYPE_SERVICE_TAG];
                (kind[usize::from(tag.is_service())], tag.tci())
            });
            assert_eq!(found, tags.get(place).copied());
        }
        assert_eq!(headers.vlan, vlan);
        assert_eq!(headers.vlan_tag().map_or(0, Tag::vid), vlan);
        assert_eq!(headers.ethertype, ETHERTYPE_IPV4);
        assert_eq!(headers.destination, mac(DESTINATION));
        assert_eq!(headers.source, mac(SOURCE));
        assert_eq!((headers.l3_offset, headers.l4_offset), (l3, l3 + 20));
        assert_eq!(headers.source_ip, [0x0a01_0203, 0]);
        assert_eq!(headers.destination_ip, [0x0a09_0807, 0]);
        assert_eq!(headers.protocol, Some(PROTOCOL_UDP));
        let ports = Some(Ports {
            source: 0x1234,
            destination: 53,
        });
        assert_eq!(headers.ports, ports);
        assert_eq!(headers.hidden, Hidden::Nothing);
    }
    let tag = Tag::customer(0xb123);
    assert_eq!((tag.pcp(), tag.dei(), tag.vid()), (5, true, 0x123));
}

#[test]
fn a_third_tag_hides_everything_behind() {
    let tag = (ETHERTYPE_CUSTOMER_TAG, 1);
    let headers = parse(&ethernet(&[tag; 3], ETHERTYPE_IPV4, &ipv4(0, false, &UDP)));
    assert_eq!(headers.hidden, Hidden::Everything);
    assert_eq!((headers.ip_version, headers.protocol), (0, None));
    // A tag without anything behind it is none.
    let frame = ethernet(&[], ETHERTYPE_CUSTOMER_TAG, &[0, 1]);
    let headers = parse(&frame);
    assert_eq!((headers.outer, headers.hidden), (None, Hidden::Everything));
}

#[test]
fn encapsulations_that_are_not_parsed_hide_everything() {
    let packet = ipv4(0, false, &UDP);
    // LLC with SNAP (RFC 1042), and LLC alone (RFC 948, IEEE 802.2).
    let snap = [&[0xaa, 0xaa, 3, 0, 0, 0, 8, 0][..], &packet].concat();
    let llc = [&[6, 6, 3][..], &packet].concat();
    for tags in [
        &[][..],
        &[(ETHERTYPE_CUSTOMER_TAG, 0)],
        &[(ETHERTYPE_SERVICE_TAG, 5)],
        &[(ETHERTYPE_CUSTOMER_TAG, 0), (ETHERTYPE_CUSTOMER_TAG, 20)],
    ] {
        let hidden = |kind, packet: &[u8]| {
            let headers = parse(&ethernet(tags, kind, packet));
            assert_eq!((headers.ip_version, headers.protocol), (0, None));
            headers.hidden
        };
        for length in [0, 45, snap.len() as u16, 1500, 1501, 1535] {
            for packet in [&snap, &llc] {
                assert_eq!(hidden(length, packet), Hidden::Everything, "{length}");
            }
        }
        for kind in [
            0x8870, 0x9100, 0x9200, 0x9300, 0x8864, 0x8847, 0x8848, 0x88e7, 0x88e5, 0x893f, 0x8926,
            0x6558, 0x894f, 0x892f, 0xf1c1,
        ] {
            assert_eq!(hidden(kind, &packet), Hidden::Everything, "{kind:x}");
        }
        // Protocols that carry no other packet.
        for kind in [
            0x600, 0x0806, 0x88cc, 0x88b5, 0x8863, 0x8808, 0x88f7, 0xffff,
        ] {
            assert_eq!(hidden(kind, &packet), Hidden::Nothing, "{kind:x}");
        }
    }
}

#[test]
fn a_further_tag_is_one_besides_the_first_customer_tag() {
    let (customer, service) = (ETHERTYPE_CUSTOMER_TAG, ETHERTYPE_SERVICE_TAG);
    let has = |tags: &[(u16, u16)], kind| parse(&ethernet(tags, kind, &UDP)).has_further_tag();
    for kind in [ETHERTYPE_IPV4, 0x0806, 46, 0x8847] {
        assert!(!has(&[], kind));
        assert!(!has(&[(customer, 0)], kind));
        assert!(!has(&[(customer, 0xa005)], kind));
        assert!(has(&[(service, 5)], kind));
        for second in [customer, service] {
            assert!(has(&[(customer, 0), (second, 0)], kind));
            assert!(has(&[(customer, 0), (second, 0), (customer, 5)], kind));
        }
    }
    for kind in [
        customer, service, 0x9100, 0x9200, 0x9300, 0x88e7, 0x893f, 0x8926,
    ] {
        // Such a tag, of which there is nothing more.
        for packet in [&[][..], &[0, 5]] {
            assert!(parse(&ethernet(&[], kind, packet)).has_further_tag());
            let behind = ethernet(&[(customer, 0)], kind, packet);
            assert!(parse(&behind).has_further_tag(), "{kind:x}");
        }
    }
}

#[test]
fn fragments_have_ports_only_in_the_first() {
    let whole = parse(&ethernet(&[], ETHERTYPE_IPV4, &ipv4(0, false, &UDP)));
    let first = parse(&ethernet(&[], ETHERTYPE_IPV4, &ipv4(0, true, &UDP)));
    let later = parse(&ethernet(&[], ETHERTYPE_IPV4, &ipv4(1, true, &UDP)));
    let last = parse(&ethernet(&[], ETHERTYPE_IPV4, &ipv4(0x1fff, false, &UDP)));
    assert_eq!(whole.fragment, Fragment::Whole);
    assert_eq!(
        (first.fragment, first.ports),
        (Fragment::First, whole.ports)
    );
    for later in [&later, &last] {
        assert_eq!((later.fragment, later.ports), (Fragment::Later, None));
        assert_eq!(later.protocol, Some(PROTOCOL_UDP));
        assert_eq!(later.hidden, Hidden::Nothing);
        assert_eq!(later.flow_hash(KEY), first.flow_hash(KEY));
    }
}

#[test]
fn extension_headers_are_skipped_up_to_a_number() {
    // Destination options of 16 bytes, each followed by the next.
    let options = |next: u8| {
        [
            [next, 1],
            [0; 2],
            [0; 2],
            [0; 2],
            [0; 2],
            [0; 2],
            [0; 2],
            [0; 2],
        ]
        .concat()
    };
    for count in 0..=MAX_EXTENSIONS + 1 {
        let mut rest = Vec::new();
        for number in 0..count {
            let next = if number + 1 == count {
                PROTOCOL_UDP
            } else {
                DESTINATION_OPTIONS
            };
            rest.extend(options(next));
        }
        rest.extend(UDP);
        let next = if count == 0 {
            PROTOCOL_UDP
        } else {
            DESTINATION_OPTIONS
        };
        // The checksum may lie behind the snapshot, the ports may not.
        let headers = parse(&ethernet(&[], ETHERTYPE_IPV6, &ipv6(next, &rest)));
        assert_eq!(
            headers.source_ip,
            [0x0001_0203_0405_0607, 0x0809_0a0b_0c0d_0e0f]
        );
        assert_eq!(
            headers.destination_ip,
            [0xf0f1_f2f3_f4f5_f6f7, 0xf8f9_fafb_fcfd_feff]
        );
        if count <= MAX_EXTENSIONS {
            assert_eq!(headers.protocol, Some(PROTOCOL_UDP), "{count}");
            assert_eq!(headers.l4_offset as usize, 54 + 16 * count);
            assert_eq!(headers.ports.map(|ports| ports.destination), Some(53));
            assert_eq!(headers.hidden, Hidden::Nothing);
        } else {
            assert_eq!((headers.protocol, headers.ports), (None, None));
            assert_eq!(headers.hidden, Hidden::Transport);
        }
    }
}

#[test]
fn ipv6_fragments_and_routing() {
    let fragment = |offset: u16, more: bool| {
        // RFC 8200 "Fragment Header": the offset in the high 13 bits, M lowest. (etherparse 0.19
        // has both elsewhere.)
        let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
        let rest = [&[PROTOCOL_UDP, 0, high, low, 0, 0, 0, 7][..], &UDP].concat();
        parse(&ethernet(&[], ETHERTYPE_IPV6, &ipv6(FRAGMENT, &rest)))
    };
    assert_eq!(fragment(0, false).fragment, Fragment::Whole);
    assert_eq!(fragment(0, true).fragment, Fragment::First);
    assert!(fragment(0, true).ports.is_some());
    assert_eq!(fragment(3, true).fragment, Fragment::Later);
    assert_eq!(fragment(3, true).ports, None);
    assert_eq!(fragment(3, false).protocol, Some(PROTOCOL_UDP));
    let rest = [&[PROTOCOL_UDP, 0, 0, 0, 0, 0, 0, 0][..], &UDP].concat();
    let routed = parse(&ethernet(&[], ETHERTYPE_IPV6, &ipv6(ROUTING, &rest)));
    assert!(routed.routed && routed.ports.is_some());
    // The authentication header's length counts in words of four bytes, less two.
    let rest = [&[PROTOCOL_UDP, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &UDP].concat();
    let signed = parse(&ethernet(&[], ETHERTYPE_IPV6, &ipv6(AUTHENTICATION, &rest)));
    assert_eq!((signed.l4_offset, signed.ports.is_some()), (66, true));
}

#[test]
fn what_contradicts_itself_is_hidden() {
    let good = ethernet(&[], ETHERTYPE_IPV4, &ipv4(0, false, &UDP));
    let changed = |at: usize, value: u8| {
        let mut frame = good.clone();
        frame[at] = value;
        parse(&frame)
    };
    // Header too short, wrong version, more than the frame has, less than the header.
    assert_eq!(changed(14, 0x44).hidden, Hidden::Network);
    assert_eq!(changed(14, 0x65).hidden, Hidden::Network);
    assert_eq!(changed(17, 33).hidden, Hidden::Transport);
    assert_eq!(changed(17, 19).hidden, Hidden::Transport);
    // Ports that the length does not include are padding.
    let padded = changed(17, 23);
    assert_eq!((padded.protocol, padded.ports), (Some(PROTOCOL_UDP), None));
    assert_eq!(padded.hidden, Hidden::Transport);
    assert_eq!(changed(17, 24).hidden, Hidden::Nothing);
    // A header that claims to be longer than it is.
    assert_eq!(changed(14, 0x4f).hidden, Hidden::Transport);
    for cut in 14..34 {
        assert_eq!(parse(&good[..cut]).hidden, Hidden::Network, "{cut}");
    }
    // ICMP needs no ports to be fully known.
    assert_eq!(changed(23, 1).hidden, Hidden::Nothing);
    assert_eq!(changed(23, 1).ports, None);
}

#[test]
fn the_hash_depends_on_every_part_and_on_the_key() {
    let mut hashes = std::collections::HashSet::new();
    let frame = ethernet(&[], ETHERTYPE_IPV4, &ipv4(0, false, &UDP));
    hashes.insert(parse(&frame).flow_hash(KEY));
    hashes.insert(parse(&frame).flow_hash([KEY[1], KEY[0]]));
    // Last byte of each address, protocol, ports.
    for at in [29, 33, 34, 35, 36, 37] {
        let mut frame = frame.clone();
        frame[at] ^= 1;
        hashes.insert(parse(&frame).flow_hash(KEY));
    }
    let mut frame = frame.clone();
    frame[23] = PROTOCOL_TCP;
    hashes.insert(parse(&frame).flow_hash(KEY));
    assert_eq!(hashes.len(), 9);
    // Without layer 3: stations.
    let arp = |last: u8| {
        let mut frame = ethernet(&[], 0x0806, &[0; 46]);
        frame[11] = last;
        parse(&frame).flow_hash(KEY)
    };
    assert_ne!(arp(1), arp(2));
}

#[test]
fn flows_spread_over_queues() {
    let mut queues = [0u32; 8];
    for port in 0..8000u16 {
        let mut udp = UDP;
        udp[..2].copy_from_slice(&port.to_be_bytes());
        let frame = ethernet(&[], ETHERTYPE_IPV4, &ipv4(0, false, &udp));
        queues[parse(&frame).flow_hash(KEY) as usize % 8] += 1;
    }
    assert!(
        queues.iter().all(|count| (800..1200).contains(count)),
        "{queues:?}"
    );
}

/// Frames that etherparse builds, with any tags, IP version, protocol, ports and payload.
fn built() -> impl Strategy<Value = Vec<u8>> {
    let addresses = (any::<[u8; 16]>(), any::<[u8; 16]>());
    let tag = prop::option::of((0u16..4096, prop::option::of(0u16..4096)));
    let payload = prop::collection::vec(any::<u8>(), 0..200);
    (
        tag,
        any::<bool>(),
        addresses,
        any::<bool>(),
        any::<[u16; 2]>(),
        payload,
    )
        .prop_map(|(tag, six, (source, destination), tcp, ports, payload)| {
            let ethernet = PacketBuilder::ethernet2(SOURCE, DESTINATION);
            let four = |address: [u8; 16]| [address[0], address[1], address[2], address[3]];
            let vid = |vid| etherparse::VlanId::try_new(vid).unwrap();
            macro_rules! rest {
                ($builder:expr) => {{
                    let builder = if six {
                        $builder.ipv6(source, destination, 64)
                    } else {
                        $builder.ipv4(four(source), four(destination), 64)
                    };
                    let mut frame = Vec::new();
                    if tcp {
                        let builder = builder.tcp(ports[0], ports[1], 1, 1000).syn().psh();
                        builder.write(&mut frame, &payload).unwrap();
                    } else {
                        let builder = builder.udp(ports[0], ports[1]);
                        builder.write(&mut frame, &payload).unwrap();
                    }
                    frame
                }};
            }
            match tag {
                None => rest!(ethernet),
                Some((outer, None)) => rest!(ethernet.single_vlan(vid(outer))),
                Some((outer, Some(inner))) => rest!(ethernet.double_vlan(vid(outer), vid(inner))),
            }
        })
}

/// Compares all fields that the two parsers must agree on.
fn compare(frame: &[u8]) {
    let ours = parse(frame);
    let theirs = SlicedPacket::from_ethernet(frame).unwrap();
    let ethernet = match &theirs.link {
        Some(etherparse::LinkSlice::Ethernet2(ethernet)) => ethernet,
        other => panic!("{other:?}"),
    };
    assert_eq!(ours.destination, mac(ethernet.destination()));
    assert_eq!(ours.source, mac(ethernet.source()));
    let vids: Vec<u16> = [ours.outer, ours.inner]
        .iter()
        .flatten()
        .map(|tag| tag.vid())
        .collect();
    let their_vids = theirs.vlan_ids();
    assert_eq!(
        vids,
        their_vids.iter().map(|vid| vid.value()).collect::<Vec<_>>()
    );
    let number = |address: [u8; 16]| {
        let address = u128::from_be_bytes(address);
        [(address >> 64) as u64, address as u64]
    };
    match theirs.net.as_ref().unwrap() {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            assert_eq!(
                ours.source_ip,
                [u64::from(u32::from_be_bytes(header.source())), 0]
            );
            let destination = u64::from(u32::from_be_bytes(header.destination()));
            assert_eq!(ours.destination_ip, [destination, 0]);
        }
        NetSlice::Ipv6(ip) => {
            assert_eq!(ours.source_ip, number(ip.header().source()));
            assert_eq!(ours.destination_ip, number(ip.header().destination()));
        }
        other => panic!("{other:?}"),
    }
    let (ports, header) = match theirs.transport.as_ref().unwrap() {
        TransportSlice::Udp(udp) => {
            assert_eq!(ours.protocol, Some(PROTOCOL_UDP));
            ((udp.source_port(), udp.destination_port()), udp.slice())
        }
        TransportSlice::Tcp(tcp) => {
            assert_eq!(ours.protocol, Some(PROTOCOL_TCP));
            assert_eq!(ours.tcp_flags, Some(tcp.slice()[13]));
            ((tcp.source_port(), tcp.destination_port()), tcp.slice())
        }
        other => panic!("{other:?}"),
    };
    let (source, destination) = ports;
    assert_eq!(
        ours.ports,
        Some(Ports {
            source,
            destination
        })
    );
    let offset = header.as_ptr() as usize - frame.as_ptr() as usize;
    assert_eq!(ours.l4_offset as usize, offset);
    assert_eq!(ours.hidden, Hidden::Nothing);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_etherparse_builds(frame in built()) {
        compare(&frame);
    }

    /// Whatever the bytes are, fields that are known lie in the frame, and cutting adds none.
    #[test]
    fn any_bytes(mut frame in built(), changes in prop::collection::vec((0usize..100, any::<u8>()), 0..6), cut in 0usize..300) {
        for (at, value) in changes {
            let at = at % frame.len();
            frame[at] = value;
        }
        let all = parse(&frame);
        frame.truncate(cut);
        let headers = parse(&frame);
        let _ = headers.flow_hash(KEY);
        prop_assert!(headers.l4_offset as usize <= frame.len().min(128));
        if headers.ports.is_some() {
            prop_assert!(headers.l4_offset as usize + 4 <= frame.len());
            prop_assert_eq!(headers.ports, all.ports);
        }
        if headers.ip_version != 0 && headers.hidden < Hidden::Network {
            prop_assert_eq!(headers.source_ip, all.source_ip);
        }
        if headers.protocol.is_some_and(has_ports) && headers.ports.is_none() {
            prop_assert!(headers.fragment == Fragment::Later || headers.hidden >= Hidden::Transport);
        }
    }

    #[test]
    fn noise(frame in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&frame).flow_hash(KEY);
    }
}
