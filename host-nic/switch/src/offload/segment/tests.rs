use etherparse::{
    EtherType, IpNumber, Ipv4Header, Ipv4Options, Ipv6FlowLabel, Ipv6Header, TcpHeader, UdpHeader,
};
use proptest::prelude::*;

use super::*;
use crate::policy::snapshot::tests::{snapshot, word};

/// The headers of a frame, from which etherparse builds it.
#[derive(Clone, Debug)]
struct Model {
    tags: Vec<u16>,
    ip: Ip,
    transport: Transport,
}

#[derive(Clone, Debug)]
enum Ip {
    Four(Ipv4Header),
    /// IPv6, with a destination options header of this many bytes, if not zero.
    Six(Ipv6Header, u8),
}

#[derive(Clone, Debug)]
enum Transport {
    Tcp(TcpHeader),
    Udp(UdpHeader),
}

impl Model {
    /// The frame with this payload, with all lengths and checksums right.
    fn build(&self, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        for tci in &self.tags {
            frame.extend([0x81, 0x00]);
            frame.extend(tci.to_be_bytes());
        }
        let mut transport = self.transport.clone();
        let head = match &transport {
            Transport::Tcp(tcp) => tcp.header_len(),
            Transport::Udp(_) => 8,
        };
        let length = head + payload.len();
        if let Transport::Udp(udp) = &mut transport {
            udp.length = length as u16;
        }
        let protocol = match &transport {
            Transport::Tcp(_) => IpNumber::TCP,
            Transport::Udp(_) => IpNumber::UDP,
        };
        match &self.ip {
            Ip::Four(ip) => {
                let mut ip = ip.clone();
                ip.protocol = protocol;
                ip.set_payload_len(length).unwrap();
                ip.header_checksum = ip.calc_header_checksum();
                frame.extend(EtherType::IPV4.0.to_be_bytes());
                frame.extend(&ip.to_bytes()[..]);
                match &mut transport {
                    Transport::Tcp(tcp) => {
                        tcp.checksum = tcp.calc_checksum_ipv4(&ip, payload).unwrap()
                    }
                    Transport::Udp(udp) => {
                        udp.checksum = udp.calc_checksum_ipv4(&ip, payload).unwrap()
                    }
                }
            }
            Ip::Six(ip, options) => {
                let mut ip = ip.clone();
                ip.next_header = protocol;
                match &mut transport {
                    Transport::Tcp(tcp) => {
                        tcp.checksum = tcp.calc_checksum_ipv6(&ip, payload).unwrap()
                    }
                    Transport::Udp(udp) => {
                        udp.checksum = udp.calc_checksum_ipv6(&ip, payload).unwrap()
                    }
                }
                let mut extension = Vec::new();
                if *options != 0 {
                    ip.next_header = IpNumber::IPV6_DESTINATION_OPTIONS;
                    extension = vec![1; usize::from(*options)];
                    extension[0] = protocol.0;
                    extension[1] = options / 8 - 1;
                }
                ip.payload_length = (length + extension.len()) as u16;
                frame.extend(EtherType::IPV6.0.to_be_bytes());
                frame.extend(ip.to_bytes());
                frame.extend(extension);
            }
        }
        match transport {
            Transport::Tcp(mut tcp) => {
                // Zero and all ones are equal; the code under test sends the latter.
                if tcp.checksum == 0 {
                    tcp.checksum = 0xffff;
                }
                frame.extend(&tcp.to_bytes()[..]);
            }
            Transport::Udp(udp) => frame.extend(udp.to_bytes()),
        }
        frame.extend(payload);
        frame
    }

    /// The frames that a host without offload would send: each chunk by itself.
    fn cut(&self, payload: &[u8], size: usize) -> Vec<Vec<u8>> {
        let count = payload.len().div_ceil(size);
        let chunks = payload.chunks(size).enumerate();
        let build = |(number, chunk): (usize, &[u8])| {
            let mut model = self.clone();
            if let Ip::Four(ip) = &mut model.ip {
                ip.identification = ip.identification.wrapping_add(number as u16);
            }
            if let Transport::Tcp(tcp) = &mut model.transport {
                tcp.sequence_number = tcp.sequence_number.wrapping_add((number * size) as u32);
                tcp.cwr &= number == 0;
                tcp.fin &= number + 1 == count;
                tcp.psh &= number + 1 == count;
            }
            model.build(chunk)
        };
        chunks.map(build).collect()
    }

    fn offload(&self, size: u16) -> Offload {
        let (l4, offset, tcp) = match &self.transport {
            Transport::Tcp(tcp) => (tcp.header_len(), 16, true),
            Transport::Udp(_) => (8, 6, false),
        };
        let gso_type = match (&self.ip, tcp) {
            (_, false) => GSO_UDP_L4,
            (Ip::Four(_), true) => GSO_TCPV4,
            (Ip::Six(..), true) => GSO_TCPV6,
        };
        Offload {
            flags: NEEDS_CSUM,
            gso_type,
            gso_size: size,
            csum_start: (self.build(&[]).len() - l4) as u16,
            csum_offset: offset,
        }
    }
}

fn model() -> impl Strategy<Value = Model> {
    let four = (
        any::<[u8; 4]>(),
        any::<[u8; 4]>(),
        any::<u16>(),
        any::<bool>(),
        0usize..=10,
    )
        .prop_map(
            |(source, destination, identification, dont_fragment, options)| {
                let mut ip = Ipv4Header::new(0, 64, IpNumber::TCP, source, destination).unwrap();
                ip.identification = identification;
                ip.dont_fragment = dont_fragment;
                ip.options = Ipv4Options::try_from(&[1u8; 40][..4 * options]).unwrap();
                Ip::Four(ip)
            },
        );
    let six = (any::<[u8; 16]>(), any::<[u8; 16]>(), 0u8..2).prop_map(
        |(source, destination, options)| {
            let ip = Ipv6Header {
                traffic_class: 3,
                flow_label: Ipv6FlowLabel::try_new(0x1_2345).unwrap(),
                payload_length: 0,
                next_header: IpNumber::TCP,
                hop_limit: 64,
                source,
                destination,
            };
            Ip::Six(ip, 8 * options)
        },
    );
    let tcp = (
        any::<[u16; 3]>(),
        any::<[u32; 2]>(),
        any::<[bool; 6]>(),
        0usize..=8,
    )
        .prop_map(|(ports, numbers, flags, options)| {
            let mut tcp = TcpHeader::new(ports[0], ports[1], numbers[0], ports[2]);
            tcp.acknowledgment_number = numbers[1];
            [tcp.fin, tcp.psh, tcp.cwr, tcp.ece, tcp.ack, tcp.ns] = flags;
            tcp.set_options_raw(&[1; 32][..4 * options]).unwrap();
            Transport::Tcp(tcp)
        });
    let udp = any::<[u16; 2]>().prop_map(|ports| {
        Transport::Udp(UdpHeader {
            source_port: ports[0],
            destination_port: ports[1],
            length: 0,
            checksum: 0,
        })
    });
    let tags = prop::collection::vec(any::<u16>(), 0..=2);
    (tags, prop_oneof![four, six], prop_oneof![tcp, udp])
        .prop_map(|(tags, ip, transport)| Model {
            tags,
            ip,
            transport,
        })
        .prop_filter("headers fit into a snapshot", |model| {
            model.build(&[]).len() <= 128
        })
}

fn cut(frame: &[u8], offload: Offload, partial: bool) -> Result<Vec<Vec<u8>>, Refused> {
    let snapshot = snapshot(frame);
    let headers = Headers::parse(&snapshot);
    let shape = Shape::check(&snapshot, &headers, offload)?;
    let mut segments = Segments::new(&snapshot, shape);
    let mut frames = Vec::new();
    while let Some(Payload { offset, length }) = segments.advance() {
        let (from, to) = (offset, offset + length);
        if partial {
            segments.finish_partial();
        } else {
            segments.finish(
                segments
                    .sum()
                    .add_range(from, to, |index| word(frame, index)),
            );
        }
        let mut bytes: Vec<u8> = segments
            .header()
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        let rest = bytes.split_off(segments.header_length() as usize);
        assert!(rest.iter().all(|byte| *byte == 0));
        bytes.extend(&frame[from as usize..to as usize]);
        frames.push(bytes);
        assert!(frames.len() <= MAX_SEGMENTS as usize);
    }
    Ok(frames)
}

fn tcp4() -> (Model, Vec<u8>) {
    let ip = Ipv4Header::new(0, 64, IpNumber::TCP, [10, 0, 0, 1], [10, 0, 0, 2]).unwrap();
    let mut tcp = TcpHeader::new(1000, 80, 0xffff_fff0, 512);
    tcp.ack = true;
    let model = Model {
        tags: vec![],
        ip: Ip::Four(ip),
        transport: Transport::Tcp(tcp),
    };
    let payload = (0..3000u32).map(|number| number as u8).collect();
    (model, payload)
}

#[test]
fn lies_are_refused() {
    let (model, payload) = tcp4();
    let good = model.offload(1000);
    let frame = model.build(&payload);
    assert_eq!(cut(&frame, good, false).unwrap().len(), 3);
    let with = |change: fn(&mut Offload)| {
        let mut offload = good;
        change(&mut offload);
        cut(&frame, offload, false).unwrap_err()
    };
    assert_eq!(with(|o| o.gso_type = GSO_NONE), Refused::Type);
    assert_eq!(with(|o| o.gso_type = 3), Refused::Type);
    assert_eq!(with(|o| o.gso_type = GSO_UDP_L4 | GSO_ECN), Refused::Type);
    assert_eq!(with(|o| o.gso_type = GSO_ECN), Refused::Type);
    assert_eq!(with(|o| o.gso_type = GSO_TCPV6), Refused::Headers);
    assert_eq!(with(|o| o.gso_type = GSO_UDP_L4), Refused::Headers);
    assert_eq!(with(|o| o.gso_size = 0), Refused::Size);
    assert_eq!(with(|o| o.gso_size = 11), Refused::Size);
    assert_eq!(with(|o| o.flags = 2), Refused::Checksum);
    assert_eq!(with(|o| o.csum_start = 35), Refused::Checksum);
    assert_eq!(with(|o| o.csum_start = u16::MAX), Refused::Checksum);
    assert_eq!(with(|o| o.csum_offset = 6), Refused::Checksum);
    let ecn = Offload {
        gso_type: GSO_TCPV4 | GSO_ECN,
        ..good
    };
    assert_eq!(cut(&frame, ecn, false), cut(&frame, good, false));
    let least = Offload {
        gso_size: 12,
        ..good
    };
    assert_eq!(cut(&frame, least, false).unwrap().len(), 250);

    let changed = |at: usize, value: u8| {
        let mut frame = frame.clone();
        frame[at] = value;
        cut(&frame, good, false).unwrap_err()
    };
    assert_eq!(changed(17, frame[17] - 1), Refused::Length);
    assert_eq!(
        changed(17, frame[17] + 1),
        Refused::Headers,
        "longer than the frame"
    );
    assert_eq!(changed(20, 0x20), Refused::Headers, "a fragment");
    assert_eq!(changed(23, 17), Refused::Headers, "UDP");
    assert_eq!(changed(46, 0x40), Refused::Tcp, "header of 16 bytes");
    assert_eq!(changed(47, 0x12), Refused::Tcp, "SYN");
    assert_eq!(changed(47, 0x14), Refused::Tcp, "RST");
    assert_eq!(
        cut(&model.build(&[]), good, false).unwrap_err(),
        Refused::Empty
    );
    assert_eq!(
        cut(&frame[..50], good, false).unwrap_err(),
        Refused::Headers
    );
    assert_eq!(
        cut(&[frame, vec![0]].concat(), good, false).unwrap_err(),
        Refused::Length
    );
}

#[test]
fn udp_lengths_and_routing_headers() {
    let (mut model, payload) = tcp4();
    model.transport = Transport::Udp(UdpHeader {
        source_port: 1,
        destination_port: 2,
        length: 0,
        checksum: 0,
    });
    let mut frame = model.build(&payload);
    assert_eq!(cut(&frame, model.offload(1000), false).unwrap().len(), 3);
    frame[39] ^= 1;
    assert_eq!(
        cut(&frame, model.offload(1000), false).unwrap_err(),
        Refused::Length
    );

    let ip = Ipv6Header {
        next_header: IpNumber::UDP,
        ..Ipv6Header::default()
    };
    model.ip = Ip::Six(ip, 8);
    let mut frame = model.build(&payload);
    assert_eq!(cut(&frame, model.offload(1000), false).unwrap().len(), 3);
    // These bytes as a routing header: the pseudo-header has another address then.
    frame[20] = 43;
    assert_eq!(
        cut(&frame, model.offload(1000), false).unwrap_err(),
        Refused::Headers
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_a_host_would_send(model in model(), size in 1u16..2000, length in 1usize..9000, seed: u8) {
        let length = length.min(usize::from(size) * MAX_SEGMENTS as usize);
        let payload: Vec<u8> = (0..length).map(|at| (at as u8).wrapping_mul(seed) ^ (at >> 8) as u8).collect();
        let frame = model.build(&payload);
        let ours = cut(&frame, model.offload(size), false).unwrap();
        let expected = model.cut(&payload, usize::from(size));
        prop_assert_eq!(&ours, &expected);

        let snapshot = snapshot(&frame);
        let headers = Headers::parse(&snapshot);
        let shape = Shape::check(&snapshot, &headers, model.offload(size)).unwrap();
        prop_assert_eq!(shape.longest() as usize, expected[0].len());
        prop_assert_eq!(shape.header_length() as usize, frame.len() - length);

        // A frame with the sum of the pseudo-header alone, finished, is equal.
        let offload = model.offload(size);
        for (mut partial, expected) in cut(&frame, offload, true).unwrap().into_iter().zip(expected) {
            use crate::offload::checksum::Partial;
            let rest = Partial::new(offload.csum_start, offload.csum_offset, partial.len() as u32).unwrap();
            let checksum = rest.finish(|index| word(&partial, index));
            let place = rest.place() as usize;
            partial[place..place + 2].copy_from_slice(&checksum.to_le_bytes());
            prop_assert_eq!(partial, expected);
        }
    }

    /// Whatever a guest writes, cutting ends, and every payload lies in the frame.
    #[test]
    fn any_fields(
        model in model(),
        length in 0usize..3000,
        changes in prop::collection::vec((0usize..120, any::<u8>()), 0..4),
        gso_type in prop::sample::select(vec![0u8, 1, 3, 4, 5, 0x81, 0x84, 0x85]),
        gso_size: u16,
        honest: bool,
    ) {
        let mut frame = model.build(&vec![7; length]);
        for (at, value) in changes {
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        let mut offload = model.offload(gso_size);
        if !honest {
            offload.gso_type = gso_type;
        }
        if let Ok(frames) = cut(&frame, offload, false) {
            let header = frames[0].len().min(frame.len());
            prop_assert!(header <= frame.len());
            let whole: usize = frames.iter().map(Vec::len).sum();
            prop_assert!(whole >= frame.len());
        }
    }
}

/// The longest packet that the fields can describe has 65535 bytes of IP.
#[test]
fn the_largest_datagram() {
    let (model, _) = tcp4();
    let payload = vec![0x5a; 65_535 - 40];
    let frame = model.build(&payload);
    for size in [256, 1448, 65_495, 65_535] {
        let expected = model.cut(&payload, usize::from(size));
        assert_eq!(cut(&frame, model.offload(size), false).unwrap(), expected);
    }
    assert_eq!(
        cut(&frame, model.offload(255), false).unwrap_err(),
        Refused::Size
    );
}
