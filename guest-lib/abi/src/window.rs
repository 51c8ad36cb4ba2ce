//! Rings of a port: the memory that a guest shares with the NIC.
//!
//! A NIC with `P` ports of `Q` queues has `T = P x Q` *contexts*: context `port x Q + v` is what calls of
//! vCPU `v` of a port's VM send with. Each port has one window:
//!
//! ```text
//!   offset                                            written by          read by
//!   0                  WindowHeader                   host, at attach     guest
//!   TX_LINES           TX queue 0 producer (a line)   guest               NIC
//!                      TX queue 0 consumer (a line)   NIC                 guest
//!                      TX queue 1 producer ...
//!   a page each        RX queue 0 published[T] u64    NIC, element c for  guest
//!                                                     calls of context c
//!                                 consumed[T]  u32    guest               NIC, element c for context c
//!                      RX queue 1 published ...
//!   page aligned       TX ring of queue 0, 1, ...     guest               NIC
//!   page aligned       RX queue 0, lane of context 0  NIC, for context 0  guest
//!                                  lane of context 1  NIC, for context 1  guest
//!                      RX queue 1, lane of context 0 ...
//!   page aligned       end of the window
//! ```
//!
//! A *lane* is the ring from one context to one RX queue, so no two senders share an index, a buffer or
//! a cache line that one of them could hold up: each ring has one producer and one consumer. The
//! table says who *may rely on* having written a line. A guest can write all of its window at any time;
//! the NIC keeps its own copy of each position that it advances, reads each word of the guest's once,
//! and bounds it before use. Nobody but the guest itself is harmed by a wrong value.
//!
//! # Records
//!
//! A ring holds *records*: a [`RecordHeader`] of 16 bytes, a frame, and as many bytes as bring the next
//! record to a multiple of [`RECORD_ALIGN`]. A record never wraps: where the next one does not fit in
//! front of the ring's end, a record of kind [`KIND_PAD`] says that it is at the beginning. So frames of
//! 64 bytes take 80 bytes of a ring, and those of 1514 bytes take 1536.
//!
//! # Positions
//!
//! Positions are `u32` byte counts that run freely and wrap, multiples of [`RECORD_ALIGN`]; position `p`
//! is at offset `p % size` of its ring. `producer - consumer` (wrapping) bytes are in the ring; more than
//! its size is an invalid pair. Positions continue across the tenants of a port: a guest that starts takes
//! the TX consumer as its TX producer, and `consumed` as it finds it. After a call that was stopped before
//! its end the TX consumer may lag behind what the NIC took; any request puts it right, so whoever may begin
//! after such a call first makes one for no frames ([`crate::service::OP_TX`], count 0).
//!
//! An element of `published` is a position (low half) and the tenancy that its frames are meant for (high
//! half, [`WindowHeader::tenancy`]): one store publishes both. A guest takes a lane whose tenancy is
//! not its own as empty. Those are frames for a former tenant, by a call that was stopped meanwhile.
//!
//! # Orderings
//!
//! | who | writes, in this order | the last store | makes visible to whoever loads it with acquire |
//! | --- | --- | --- | --- |
//! | guest sends | records, TX producer | release | the records below the position |
//! | NIC takes | (reads them), TX consumer | release | that the bytes below the position are free again |
//! | NIC delivers | records, `published` | release | the records below the position |
//! | guest receives | (reads them), `consumed` | release | that the bytes below the position are free again |
//!
//! What is between consumer and producer belongs to the consumer, and the NIC never writes it.
//!
//! # Frames
//!
//! Ethernet without FCS, [`MIN_FRAME`] to [`Geometry::max_frame`] bytes, longer ones only as large segments
//! ([`RecordHeader::gso_type`]). A frame with one destination (known unicast, or anything where only one other
//! port is attached) is held back by [`crate::service::TX_HOLD`] while the destination's lane is full; a
//! frame with several is dropped for each of them that has no room. A receiver that wants lossless unicast
//! among more than two ports sends a frame first, so that the switch learns where it is.

use core::fmt;

use crate::PAGE_SIZE;

/// [`WindowHeader::magic`]: "PSTNWIND", little endian.
pub const WINDOW_MAGIC: u64 = u64::from_le_bytes(*b"PSTNWIND");

/// Ports of the largest NIC.
pub const MAX_PORTS: u32 = 256;
/// Most TX queues and most RX queues of a port.
pub const MAX_QUEUES: u32 = 8;
/// Most contexts, and most RX queues, of a NIC: ports times queues.
pub const MAX_CONTEXTS: u32 = 256;

/// Size of the smallest ring or lane, in bytes.
pub const MIN_RING: u32 = 4 << 10;
/// Size of the largest ring or lane, in bytes.
pub const MAX_RING: u32 = 8 << 20;
/// Size of a TX ring where nobody asks for another, in bytes.
pub const DEFAULT_RING: u32 = 256 << 10;
/// What the lanes of an RX queue share where nobody asks for another size, in bytes.
pub const DEFAULT_LANES: u32 = 4 << 20;
/// The smallest lane that is chosen by default, in bytes.
pub const DEFAULT_LANE_MIN: u32 = 32 << 10;

/// Shortest frame in bytes: an Ethernet header. Anything shorter is dropped and counted.
pub const MIN_FRAME: u32 = 14;
/// Longest frame in bytes: 9000, an Ethernet header and a VLAN tag.
pub const MAX_FRAME: u32 = 9018;
/// Longest large segment in bytes: an IP packet of 65535 bytes and an Ethernet header with a VLAN tag.
pub const MAX_SEGMENT: u32 = 65535 + 18;

/// Size of a [`RecordHeader`], and what records are aligned to, in bytes.
pub const RECORD_ALIGN: u32 = 16;

/// [`RecordHeader::kind`]: a frame.
pub const KIND_FRAME: u16 = 0;
/// [`RecordHeader::kind`]: nothing; the next record is at the beginning of the ring. No other field
/// of the header counts.
pub const KIND_PAD: u16 = 1;

/// [`RecordHeader::flags`]: the checksum is to be completed at `csum_start + csum_offset`
/// (virtio 1.2, "Device Types: Network Device", VIRTIO_NET_HDR_F_NEEDS_CSUM).
pub const FLAG_NEEDS_CSUM: u8 = 1;
/// [`RecordHeader::gso_type`]: an ordinary frame.
pub const GSO_NONE: u8 = 0;
/// [`RecordHeader::gso_type`]: a large segment of TCP over IPv4.
pub const GSO_TCPV4: u8 = 1;
/// [`RecordHeader::gso_type`]: a large segment of TCP over IPv6.
pub const GSO_TCPV6: u8 = 4;
/// [`RecordHeader::gso_type`]: several UDP datagrams.
pub const GSO_UDP_L4: u8 = 5;
/// [`RecordHeader::gso_type`], added to one of TCP: the segment has CWR set.
pub const GSO_ECN: u8 = 0x80;

/// A port's guest completes checksums itself and accepts frames whose checksum is not complete.
pub const FEATURE_CSUM: u32 = 1 << 0;
/// Accepts large segments of TCP over IPv4.
pub const FEATURE_TSO4: u32 = 1 << 1;
/// Accepts large segments of TCP over IPv6.
pub const FEATURE_TSO6: u32 = 1 << 2;
/// Accepts large segments of UDP.
pub const FEATURE_USO: u32 = 1 << 3;
/// All features. The last three include the first.
pub const FEATURES: u32 = FEATURE_CSUM | FEATURE_TSO4 | FEATURE_TSO6 | FEATURE_USO;

/// Distance of two words that different sides write, in bytes: one cache line.
pub const LINE_SIZE: u64 = 64;
/// Offset of the first TX line.
pub const TX_LINES: u64 = 1024;

/// What precedes each frame in a ring. All but `length` is zero for an ordinary frame, and means what it
/// means in `struct virtio_net_hdr` otherwise.
#[repr(C, align(16))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordHeader {
    /// Bytes of the frame.
    pub length: u32,
    /// [`FLAG_NEEDS_CSUM`] or none.
    pub flags: u8,
    /// [`GSO_NONE`] or which large segment this is.
    pub gso_type: u8,
    /// Bytes of all headers of a large segment; a hint.
    pub hdr_len: u16,
    /// Bytes of payload of each segment that it stands for.
    pub gso_size: u16,
    /// Where the checksummed part begins, from the start of the frame.
    pub csum_start: u16,
    /// Where in that part the checksum is.
    pub csum_offset: u16,
    /// [`KIND_FRAME`] or [`KIND_PAD`].
    pub kind: u16,
}

const _: () = assert!(size_of::<RecordHeader>() == RECORD_ALIGN as usize);

impl RecordHeader {
    /// The header of an ordinary frame.
    pub const fn plain(length: u32) -> RecordHeader {
        RecordHeader::from_words(length as u64, 0)
    }

    /// As the two words that a ring holds.
    pub const fn words(self) -> (u64, u64) {
        (
            self.length as u64
                | (self.flags as u64) << 32
                | (self.gso_type as u64) << 40
                | (self.hdr_len as u64) << 48,
            self.gso_size as u64
                | (self.csum_start as u64) << 16
                | (self.csum_offset as u64) << 32
                | (self.kind as u64) << 48,
        )
    }

    /// From the two words that a ring holds.
    pub const fn from_words(first: u64, second: u64) -> RecordHeader {
        RecordHeader {
            length: first as u32,
            flags: (first >> 32) as u8,
            gso_type: (first >> 40) as u8,
            hdr_len: (first >> 48) as u16,
            gso_size: second as u16,
            csum_start: (second >> 16) as u16,
            csum_offset: (second >> 32) as u16,
            kind: (second >> 48) as u16,
        }
    }
}

/// Second word of the header of a [`KIND_PAD`] record, whose first is zero.
pub const PAD_WORD: u64 = (KIND_PAD as u64) << 48;

/// Bytes of a ring that the record of a frame takes.
pub const fn record_size(length: u32) -> u64 {
    let align = RECORD_ALIGN as u64;
    align + ((length as u64 + align - 1) & !(align - 1))
}

/// An element of `published`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Up to where the lane may be read.
    pub position: u32,
    /// Who may.
    pub tenancy: u32,
}

impl Published {
    /// As the word in the window.
    pub const fn word(self) -> u64 {
        self.position as u64 | (self.tenancy as u64) << 32
    }

    /// From the word in the window.
    pub const fn from_word(word: u64) -> Published {
        Published {
            position: word as u32,
            tenancy: (word >> 32) as u32,
        }
    }
}

/// First bytes of a window, written by the host when a guest attaches and not read by it again.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowHeader {
    /// [`WINDOW_MAGIC`].
    pub magic: u64,
    /// [`crate::ABI_VERSION`].
    pub abi_version: u32,
    /// Ports of the NIC.
    pub ports: u32,
    /// TX queues of each port, and RX queues.
    pub queues: u32,
    /// Size of each TX ring in bytes.
    pub ring: u32,
    /// Size of each lane in bytes.
    pub lane: u32,
    /// The port this window belongs to.
    pub port: u32,
    /// Which tenant of the port.
    pub tenancy: u32,
    /// The features that the NIC offers, `FEATURE_*`.
    pub features: u32,
    /// Size of the window in bytes, [`Geometry::window_size`].
    pub size: u64,
    /// The MAC address that the NIC suggests for the port.
    pub mac: [u8; 6],
    /// Zero.
    pub reserved: [u8; 10],
}

const _: () = assert!(size_of::<WindowHeader>() == LINE_SIZE as usize);

impl WindowHeader {
    /// The header of a port's window.
    pub const fn new(geometry: Geometry, port: PortId, tenancy: u32, mac: [u8; 6]) -> WindowHeader {
        WindowHeader {
            magic: WINDOW_MAGIC,
            abi_version: crate::ABI_VERSION,
            ports: geometry.ports(),
            queues: geometry.queues(),
            ring: geometry.ring(),
            lane: geometry.lane(),
            port: port.number(),
            tenancy,
            features: FEATURES,
            size: geometry.window_size(),
            mac,
            reserved: [0; 10],
        }
    }

    /// Geometry and port, if everything the header says is valid and it fits `available` bytes.
    pub fn check(&self, available: u64) -> Result<(Geometry, PortId), HeaderError> {
        if self.magic != WINDOW_MAGIC {
            return Err(HeaderError::Magic(self.magic));
        }
        if self.abi_version != crate::ABI_VERSION {
            return Err(HeaderError::Version(self.abi_version));
        }
        let geometry = Geometry::new(self.ports, self.queues, self.ring, self.lane)
            .map_err(HeaderError::Geometry)?;
        let port = geometry
            .port(self.port)
            .ok_or(HeaderError::Port(self.port))?;
        if self.size != geometry.window_size() || self.size > available {
            return Err(HeaderError::Size {
                said: self.size,
                expected: geometry.window_size(),
                available,
            });
        }
        Ok((geometry, port))
    }
}

/// Why a window cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// It does not begin with [`WINDOW_MAGIC`].
    Magic(u64),
    /// It was made for another [`crate::ABI_VERSION`].
    Version(u32),
    /// Its numbers of ports and queues or its sizes are not valid.
    Geometry(GeometryError),
    /// Its own port does not exist.
    Port(u32),
    /// Its size is not what its geometry needs, or more than there is.
    Size {
        /// What the header says, in bytes.
        said: u64,
        /// What the geometry needs, in bytes.
        expected: u64,
        /// What there is, in bytes.
        available: u64,
    },
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HeaderError::Magic(magic) => {
                write!(
                    f,
                    "no window of a Postern NIC here (it begins with {magic:#x})"
                )
            }
            HeaderError::Version(version) => write!(
                f,
                "the window has ABI version {version}, this program {}: build both from one revision",
                crate::ABI_VERSION
            ),
            HeaderError::Geometry(error) => error.fmt(f),
            HeaderError::Port(port) => write!(f, "the window's own port {port} does not exist"),
            HeaderError::Size {
                said,
                expected,
                available,
            } => write!(
                f,
                "the window says it has {said} bytes, its rings need {expected}, and {available} are mapped"
            ),
        }
    }
}

impl core::error::Error for HeaderError {}

/// Number of a port, below [`MAX_PORTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(u8);

impl PortId {
    /// The port of that number, if any NIC can have it.
    pub const fn new(number: u32) -> Option<PortId> {
        if number < MAX_PORTS {
            Some(PortId(number as u8))
        } else {
            None
        }
    }

    /// The port of that number; the largest NIC has as many as there are numbers.
    pub const fn from_number(number: u8) -> PortId {
        PortId(number)
    }

    /// Its number.
    pub const fn number(self) -> u32 {
        self.0 as u32
    }

    /// Its number, as an index of arrays of [`MAX_PORTS`] elements.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Numbers of ports and queues and sizes of rings, from which every offset follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    last_port: u8,
    queues: u8,
    ring_log: u8,
    lane_log: u8,
}

impl Geometry {
    /// Checks the numbers: 2 to [`MAX_PORTS`] ports of 1 to [`MAX_QUEUES`] queues, at most
    /// [`MAX_CONTEXTS`] in all; TX rings of `ring` and lanes of `lane` bytes, powers of two from
    /// [`MIN_RING`] to [`MAX_RING`].
    pub const fn new(
        ports: u32,
        queues: u32,
        ring: u32,
        lane: u32,
    ) -> Result<Geometry, GeometryError> {
        if ports < 2 || ports > MAX_PORTS {
            return Err(GeometryError::Ports(ports));
        }
        if queues < 1 || queues > MAX_QUEUES || ports * queues > MAX_CONTEXTS {
            return Err(GeometryError::Queues { ports, queues });
        }
        if ring < MIN_RING || ring > MAX_RING || !ring.is_power_of_two() {
            return Err(GeometryError::Ring(ring));
        }
        if lane < MIN_RING || lane > MAX_RING || !lane.is_power_of_two() {
            return Err(GeometryError::Lane(lane));
        }
        Ok(Geometry {
            last_port: (ports - 1) as u8,
            queues: queues as u8,
            ring_log: ring.trailing_zeros() as u8,
            lane_log: lane.trailing_zeros() as u8,
        })
    }

    /// From numbers that were checked before: the last port, queues, binary logarithms of the sizes of a
    /// TX ring and of a lane.
    ///
    /// # Safety
    /// [`Geometry::new`] takes the numbers that these stand for.
    #[inline]
    pub const unsafe fn from_logs(
        last_port: u8,
        queues: u8,
        ring_log: u8,
        lane_log: u8,
    ) -> Geometry {
        Geometry {
            last_port,
            queues,
            ring_log,
            lane_log,
        }
    }

    /// The lane that is chosen where nobody asks for a size: the lanes of an RX queue share
    /// [`DEFAULT_LANES`], yet none is larger than a TX ring nor smaller than [`DEFAULT_LANE_MIN`].
    pub const fn default_lane(ports: u32, queues: u32, ring: u32) -> u32 {
        let contexts = match ports.checked_mul(queues) {
            Some(contexts) if contexts != 0 && contexts <= MAX_CONTEXTS => contexts,
            _ => MAX_CONTEXTS,
        };
        let share = DEFAULT_LANES / contexts.next_power_of_two();
        let share = if share > ring { ring } else { share };
        if share < DEFAULT_LANE_MIN {
            DEFAULT_LANE_MIN
        } else {
            share
        }
    }

    /// How many ports the NIC has.
    pub const fn ports(self) -> u32 {
        self.last_port as u32 + 1
    }

    /// How many TX queues each port has, and how many RX queues.
    pub const fn queues(self) -> u32 {
        self.queues as u32
    }

    /// How many contexts, and how many RX queues, the NIC has: `T`.
    pub const fn contexts(self) -> u32 {
        self.ports() * self.queues()
    }

    /// Size of a TX ring in bytes.
    pub const fn ring(self) -> u32 {
        1 << (self.ring_log & 31)
    }

    /// Size of a lane in bytes.
    pub const fn lane(self) -> u32 {
        1 << (self.lane_log & 31)
    }

    /// Binary logarithm of [`Geometry::ring`].
    pub const fn ring_log(self) -> u32 {
        self.ring_log as u32
    }

    /// Binary logarithm of [`Geometry::lane`].
    pub const fn lane_log(self) -> u32 {
        self.lane_log as u32
    }

    /// Longest ordinary frame that every ring of this NIC can hold, in bytes.
    pub const fn max_frame(self) -> u32 {
        self.longest(MAX_FRAME)
    }

    /// Longest large segment that every ring of this NIC can hold, in bytes.
    pub const fn max_segment(self) -> u32 {
        self.longest(MAX_SEGMENT)
    }

    const fn longest(self, most: u32) -> u32 {
        let smaller = if self.ring_log < self.lane_log {
            self.ring()
        } else {
            self.lane()
        };
        // Half of a ring, so that a record fits into an empty one wherever its positions are.
        let fits = smaller / 2 - RECORD_ALIGN;
        if fits < most { fits } else { most }
    }

    /// The port of that number, if this NIC has it.
    pub const fn port(self, number: u32) -> Option<PortId> {
        if number < self.ports() {
            PortId::new(number)
        } else {
            None
        }
    }

    /// All ports.
    pub fn all_ports(self) -> impl Iterator<Item = PortId> {
        (0..self.ports()).filter_map(PortId::new)
    }

    /// The context of a port's vCPU, or the number of a port's RX queue in the whole NIC.
    pub const fn context(self, port: PortId, queue: u32) -> u32 {
        port.number() * self.queues() + queue
    }

    /// The port of a context.
    pub const fn port_of(self, context: u32) -> Option<PortId> {
        self.port(context / self.queues())
    }

    /// Bytes between two positions of a ring of `size` bytes, or nothing if the pair is invalid.
    pub const fn filled(size: u32, producer: u32, consumer: u32) -> Option<u32> {
        let filled = producer.wrapping_sub(consumer);
        if filled <= size { Some(filled) } else { None }
    }

    /// Offset in the window of a TX queue's producer position, a `u32` on a line of its own.
    pub const fn tx_producer_offset(self, queue: u32) -> u64 {
        TX_LINES + queue as u64 * 2 * LINE_SIZE
    }

    /// Offset in the window of a TX queue's consumer position, a `u32` on a line of its own.
    pub const fn tx_consumer_offset(self, queue: u32) -> u64 {
        self.tx_producer_offset(queue) + LINE_SIZE
    }

    /// Offset in the window of a context's element of an RX queue's `published`, a `u64`.
    pub const fn published_offset(self, queue: u32, context: u32) -> u64 {
        PAGE_SIZE * (1 + queue as u64) + context as u64 * 8
    }

    /// Offset in the window of a context's element of an RX queue's `consumed`, a `u32`.
    pub const fn consumed_offset(self, queue: u32, context: u32) -> u64 {
        PAGE_SIZE * (1 + queue as u64) + MAX_CONTEXTS as u64 * 8 + context as u64 * 4
    }

    /// Offset in the window of a TX queue's ring.
    pub const fn tx_ring_offset(self, queue: u32) -> u64 {
        PAGE_SIZE * (1 + self.queues() as u64) + ((queue as u64) << self.ring_log)
    }

    /// Offset in the window of a context's lane in an RX queue.
    pub const fn lane_offset(self, queue: u32, context: u32) -> u64 {
        let number = queue as u64 * self.contexts() as u64 + context as u64;
        self.tx_ring_offset(self.queues()) + (number << self.lane_log)
    }

    /// Size of a window in bytes, a multiple of the page size.
    pub const fn window_size(self) -> u64 {
        self.lane_offset(self.queues(), 0)
    }
}

const _: () = assert!(TX_LINES + MAX_QUEUES as u64 * 2 * LINE_SIZE <= PAGE_SIZE);
const _: () = assert!(MAX_CONTEXTS as u64 * 12 <= PAGE_SIZE);
const _: () = assert!((MIN_RING as u64).is_multiple_of(PAGE_SIZE));

/// Numbers or sizes that no NIC has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GeometryError {
    /// Too few or too many ports.
    Ports(u32),
    /// Too few or too many queues, alone or with so many ports.
    Queues {
        /// Ports of the NIC.
        ports: u32,
        /// Queues of each.
        queues: u32,
    },
    /// A TX ring that is too small or too large, or not a power of two.
    Ring(u32),
    /// A lane that is too small or too large, or not a power of two.
    Lane(u32),
}

impl fmt::Display for GeometryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GeometryError::Ports(ports) => {
                write!(f, "a NIC has 2 to {MAX_PORTS} ports, not {ports}")
            }
            GeometryError::Queues { ports, queues } => write!(
                f,
                "a port has 1 to {MAX_QUEUES} queues, and a NIC at most {MAX_CONTEXTS}, not {queues} on each of {ports} ports"
            ),
            GeometryError::Ring(size) => write!(
                f,
                "a TX ring has {MIN_RING} to {MAX_RING} bytes, a power of two, not {size}"
            ),
            GeometryError::Lane(size) => write!(
                f,
                "a lane has {MIN_RING} to {MAX_RING} bytes, a power of two, not {size}"
            ),
        }
    }
}

impl core::error::Error for GeometryError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometries() -> impl Iterator<Item = Geometry> {
        let numbers = [
            (2, 1),
            (2, 8),
            (3, 2),
            (16, 1),
            (16, 3),
            (64, 4),
            (255, 1),
            (256, 1),
        ];
        numbers.into_iter().flat_map(|(ports, queues)| {
            [(12, 12), (12, 14), (18, 12)].map(|(ring, lane)| {
                Geometry::new(ports, queues, 1 << ring, 1 << lane).expect("valid")
            })
        })
    }

    /// Every word and ring of a window, as offset and size.
    fn parts(geometry: Geometry) -> Vec<(u64, u64)> {
        let mut parts = vec![(0, size_of::<WindowHeader>() as u64)];
        for queue in 0..geometry.queues() {
            parts.push((geometry.tx_producer_offset(queue), LINE_SIZE));
            parts.push((geometry.tx_consumer_offset(queue), LINE_SIZE));
            parts.push((geometry.tx_ring_offset(queue), geometry.ring().into()));
            for context in 0..geometry.contexts() {
                parts.push((geometry.published_offset(queue, context), 8));
                parts.push((geometry.consumed_offset(queue, context), 4));
                parts.push((geometry.lane_offset(queue, context), geometry.lane().into()));
            }
        }
        parts
    }

    #[test]
    fn parts_of_a_window_do_not_overlap_and_are_aligned() {
        for geometry in geometries() {
            let mut parts = parts(geometry);
            parts.sort_unstable();
            let mut end = 0;
            for (offset, size) in parts {
                assert!(
                    offset >= end,
                    "{geometry:?}: {offset:#x} lies below {end:#x}"
                );
                assert_eq!(offset % size.min(PAGE_SIZE), 0, "{geometry:?}: {offset:#x}");
                end = offset + size;
            }
            assert_eq!(end, geometry.window_size());
            assert_eq!(end % PAGE_SIZE, 0);
        }
    }

    #[test]
    fn wrong_numbers_are_refused() {
        let ring = DEFAULT_RING;
        for ports in [0, 1, 257, u32::MAX] {
            let error = Geometry::new(ports, 1, ring, ring).unwrap_err();
            assert_eq!(error, GeometryError::Ports(ports));
        }
        for (ports, queues) in [(2, 0), (2, 9), (256, 2), (86, 3), (2, u32::MAX)] {
            let error = Geometry::new(ports, queues, ring, ring).unwrap_err();
            assert_eq!(error, GeometryError::Queues { ports, queues });
        }
        for size in [0, 1, 2048, 4097, 16 << 20, u32::MAX] {
            let error = Geometry::new(2, 1, size, ring).unwrap_err();
            assert_eq!(error, GeometryError::Ring(size));
            let error = Geometry::new(2, 1, ring, size).unwrap_err();
            assert_eq!(error, GeometryError::Lane(size));
        }
    }

    #[test]
    fn lanes_chosen_by_default_are_valid() {
        for ports in 2..=MAX_PORTS {
            for queues in 1..=MAX_QUEUES.min(MAX_CONTEXTS / ports) {
                for log in 15..=23 {
                    let lane = Geometry::default_lane(ports, queues, 1 << log);
                    let geometry = Geometry::new(ports, queues, 1 << log, lane);
                    assert_eq!(geometry.expect("valid").max_frame(), MAX_FRAME);
                }
            }
        }
        assert_eq!(Geometry::default_lane(2, 1, DEFAULT_RING), DEFAULT_RING);
        assert_eq!(Geometry::default_lane(64, 1, DEFAULT_RING), 64 << 10);
        assert_eq!(Geometry::default_lane(256, 1, DEFAULT_RING), 32 << 10);
    }

    #[test]
    fn positions_wrap() {
        assert_eq!(Geometry::filled(4096, 16, u32::MAX - 15), Some(32));
        assert_eq!(Geometry::filled(4096, 4095, u32::MAX), Some(4096));
        assert_eq!(Geometry::filled(4096, 4097, 0), None);
        assert_eq!(Geometry::filled(4096, 0, 1), None);
    }

    #[test]
    fn headers_of_records_survive_a_round_trip() {
        let header = RecordHeader {
            length: 0x0102_0304,
            flags: 5,
            gso_type: 6,
            hdr_len: 0x0708,
            gso_size: 0x090a,
            csum_start: 0x0b0c,
            csum_offset: 0x0d0e,
            kind: 0x0f10,
        };
        let (first, second) = header.words();
        assert_eq!(RecordHeader::from_words(first, second), header);
        // SAFETY: both types have 16 bytes, and any content is valid.
        let memory: [u64; 2] = unsafe { core::mem::transmute(header) };
        assert_eq!(memory, [first, second]);
        assert_eq!(RecordHeader::from_words(0, PAD_WORD).kind, KIND_PAD);
        let sizes = [0, 1, 16, 60, 64, 65, 1514].map(record_size);
        assert_eq!(sizes, [16, 32, 32, 80, 80, 96, 1536]);
    }

    #[test]
    fn a_header_is_checked() {
        let geometry = Geometry::new(4, 2, DEFAULT_RING, MIN_RING).expect("valid");
        let port = geometry.port(3).expect("exists");
        let good = WindowHeader::new(geometry, port, 7, [2; 6]);
        let size = geometry.window_size();
        assert_eq!(good.check(size), Ok((geometry, port)));
        assert_eq!(
            good.check(size - 1),
            Err(HeaderError::Size {
                said: size,
                expected: size,
                available: size - 1
            })
        );
        type Change = fn(&mut WindowHeader);
        type Expected = fn(&HeaderError) -> bool;
        let changes: [(Change, Expected); 7] = [
            (|h| h.magic ^= 1, |e| matches!(e, HeaderError::Magic(_))),
            (
                |h| h.abi_version ^= 1,
                |e| matches!(e, HeaderError::Version(_)),
            ),
            (|h| h.ports = 300, |e| matches!(e, HeaderError::Geometry(_))),
            (|h| h.queues = 0, |e| matches!(e, HeaderError::Geometry(_))),
            (|h| h.lane = 5, |e| matches!(e, HeaderError::Geometry(_))),
            (|h| h.port = 4, |e| matches!(e, HeaderError::Port(4))),
            (|h| h.size += 1, |e| matches!(e, HeaderError::Size { .. })),
        ];
        for (change, expected) in changes {
            let mut header = good;
            change(&mut header);
            let error = header.check(u64::MAX).unwrap_err();
            assert!(expected(&error), "{error}");
        }
    }
}
