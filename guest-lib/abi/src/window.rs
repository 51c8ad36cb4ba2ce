//! Rings and packet buffers of a port: the memory that a guest shares with the NIC.
//!
//! A NIC with `P` ports and `S` slots a ring gives each port one window. A window has `P + 1` rings:
//! ring 0 carries what the guest sends, ring `1 + s` (the *lane* of port `s`) what port `s` sent to
//! it. Each ring has one producer and one consumer, so no two senders share an index.
//!
//! ```text
//!   offset                                          written by            read by
//!   0                  WindowHeader                 host, at attach       guest
//!   INDICES            TX producer  (one line)      guest                 NIC
//!                      TX consumer  (one line)      NIC                   guest
//!                      lane 0 producer              NIC, for port 0       guest
//!                      lane 0 consumer              guest                 NIC, for port 0
//!                      lane 1 producer ...          NIC, for port 1       guest
//!   page aligned       TX descriptors   S x 4 B     guest                 NIC
//!                      lane 0 descriptors ...       NIC, for port 0       guest
//!   page aligned       TX buffers    S x 2048 B     guest                 NIC
//!                      lane 0 buffers ...           NIC, for port 0       guest
//!   page aligned       end of the window
//! ```
//!
//! The table says who *may rely on* having written a line. A guest can write all of its window at
//! any time; the NIC keeps its own copy of each index that it advances, reads each word of the
//! guest's once, and bounds it before use. Nobody but the guest itself is harmed by a wrong value.
//! The lane of a port to itself exists and stays empty.
//!
//! # Indices
//!
//! Indices are `u32`, run freely and wrap; index `i` names slot `i % S`, and the buffer and the
//! descriptor of a slot are implied by its number. `producer - consumer` (wrapping) frames are in
//! the ring; more than `S` is an invalid pair. Indices continue across the tenants of a port: a
//! guest that starts takes the TX consumer as its TX producer, and the lane consumers as it finds them.
//! After a call that was stopped before its end the published TX consumer may lag behind what the
//! NIC took; any request puts it right, so whoever may begin after such a call first makes one for no
//! frames ([`crate::service::OP_TX`], count 0).
//!
//! # Orderings
//!
//! | who | writes, in this order | the last store | makes visible to whoever loads it with acquire |
//! | --- | --- | --- | --- |
//! | guest sends | buffer, descriptor, TX producer | release | the frames below the index |
//! | NIC takes | (reads them), TX consumer | release | that slots below the index are free again |
//! | NIC delivers | buffer, descriptor, lane producer | release | the frames below the index |
//! | guest receives | (reads them), lane consumer | release | that slots below the index are free again |
//!
//! A slot between consumer and producer belongs to the consumer. The NIC never writes such a slot,
//! with one exception: two vCPUs that send on one port at the same time can spoil that port's own
//! frames and indices in the lanes it feeds. A receiver therefore takes an invalid index pair
//! as an empty lane, bounds each length, and copies a frame before it believes what it says.
//!
//! # Frames
//!
//! Ethernet without FCS, [`MIN_FRAME`] to [`MAX_FRAME`] bytes. A frame with one destination (known
//! unicast, or anything where only one other port is attached) is held back by
//! [`crate::service::TX_HOLD`] while the destination's lane is full; a frame with several is dropped
//! for each of them that has no room. A receiver that wants lossless unicast among more than two ports
//! sends a frame first, so that the switch learns where it is.

use core::fmt;

use crate::PAGE_SIZE;

/// [`WindowHeader::magic`]: "PSTNWIND", little endian.
pub const WINDOW_MAGIC: u64 = u64::from_le_bytes(*b"PSTNWIND");

/// Ports of the largest NIC.
pub const MAX_PORTS: u32 = 16;

/// Slots of the smallest ring.
pub const MIN_SLOTS: u32 = 16;
/// Slots of the largest ring.
pub const MAX_SLOTS: u32 = 4096;
/// Slots of a ring where nobody asks for another number.
pub const DEFAULT_SLOTS: u32 = 256;

/// Bytes of one packet buffer; buffers are aligned to their size.
pub const BUFFER_SIZE: u64 = 2048;

/// Shortest frame in bytes: an Ethernet header. Anything shorter is dropped and counted.
pub const MIN_FRAME: u32 = 14;
/// Longest frame in bytes: 1500 and an Ethernet header. Anything longer is dropped and counted.
pub const MAX_FRAME: u32 = 1514;

/// Bytes of a descriptor: a little-endian `u32`, length in the low 16 bits, the rest zero.
pub const DESCRIPTOR_SIZE: u64 = 4;

/// The bits of a descriptor that must be zero.
pub const DESCRIPTOR_RESERVED: u32 = 0xffff_0000;

/// Distance of two words that different sides write, in bytes: one cache line.
pub const LINE_SIZE: u64 = 64;

/// Offset of the first index line.
pub const INDICES: u64 = 2 * LINE_SIZE;

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
    /// Slots of each ring.
    pub slots: u32,
    /// The port this window belongs to.
    pub port: u32,
    /// Size of the window in bytes, [`Geometry::window_size`].
    pub size: u64,
    /// The MAC address that the NIC suggests for the port.
    pub mac: [u8; 6],
    /// Zero.
    pub reserved: [u8; 26],
}

const _: () = assert!(size_of::<WindowHeader>() == LINE_SIZE as usize);
const _: () = assert!(MAX_FRAME as u64 <= BUFFER_SIZE && MAX_FRAME & DESCRIPTOR_RESERVED == 0);

impl WindowHeader {
    /// The header of a port's window.
    pub const fn new(geometry: Geometry, port: PortId, mac: [u8; 6]) -> WindowHeader {
        WindowHeader {
            magic: WINDOW_MAGIC,
            abi_version: crate::ABI_VERSION,
            ports: geometry.ports,
            slots: geometry.slots,
            port: port.number(),
            size: geometry.window_size(),
            mac,
            reserved: [0; 26],
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
        let geometry = Geometry::new(self.ports, self.slots).map_err(HeaderError::Geometry)?;
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
    /// Its numbers of ports and slots are not valid.
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

    /// Its number.
    pub const fn number(self) -> u32 {
        self.0 as u32 & (MAX_PORTS - 1)
    }

    /// Its number, as an index of arrays of [`MAX_PORTS`] elements.
    pub const fn index(self) -> usize {
        self.number() as usize
    }
}

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One ring of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ring(u8);

impl Ring {
    /// What the window's guest sends.
    pub const TX: Ring = Ring(0);

    /// What `sender` sent to the window's guest.
    pub const fn lane(sender: PortId) -> Ring {
        Ring(1 + sender.0)
    }

    const fn number(self) -> u64 {
        self.0 as u64
    }
}

/// Numbers of ports and slots, from which every offset follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    ports: u32,
    slots: u32,
}

impl Geometry {
    /// Checks the numbers: 2 to [`MAX_PORTS`] ports, [`MIN_SLOTS`] to [`MAX_SLOTS`] slots, a power
    /// of two.
    pub const fn new(ports: u32, slots: u32) -> Result<Geometry, GeometryError> {
        if ports < 2 || ports > MAX_PORTS {
            return Err(GeometryError::Ports(ports));
        }
        if slots < MIN_SLOTS || slots > MAX_SLOTS || !slots.is_power_of_two() {
            return Err(GeometryError::Slots(slots));
        }
        Ok(Geometry { ports, slots })
    }

    /// How many ports the NIC has.
    pub const fn ports(self) -> u32 {
        self.ports
    }

    /// How many slots each ring has.
    pub const fn slots(self) -> u32 {
        self.slots
    }

    /// The port of that number, if this NIC has it.
    pub const fn port(self, number: u32) -> Option<PortId> {
        if number < self.ports {
            PortId::new(number)
        } else {
            None
        }
    }

    /// All ports.
    pub fn all_ports(self) -> impl Iterator<Item = PortId> {
        (0..self.ports).filter_map(PortId::new)
    }

    /// The slot that an index names.
    pub const fn slot(self, index: u32) -> u32 {
        index & (self.slots - 1)
    }

    /// Frames between two indices of a ring, or nothing if the pair is invalid.
    pub const fn filled(self, producer: u32, consumer: u32) -> Option<u32> {
        let filled = producer.wrapping_sub(consumer);
        if filled <= self.slots {
            Some(filled)
        } else {
            None
        }
    }

    const fn rings(self) -> u64 {
        self.ports as u64 + 1
    }

    /// Offset in the window of a ring's producer index, a `u32` on a line of its own.
    pub const fn producer_offset(self, ring: Ring) -> u64 {
        INDICES + ring.number() * 2 * LINE_SIZE
    }

    /// Offset in the window of a ring's consumer index, a `u32` on a line of its own.
    pub const fn consumer_offset(self, ring: Ring) -> u64 {
        self.producer_offset(ring) + LINE_SIZE
    }

    const fn descriptors(self) -> u64 {
        page_up(INDICES + self.rings() * 2 * LINE_SIZE)
    }

    /// Offset in the window of the descriptor that `index` names in a ring.
    pub const fn descriptor_offset(self, ring: Ring, index: u32) -> u64 {
        let entry = ring.number() * self.slots as u64 + self.slot(index) as u64;
        self.descriptors() + entry * DESCRIPTOR_SIZE
    }

    const fn buffers(self) -> u64 {
        page_up(self.descriptors() + self.rings() * self.slots as u64 * DESCRIPTOR_SIZE)
    }

    /// Offset in the window of the buffer that `index` names in a ring.
    pub const fn buffer_offset(self, ring: Ring, index: u32) -> u64 {
        let entry = ring.number() * self.slots as u64 + self.slot(index) as u64;
        self.buffers() + entry * BUFFER_SIZE
    }

    /// Size of a window in bytes, a multiple of the page size.
    pub const fn window_size(self) -> u64 {
        page_up(self.buffers() + self.rings() * self.slots as u64 * BUFFER_SIZE)
    }
}

const fn page_up(bytes: u64) -> u64 {
    (bytes + PAGE_SIZE - 1) & !(PAGE_SIZE - 1)
}

/// Numbers of ports or slots that no NIC has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GeometryError {
    /// Too few or too many ports.
    Ports(u32),
    /// Too few or too many slots, or not a power of two.
    Slots(u32),
}

impl fmt::Display for GeometryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GeometryError::Ports(ports) => {
                write!(f, "a NIC has 2 to {MAX_PORTS} ports, not {ports}")
            }
            GeometryError::Slots(slots) => write!(
                f,
                "a ring has {MIN_SLOTS} to {MAX_SLOTS} slots, a power of two, not {slots}"
            ),
        }
    }
}

impl core::error::Error for GeometryError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometries() -> impl Iterator<Item = Geometry> {
        (2..=MAX_PORTS).flat_map(|ports| {
            (4..=12).map(move |bits| Geometry::new(ports, 1 << bits).expect("valid"))
        })
    }

    /// Every word and buffer of a window, as offset and size.
    fn parts(geometry: Geometry) -> Vec<(u64, u64)> {
        let mut parts = vec![(0, size_of::<WindowHeader>() as u64)];
        let lanes = geometry.all_ports().map(Ring::lane);
        for ring in [Ring::TX].into_iter().chain(lanes) {
            parts.push((geometry.producer_offset(ring), LINE_SIZE));
            parts.push((geometry.consumer_offset(ring), LINE_SIZE));
            for slot in 0..geometry.slots() {
                parts.push((geometry.descriptor_offset(ring, slot), DESCRIPTOR_SIZE));
                parts.push((geometry.buffer_offset(ring, slot), BUFFER_SIZE));
            }
        }
        parts
    }

    #[test]
    fn parts_of_a_window_are_aligned_and_do_not_overlap() {
        for geometry in geometries() {
            let mut parts = parts(geometry);
            parts.sort_unstable();
            for pair in parts.windows(2) {
                assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{geometry:?} {pair:?}");
            }
            for (offset, size) in &parts {
                assert_eq!(offset % size, 0, "{geometry:?}");
            }
            let (offset, size) = parts.last().expect("not empty");
            assert!(offset + size <= geometry.window_size());
            assert_eq!(geometry.window_size() % PAGE_SIZE, 0);
        }
    }

    #[test]
    fn indices_wrap_to_slots() {
        let geometry = Geometry::new(2, 16).expect("valid");
        assert_eq!(geometry.slot(u32::MAX), 15);
        assert_eq!(geometry.filled(3, u32::MAX - 12), Some(16));
        assert_eq!(geometry.filled(4, u32::MAX - 12), None);
        assert_eq!(geometry.filled(4, 5), None);
        assert_eq!(
            geometry.buffer_offset(Ring::TX, 16),
            geometry.buffer_offset(Ring::TX, 0)
        );
    }

    #[test]
    fn bad_numbers_are_refused() {
        for ports in [0, 1, MAX_PORTS + 1, u32::MAX] {
            assert_eq!(Geometry::new(ports, 256), Err(GeometryError::Ports(ports)));
        }
        for slots in [0, 1, 8, 17, 8192, u32::MAX] {
            assert_eq!(Geometry::new(2, slots), Err(GeometryError::Slots(slots)));
        }
    }

    #[test]
    fn a_header_is_checked() {
        let geometry = Geometry::new(4, 64).expect("valid");
        let port = geometry.port(3).expect("valid");
        let header = WindowHeader::new(geometry, port, [2, 0, 0, 0, 0, 3]);
        let size = geometry.window_size();
        assert_eq!(header.check(size), Ok((geometry, port)));
        assert!(header.check(size - 1).is_err());
        for bad in [
            WindowHeader { magic: 0, ..header },
            WindowHeader {
                abi_version: 0,
                ..header
            },
            WindowHeader { ports: 1, ..header },
            WindowHeader {
                slots: 65,
                ..header
            },
            WindowHeader { port: 4, ..header },
            WindowHeader { size: 0, ..header },
        ] {
            assert!(bad.check(u64::MAX).is_err(), "{bad:?}");
        }
    }
}
