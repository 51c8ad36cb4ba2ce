//! The headers of a frame: read once from hostile memory, then parsed.
//!
//! [`Snapshot`] holds the first [`SNAPSHOT_BYTES`] bytes of a frame. All that is decided is decided
//! on these bytes, and these bytes are delivered, since the sender may change its memory meanwhile.
//!
//! [`Headers::parse`] understands Ethernet II with up to two VLAN tags (IEEE 802.1Q and 802.1ad),
//! IPv4 (RFC 791), IPv6 with up to [`MAX_EXTENSIONS`] extension headers (RFC 8200), and the ports
//! of TCP, UDP, UDP-Lite, DCCP and SCTP. A field is only known if it lies in the frame, in the
//! snapshot, and in the IP packet by the packet's own length field. Fields that a sender hides (by
//! a third tag, a long chain of extension headers, a length that contradicts the frame) are not
//! guessed: [`Hidden`] says from which layer on nothing is known, so that a rule that denies can
//! match such a frame.
//!
//! Layer 2 has further ways to carry a packet, which receivers or bridges on the way may undo. All
//! of a frame is hidden that has one of them: LLC, with SNAP or without (IEEE 802.3 "Length/Type
//! field" below 0x600; IEEE 802 "SNAP"; RFC 1042), and the EtherTypes of the IEEE's registry
//! behind which another packet or frame follows, such as those of PPPoE, MPLS, backbone bridges and
//! vendors' tags. A tunnel on layer 3 or above (IP in IP, GRE, VXLAN) hides nothing: its outer
//! packet is one of that protocol, which rules can name, and ends at a host that was told to undo
//! it.

pub use super::snapshot::{SNAPSHOT_BYTES, SNAPSHOT_WORDS, Snapshot};
use crate::fdb::MAC_MASK;

/// Most IPv6 extension headers that are skipped.
pub const MAX_EXTENSIONS: usize = 4;

/// EtherType of an IEEE 802.1Q (customer) tag.
pub const ETHERTYPE_CUSTOMER_TAG: u16 = 0x8100;
/// EtherType of an IEEE 802.1ad (service) tag.
pub const ETHERTYPE_SERVICE_TAG: u16 = 0x88a8;
/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// The lowest EtherType. What is below is the length of a frame of LLC (IEEE 802.3 "Length/Type
/// field").
pub const MIN_ETHERTYPE: u16 = 0x600;

/// The EtherTypes of tags that are not parsed: three that were in use for service tags before IEEE
/// 802.1ad, that of backbone service instances (I-TAG, IEEE 802.1Q), of bridge port extenders
/// (E-TAG, IEEE 802.1BR) and its predecessor VN-Tag.
const OTHER_TAGS: [u16; 6] = [0x9100, 0x9200, 0x9300, 0x88e7, 0x893f, 0x8926];

/// Further EtherTypes behind which another packet or frame follows: TCP/IP with compressed headers
/// (RFC 1144), bridged Ethernet (NVGRE), LLC of jumbo frames, PPP, MPLS (unicast, multicast), PPPoE
/// sessions, MACsec (IEEE 802.1AE), redundancy tags (IEEE 802.1CB; HSR), congestion tags (IEEE
/// 802.1Qau), security group tags, network service headers (RFC 8300).
const ENCAPSULATIONS: [u16; 13] = [
    0x876b, 0x6558, 0x8870, 0x880b, 0x8847, 0x8848, 0x8864, 0x88e5, 0xf1c1, 0x892f, 0x22e9, 0x8909,
    0x894f,
];

/// IP protocol number of TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// IP protocol number of UDP.
pub const PROTOCOL_UDP: u8 = 17;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;

/// A VLAN tag (IEEE 802.1Q "Tag format").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    service: bool,
    tci: u16,
}

impl Tag {
    /// A customer tag (IEEE 802.1Q) with this tag control information.
    pub const fn customer(tci: u16) -> Tag {
        Tag {
            service: false,
            tci,
        }
    }

    /// A service tag (IEEE 802.1ad) with this tag control information.
    pub const fn service(tci: u16) -> Tag {
        Tag { service: true, tci }
    }

    /// Whether the tag is a service tag.
    #[inline]
    pub const fn is_service(self) -> bool {
        self.service
    }

    /// Tag control information: PCP, DEI and VID as they are sent.
    #[inline]
    pub const fn tci(self) -> u16 {
        self.tci
    }

    /// VLAN identifier, 0 to 4095; 0 is a priority tag, without a VLAN.
    #[inline]
    pub const fn vid(self) -> u16 {
        self.tci & 0xfff
    }

    /// Priority code point, 0 to 7.
    #[inline]
    pub const fn pcp(self) -> u8 {
        (self.tci >> 13) as u8
    }

    /// Drop eligible indicator.
    #[inline]
    pub const fn dei(self) -> bool {
        self.tci & 0x1000 != 0
    }
}

/// The part of a datagram that a packet is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fragment {
    /// The whole datagram.
    #[default]
    Whole,
    /// The first fragment of several, with the header of layer 4.
    First,
    /// A later fragment, without the header of layer 4.
    Later,
}

/// The layer from which on the headers are hidden: they are there, or claim to be, but could not be
/// read. Each value includes those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hidden {
    /// Every header that is there is known.
    #[default]
    Nothing,
    /// Protocol and ports may be unknown.
    Transport,
    /// IP addresses are unknown.
    Network,
    /// EtherType and packet are unknown: the frame has more tags than are parsed, or is of another
    /// encapsulation.
    Everything,
}

/// The ports of layer 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Source port.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
}

/// The fields of a frame's headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// Destination address, first byte lowest.
    pub destination: u64,
    /// Source address, first byte lowest.
    pub source: u64,
    /// Source address of layer 3: an IPv6 address as the number's high and low half, an IPv4
    /// address as a number and zero.
    pub source_ip: [u64; 2],
    /// Destination address of layer 3, in the form of `source_ip`.
    pub destination_ip: [u64; 2],
    /// VLAN of the frame. [`Headers::parse`] takes it from [`Headers::vlan_tag`], 0 without one. A
    /// switch that classifies by port writes its own here before rules are applied.
    pub vlan: u16,
    /// EtherType behind the tags.
    pub ethertype: u16,
    /// The first tag, of either kind.
    pub outer: Option<Tag>,
    /// The second tag, of either kind.
    pub inner: Option<Tag>,
    /// Ports of layer 4, unless the packet is a later fragment or of a protocol without ports.
    pub ports: Option<Ports>,
    /// IP protocol behind extension headers; of a later fragment, that of the fragment header.
    pub protocol: Option<u8>,
    /// The flags of TCP, CWR highest and FIN lowest.
    pub tcp_flags: Option<u8>,
    /// IP version by the EtherType, 4 or 6; 0 if it is neither.
    pub ip_version: u8,
    /// Offset of the header of layer 3, in bytes.
    pub l3_offset: u8,
    /// Offset of the header of layer 4, in bytes; 0 if none is known.
    pub l4_offset: u8,
    /// The part of a datagram that the packet is.
    pub fragment: Fragment,
    /// Whether an IPv6 routing header was skipped: then `destination_ip` is that of the next hop.
    pub routed: bool,
    /// The layer from which on headers are hidden.
    pub hidden: Hidden,
}

impl Headers {
    /// Parses the headers of a frame. The function is total: a malformed packet has fewer known
    /// fields.
    #[inline]
    pub fn parse(snapshot: &Snapshot) -> Headers {
        let mut headers = Headers::default();
        headers.read(snapshot);
        headers
    }

    /// [`Headers::parse`] in place, for view code, which must not copy so much at once: compilers
    /// do that by string instructions, and their direction flag belongs to the guest (SDM "DF
    /// Flag").
    #[inline(never)]
    pub fn read(&mut self, snapshot: &Snapshot) {
        let headers = self;
        *headers = Headers {
            destination: snapshot.load(0) & MAC_MASK,
            source: snapshot.load(6) & MAC_MASK,
            ..Headers::default()
        };
        let mut at = 12;
        let mut ethertype = snapshot.be16(at);
        headers.outer = tag(snapshot, at, ethertype);
        if let Some(outer) = headers.outer {
            if !outer.is_service() {
                headers.vlan = outer.vid();
            }
            at += 4;
            ethertype = snapshot.be16(at);
            headers.inner = tag(snapshot, at, ethertype);
            if headers.inner.is_some() {
                at += 4;
                ethertype = snapshot.be16(at);
            }
        }
        headers.ethertype = ethertype;
        headers.l3_offset = at as u8 + 2;
        if ethertype == ETHERTYPE_IPV4 {
            headers.ip_version = 4;
            headers.hidden = Hidden::Network;
            headers.ipv4(snapshot);
        } else if ethertype == ETHERTYPE_IPV6 {
            headers.ip_version = 6;
            headers.hidden = Hidden::Network;
            headers.ipv6(snapshot);
        } else if hides_everything(ethertype) {
            headers.hidden = Hidden::Everything;
        }
    }

    /// The tag by which a customer bridge sorts the frame: the first one, if it is a customer tag.
    /// To such a bridge, a frame with a service tag is untagged (IEEE 802.1Q "Principles of bridge
    /// operation").
    #[inline]
    pub fn vlan_tag(&self) -> Option<Tag> {
        self.outer.filter(|tag| !tag.is_service())
    }

    /// Whether the frame has a tag of any kind, whole or cut, besides [`Headers::vlan_tag`]. Without
    /// that one, or where it is taken out, a bridge that the frame comes to would go by the other.
    #[inline]
    pub fn has_further_tag(&self) -> bool {
        match self.outer {
            Some(tag) if tag.is_service() => true,
            _ => self.inner.is_some() || is_any_tag(self.ethertype),
        }
    }

    /// Parses the header of IPv4 at `l3_offset`.
    fn ipv4(&mut self, snapshot: &Snapshot) {
        let l3 = u32::from(self.l3_offset);
        if l3 + 20 > snapshot.known() {
            return;
        }
        let first = snapshot.byte(l3);
        let header = u32::from(first & 15) * 4;
        if first >> 4 != 4 || header < 20 {
            return;
        }
        self.source_ip = [u64::from(snapshot.be32(l3 + 12)), 0];
        self.destination_ip = [u64::from(snapshot.be32(l3 + 16)), 0];
        self.hidden = Hidden::Transport;
        let total = u32::from(snapshot.be16(l3 + 2));
        if total < header || l3 + total > snapshot.length() {
            return;
        }
        let fragment = snapshot.be16(l3 + 6);
        self.set_fragment(fragment & 0x1fff != 0, fragment & 0x2000 != 0);
        self.transport(snapshot, snapshot.byte(l3 + 9), l3 + header, l3 + total);
    }

    /// Parses the headers of IPv6 at `l3_offset`.
    fn ipv6(&mut self, snapshot: &Snapshot) {
        let l3 = u32::from(self.l3_offset);
        if l3 + 40 > snapshot.known() || snapshot.byte(l3) >> 4 != 6 {
            return;
        }
        self.source_ip = [snapshot.be64(l3 + 8), snapshot.be64(l3 + 16)];
        self.destination_ip = [snapshot.be64(l3 + 24), snapshot.be64(l3 + 32)];
        self.hidden = Hidden::Transport;
        let mut at = l3 + 40;
        // A jumbogram (RFC 2675) has payload length zero, so nothing of it is known.
        let end = at + u32::from(snapshot.be16(l3 + 4));
        if end > snapshot.length() {
            return;
        }
        let mut next = snapshot.byte(l3 + 6);
        for _ in 0..MAX_EXTENSIONS {
            if !is_extension(next) {
                break;
            }
            // Every extension header has at least 8 bytes.
            if at + 8 > end.min(snapshot.known()) {
                return;
            }
            let length = u32::from(snapshot.byte(at + 1));
            let this = next;
            next = snapshot.byte(at);
            if this == FRAGMENT {
                let fragment = snapshot.be16(at + 2);
                self.set_fragment(fragment & 0xfff8 != 0, fragment & 1 != 0);
                at += 8;
                if self.fragment == Fragment::Later {
                    break;
                }
            } else if this == AUTHENTICATION {
                at += length * 4 + 8;
            } else {
                self.routed |= this == ROUTING;
                at += length * 8 + 8;
            }
        }
        if is_extension(next) && self.fragment != Fragment::Later {
            return;
        }
        self.transport(snapshot, next, at, end);
    }

    /// Stores which part of a datagram the packet is: whether its fragment offset is not 0, and
    /// whether more fragments follow.
    #[inline]
    fn set_fragment(&mut self, offset: bool, more: bool) {
        self.fragment = if offset {
            Fragment::Later
        } else if more {
            Fragment::First
        } else {
            Fragment::Whole
        };
    }

    /// Parses the header of layer 4 at offset `at`, in a packet that ends at offset `end` of the
    /// frame.
    fn transport(&mut self, snapshot: &Snapshot, protocol: u8, at: u32, end: u32) {
        if at > end || at > snapshot.known() {
            return;
        }
        self.protocol = Some(protocol);
        if self.fragment == Fragment::Later {
            self.hidden = Hidden::Nothing;
            return;
        }
        // At most SNAPSHOT_BYTES.
        self.l4_offset = at as u8;
        if !has_ports(protocol) {
            self.hidden = Hidden::Nothing;
            return;
        }
        let end = end.min(snapshot.known());
        if at + 4 > end {
            return;
        }
        self.ports = Some(Ports {
            source: snapshot.be16(at),
            destination: snapshot.be16(at + 2),
        });
        self.hidden = Hidden::Nothing;
        if protocol == PROTOCOL_TCP && at + 14 <= end {
            self.tcp_flags = Some(snapshot.byte(at + 13));
        }
    }

    /// The hash of the frame's flow, 32 bits, by which an RX queue is chosen. All whole packets of
    /// a flow have one hash, and so have all its fragments. Without the key nobody can predict
    /// which flows share a hash.
    ///
    /// The flow is that of addresses, protocol and ports, or of the addresses of layer 2 where
    /// there is no layer 3.
    #[inline]
    pub fn flow_hash(&self, key: [u64; 2]) -> u32 {
        let mut hash;
        if self.ip_version != 0 && self.hidden < Hidden::Network {
            hash = fold(self.source_ip[0] ^ key[0], self.destination_ip[0] ^ key[1]);
            if self.ip_version == 6 {
                let low = fold(self.source_ip[1] ^ key[1], self.destination_ip[1] ^ hash);
                hash ^= low.rotate_left(32);
            }
            // Only first fragments have ports, so ports of fragments do not count.
            if self.fragment == Fragment::Whole {
                let ports = self.ports.map_or(0, |ports| {
                    u64::from(ports.source) << 16 | u64::from(ports.destination)
                });
                let protocol = u64::from(self.protocol.unwrap_or(0)) << 32;
                hash = fold(hash ^ ports ^ protocol, key[0] | 1);
            }
        } else {
            hash = fold(self.source ^ key[0], self.destination ^ key[1]);
        }
        (fold(hash ^ key[1], 0x9e37_79b9_7f4a_7c15) >> 32) as u32
    }
}

/// The tag at an offset, if the EtherType there is that of a tag and the next EtherType is known
/// too.
#[inline]
fn tag(snapshot: &Snapshot, at: u32, ethertype: u16) -> Option<Tag> {
    if !is_tag(ethertype) || at + 6 > snapshot.known() {
        return None;
    }
    Some(Tag {
        service: ethertype == ETHERTYPE_SERVICE_TAG,
        tci: snapshot.be16(at + 2),
    })
}

/// Whether an EtherType is that of a tag, parsed or not.
#[inline]
fn is_any_tag(ethertype: u16) -> bool {
    is_tag(ethertype) || is_one_of(ethertype, &OTHER_TAGS)
}

/// Whether what follows an EtherType, or a length in its place, is an encapsulation that is not
/// parsed.
#[inline(never)]
fn hides_everything(ethertype: u16) -> bool {
    ethertype < MIN_ETHERTYPE || is_any_tag(ethertype) || is_one_of(ethertype, &ENCAPSULATIONS)
}

/// Whether an EtherType is in a list.
#[inline]
fn is_one_of(ethertype: u16, list: &[u16]) -> bool {
    let mut found = false;
    for one in list {
        found |= *one == ethertype;
    }
    found
}

/// Whether an EtherType is that of a tag that is parsed.
const fn is_tag(ethertype: u16) -> bool {
    ethertype == ETHERTYPE_CUSTOMER_TAG || ethertype == ETHERTYPE_SERVICE_TAG
}

/// Whether an IPv6 next-header value is an extension header that can be skipped (RFC 8200, RFC
/// 4302, RFC 6275; 139 and 140 are HIP and Shim6).
const fn is_extension(next: u8) -> bool {
    next == HOP_BY_HOP
        || next == ROUTING
        || next == FRAGMENT
        || next == AUTHENTICATION
        || next == DESTINATION_OPTIONS
        || next == MOBILITY
        || next == 139
        || next == 140
}

/// Whether a protocol begins with source and destination port: TCP, UDP, DCCP, SCTP, UDP-Lite.
pub const fn has_ports(protocol: u8) -> bool {
    protocol == PROTOCOL_TCP
        || protocol == PROTOCOL_UDP
        || protocol == 33
        || protocol == 132
        || protocol == 136
}

/// The folded product of two words, as in wyhash: its upper half exclusive-or its lower half.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}

#[cfg(test)]
mod tests;
