//! Frames for tests, built by etherparse.

use etherparse::{
    IpHeaders, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, PacketBuilder, TcpHeader,
};
use postern_abi::window::{FLAG_NEEDS_CSUM, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, RecordHeader};

/// A payload whose bytes follow from a seed.
pub fn payload(length: usize, seed: u64) -> Vec<u8> {
    let mut word = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        (word >> 32) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// A frame of a protocol for experiments (IEEE 802 "Local Experimental EtherType").
pub fn frame(to: [u8; 6], from: [u8; 6], length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = [&to[..], &from, &[0x88, 0xb5]].concat();
    bytes.extend(payload(length - 14, seed));
    bytes
}

/// The frame with a customer tag put in behind the addresses.
pub fn tagged(frame: &[u8], tci: u16) -> Vec<u8> {
    with_tag(frame, 0x8100, tci)
}

/// The frame with a tag of this EtherType put in behind the addresses.
pub fn with_tag(frame: &[u8], kind: u16, tci: u16) -> Vec<u8> {
    let mut bytes = frame.to_vec();
    let [a, b] = kind.to_be_bytes();
    let [c, d] = tci.to_be_bytes();
    bytes.splice(12..12, [a, b, c, d]);
    bytes
}

/// The frame without its first tag.
pub fn untagged(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &frame[16..]].concat()
}

/// A UDP datagram over IPv4 with this many bytes of payload, with all checksums right.
pub fn udp(to: [u8; 6], from: [u8; 6], ports: (u16, u16), length: usize, seed: u64) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(from, to)
        .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .udp(ports.0, ports.1);
    let mut bytes = Vec::new();
    builder.write(&mut bytes, &payload(length, seed)).unwrap();
    bytes
}

/// The kind of packets of a [`Flow`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Tcp4,
    Tcp6,
    Udp4,
    Udp6,
}

pub const KINDS: [Kind; 4] = [Kind::Tcp4, Kind::Tcp6, Kind::Udp4, Kind::Udp6];

/// Packets of a flow, large and small.
#[derive(Clone, Debug)]
pub struct Flow {
    pub kind: Kind,
    pub to: [u8; 6],
    pub from: [u8; 6],
    pub tag: Option<u16>,
    pub ports: (u16, u16),
    pub sequence: u32,
    pub identification: u16,
}

impl Flow {
    pub fn new(kind: Kind, to: [u8; 6], from: [u8; 6]) -> Flow {
        Flow {
            kind,
            to,
            from,
            tag: None,
            ports: (40_000, 443),
            sequence: 0xffff_f000,
            identification: 0xfffe,
        }
    }

    pub fn is_tcp(&self) -> bool {
        matches!(self.kind, Kind::Tcp4 | Kind::Tcp6)
    }

    fn is_four(&self) -> bool {
        matches!(self.kind, Kind::Tcp4 | Kind::Udp4)
    }

    /// The frame of segment `number` of `last + 1`, whose payload begins at `offset` of the whole
    /// one.
    fn segment(&self, payload: &[u8], number: usize, last: usize, offset: usize) -> Vec<u8> {
        let ip = if self.is_four() {
            let protocol = if self.is_tcp() {
                IpNumber::TCP
            } else {
                IpNumber::UDP
            };
            let mut ip = Ipv4Header::new(0, 64, protocol, [10, 0, 0, 1], [10, 0, 0, 2]).unwrap();
            ip.identification = self.identification.wrapping_add(number as u16);
            IpHeaders::Ipv4(ip, Default::default())
        } else {
            let mut address = [0x20; 16];
            let source = address;
            address[15] = 9;
            let ip = Ipv6Header {
                traffic_class: 3,
                flow_label: Ipv6FlowLabel::try_new(77).unwrap(),
                payload_length: 0,
                next_header: if self.is_tcp() {
                    IpNumber::TCP
                } else {
                    IpNumber::UDP
                },
                hop_limit: 64,
                source,
                destination: address,
            };
            IpHeaders::Ipv6(ip, Default::default())
        };
        let builder = PacketBuilder::ethernet2(self.from, self.to).ip(ip);
        let mut bytes = Vec::new();
        if self.is_tcp() {
            let sequence = self.sequence.wrapping_add(offset as u32);
            let mut tcp = TcpHeader::new(self.ports.0, self.ports.1, sequence, 5000);
            tcp.ack = true;
            tcp.acknowledgment_number = 4711;
            tcp.cwr = number == 0;
            tcp.psh = number == last;
            tcp.fin = number == last;
            tcp.set_options_raw(&[1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8])
                .unwrap();
            builder.tcp_header(tcp).write(&mut bytes, payload).unwrap();
        } else {
            builder
                .udp(self.ports.0, self.ports.1)
                .write(&mut bytes, payload)
                .unwrap();
        }
        match self.tag {
            Some(tci) => tagged(&bytes, tci),
            None => bytes,
        }
    }

    /// The packet in one frame, however long that is.
    pub fn whole(&self, payload: &[u8]) -> Vec<u8> {
        self.segment(payload, 0, 0, 0)
    }

    /// The frames of a host that cuts the payload itself.
    pub fn cut(&self, payload: &[u8], size: usize) -> Vec<Vec<u8>> {
        let last = payload.len().div_ceil(size) - 1;
        let chunks = payload.chunks(size).enumerate();
        let segment = |(number, chunk)| self.segment(chunk, number, last, number * size);
        chunks.map(segment).collect()
    }

    /// Offset of the header of layer 4.
    pub fn l4(&self) -> usize {
        14 + if self.is_four() { 20 } else { 40 } + if self.tag.is_some() { 4 } else { 0 }
    }

    /// Offset of the checksum of layer 4.
    fn place(&self) -> usize {
        self.l4() + if self.is_tcp() { 16 } else { 6 }
    }

    /// The packet in one frame of a host that leaves the checksum to the NIC: with the sum of the
    /// pseudo-header in its place.
    pub fn partial(&self, payload: &[u8]) -> (RecordHeader, Vec<u8>) {
        let mut bytes = self.whole(payload);
        let (l4, place) = (self.l4(), self.place());
        // The complement of the checksum is the sum of pseudo-header and segment. Less the sum of
        // the segment, with zero in the checksum's place, that of the pseudo-header is left.
        let complete = u16::from_be_bytes([bytes[place], bytes[place + 1]]);
        bytes[place] = 0;
        bytes[place + 1] = 0;
        let pseudo = subtract(!complete, sum(&bytes[l4..]));
        bytes[place..place + 2].copy_from_slice(&pseudo.to_be_bytes());
        let header = RecordHeader {
            flags: FLAG_NEEDS_CSUM,
            csum_start: l4 as u16,
            csum_offset: (place - l4) as u16,
            ..RecordHeader::default()
        };
        (header, bytes)
    }

    /// The packet in one frame, to be cut by the NIC.
    pub fn large(&self, payload: &[u8], size: usize) -> (RecordHeader, Vec<u8>) {
        let (header, bytes) = self.partial(payload);
        let header = RecordHeader {
            gso_type: match self.kind {
                Kind::Tcp4 => GSO_TCPV4,
                Kind::Tcp6 => GSO_TCPV6,
                Kind::Udp4 | Kind::Udp6 => GSO_UDP_L4,
            },
            gso_size: size as u16,
            hdr_len: (bytes.len() - payload.len()) as u16,
            ..header
        };
        (header, bytes)
    }
}

/// The ones' complement sum of 16-bit words in network order (RFC 1071), computed the simple way.
pub fn sum(bytes: &[u8]) -> u16 {
    let mut sum: u64 = bytes
        .chunks(2)
        .map(|pair| u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u64::from(*low)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn subtract(from: u16, what: u16) -> u16 {
    let sum = u32::from(from) + u32::from(!what);
    (sum & 0xffff) as u16 + (sum >> 16) as u16
}
