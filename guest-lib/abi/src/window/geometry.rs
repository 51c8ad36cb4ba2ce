//! The geometry of a NIC, and the offsets in a window that follow from it.

use core::fmt;

use super::limits::{
    DEFAULT_LANE_MIN, DEFAULT_LANES, DEFAULT_LANES_OF_MANY, DEFAULT_LANES_SIZE, DEFAULT_RING,
    DEFAULT_RING_OF_MANY, FEW_SENDERS, MAX_FRAME, MAX_LANES, MAX_PORTS, MAX_QUEUES, MAX_RING,
    MAX_SEGMENT, MAX_SENDERS, MIN_RING,
};
use super::port::PortId;
use super::record::RECORD_ALIGN;
use crate::PAGE_SIZE;

/// Size of a cache line, in bytes: the distance of two words that different sides write.
pub const LINE_SIZE: u64 = 64;
/// Number of 64-bit words in which a TX queue has a bit for each of the NIC's RX queues.
pub const BELL_WORDS: usize = 4;
/// Offset in the window of the first TX queue's producer position, in bytes.
pub const TX_LINES: u64 = 1024;

/// The geometry of a NIC: numbers of ports and queues and sizes of rings, from which every offset
/// in a window follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    last_port: u8,
    queues: u8,
    ring_log: u8,
    lane_log: u8,
    last_lane: u8,
}

impl Geometry {
    /// The geometry of 2 to [`MAX_PORTS`] ports of 1 to [`MAX_QUEUES`] queues, at most
    /// [`MAX_SENDERS`] in all, with TX rings of `ring` and lanes of `lane` bytes, powers of two
    /// from [`MIN_RING`] to [`MAX_RING`], and [`Geometry::default_lanes`].
    ///
    /// # Errors
    ///
    /// The first number that is out of range.
    pub const fn new(
        ports: u32,
        queues: u32,
        ring: u32,
        lane: u32,
    ) -> Result<Geometry, GeometryError> {
        if ports < 2 || ports > MAX_PORTS {
            return Err(GeometryError::Ports(ports));
        }
        if queues < 1 || queues > MAX_QUEUES || ports * queues > MAX_SENDERS {
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
            last_lane: (Geometry::default_lanes(ports, queues) - 1) as u8,
        })
    }

    /// The same geometry with `lanes` lanes in each RX queue: 1 to the number of senders, at most
    /// [`MAX_LANES`].
    ///
    /// # Errors
    ///
    /// The number, if it is out of range.
    pub const fn with_lanes(self, lanes: u32) -> Result<Geometry, GeometryError> {
        let senders = self.senders();
        let most = if senders < MAX_LANES {
            senders
        } else {
            MAX_LANES
        };
        if lanes < 1 || lanes > most {
            return Err(GeometryError::Lanes { lanes, most });
        }
        Ok(Geometry {
            last_lane: (lanes - 1) as u8,
            ..self
        })
    }

    /// The geometry of numbers that were checked before: the last port, the number of queues, the
    /// binary logarithms of the sizes of a TX ring and of a lane, and the last lane.
    ///
    /// # Safety
    ///
    /// [`Geometry::new`] accepts the numbers that these stand for.
    #[expect(
        unsafe_code,
        reason = "the switch relies on the ranges that `new` checks"
    )]
    #[inline]
    pub const unsafe fn from_logs(
        last_port: u8,
        queues: u8,
        ring_log: u8,
        lane_log: u8,
        last_lane: u8,
    ) -> Geometry {
        Geometry {
            last_port,
            queues,
            ring_log,
            lane_log,
            last_lane,
        }
    }

    /// Number of senders of a NIC, or [`MAX_SENDERS`] where no NIC has these numbers.
    const fn senders_of(ports: u32, queues: u32) -> u32 {
        match ports.checked_mul(queues) {
            Some(senders) if senders != 0 && senders <= MAX_SENDERS => senders,
            _ => MAX_SENDERS,
        }
    }

    /// Default size of a TX ring, in bytes.
    pub const fn default_ring(ports: u32, queues: u32) -> u32 {
        match Geometry::senders_of(ports, queues) <= FEW_SENDERS {
            true => DEFAULT_RING,
            false => DEFAULT_RING_OF_MANY,
        }
    }

    /// Default number of lanes of an RX queue: one for each sender, where these are few.
    pub const fn default_lanes(ports: u32, queues: u32) -> u32 {
        let senders = Geometry::senders_of(ports, queues);
        let most = match senders <= FEW_SENDERS {
            true => DEFAULT_LANES,
            false => DEFAULT_LANES_OF_MANY,
        };
        if senders < most { senders } else { most }
    }

    /// Default size of a lane, in bytes: the lanes of an RX queue share [`DEFAULT_LANES_SIZE`], yet
    /// none is larger than a TX ring or smaller than [`DEFAULT_LANE_MIN`].
    pub const fn default_lane(ports: u32, queues: u32, ring: u32) -> u32 {
        let lanes = match Geometry::senders_of(ports, queues) <= FEW_SENDERS {
            true => Geometry::default_lanes(ports, queues),
            false => MAX_LANES,
        };
        let share = DEFAULT_LANES_SIZE / lanes.next_power_of_two();
        let share = if share > ring { ring } else { share };
        if share < DEFAULT_LANE_MIN {
            DEFAULT_LANE_MIN
        } else {
            share
        }
    }

    /// Number of the NIC's ports.
    pub const fn ports(self) -> u32 {
        self.last_port as u32 + 1
    }

    /// Number of TX queues of each port, which is also that of its RX queues.
    pub const fn queues(self) -> u32 {
        self.queues as u32
    }

    /// Number of the NIC's senders, which is also that of its RX queues: `T`.
    pub const fn senders(self) -> u32 {
        self.ports() * self.queues()
    }

    /// Size of a TX ring in bytes.
    pub const fn ring(self) -> u32 {
        1 << (self.ring_log & 31)
    }

    /// Number of lanes of each RX queue.
    pub const fn lanes(self) -> u32 {
        self.last_lane as u32 + 1
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
        // At most half of a ring, so that a record fits into an empty one wherever its positions
        // are.
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

    /// Number in the whole NIC of a port's RX queue.
    pub const fn rx_queue(self, port: PortId, queue: u32) -> u32 {
        self.sender(port, queue)
    }

    /// Number in the whole NIC of the sender that a port's vCPU is.
    pub const fn sender(self, port: PortId, vcpu: u32) -> u32 {
        port.number() * self.queues() + vcpu
    }

    /// The port of a sender.
    pub const fn port_of(self, sender: u32) -> Option<PortId> {
        self.port(sender / self.queues())
    }

    /// Bytes between two positions of a ring of `size` bytes; `None` if the pair is invalid.
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

    /// Offset in the window of the first of the [`BELL_WORDS`] words, each a `u64`, of a TX queue's
    /// `bells`: bit `q % 64` of word `q / 64` is that of the RX queue of number `q` in the whole NIC.
    /// They are on the line of the consumer position.
    pub const fn bells_offset(self, queue: u32) -> u64 {
        self.tx_consumer_offset(queue) + LINE_SIZE / 2
    }

    /// Offset in the window of an RX queue's `latest`, a `u64`.
    pub const fn latest_offset(self, queue: u32) -> u64 {
        PAGE_SIZE * (1 + queue as u64)
    }

    /// Offset in the window of a lane's element of an RX queue's `published`, a `u64`. The first
    /// seven are on the line of `latest`.
    pub const fn published_offset(self, queue: u32, lane: u32) -> u64 {
        self.latest_offset(queue) + 8 + lane as u64 * 8
    }

    /// Offset in the window of the first of the four words, each a `u64`, of an RX queue's `used`:
    /// bit `l % 64` of word `l / 64` is that of lane `l`.
    pub const fn used_offset(self, queue: u32) -> u64 {
        self.latest_offset(queue) + USED
    }

    /// Offset in the window of a lane's element of an RX queue's `senders`, a `u8`.
    pub const fn sender_offset(self, queue: u32, lane: u32) -> u64 {
        self.latest_offset(queue) + SENDERS + lane as u64
    }

    /// Offset in the window of a lane's element of an RX queue's `consumed`, a `u32`.
    pub const fn consumed_offset(self, queue: u32, lane: u32) -> u64 {
        self.latest_offset(queue) + CONSUMED + lane as u64 * 4
    }

    /// Offset in the window of an RX queue's `asleep`, a `u32`.
    pub const fn asleep_offset(self, queue: u32) -> u64 {
        self.latest_offset(queue) + ASLEEP
    }

    /// Offset in the window of a TX queue's ring.
    pub const fn tx_ring_offset(self, queue: u32) -> u64 {
        PAGE_SIZE * (1 + self.queues() as u64) + ((queue as u64) << self.ring_log)
    }

    /// Offset in the window of a lane of an RX queue.
    pub const fn lane_offset(self, queue: u32, lane: u32) -> u64 {
        let number = queue as u64 * self.lanes() as u64 + lane as u64;
        self.tx_ring_offset(self.queues()) + (number << self.lane_log)
    }

    /// Size of a window in bytes, a multiple of the page size.
    pub const fn window_size(self) -> u64 {
        self.lane_offset(self.queues(), 0)
    }
}

const _: () = assert!(TX_LINES + MAX_QUEUES as u64 * 2 * LINE_SIZE <= PAGE_SIZE);
/// Offset of `used` in the page of an RX queue, on a line of its own behind `published`.
const USED: u64 = (8 + MAX_LANES as u64 * 8).next_multiple_of(LINE_SIZE);
/// Offset of `senders` in the page of an RX queue: behind `used`.
const SENDERS: u64 = USED + 32;
/// Offset of `consumed` in the page of an RX queue: on lines that the guest alone writes.
const CONSUMED: u64 = (SENDERS + MAX_LANES as u64).next_multiple_of(LINE_SIZE);

const _: () = assert!(MAX_LANES <= 256 && MAX_LANES < MAX_SENDERS);

/// Offset of `asleep` in the page of an RX queue, on a line of its own.
const ASLEEP: u64 = (CONSUMED + MAX_LANES as u64 * 4).next_multiple_of(LINE_SIZE);

const _: () = assert!(ASLEEP + LINE_SIZE <= PAGE_SIZE);
const _: () = assert!(MAX_SENDERS <= BELL_WORDS as u32 * 64);
const _: () = assert!(BELL_WORDS as u64 * 8 <= LINE_SIZE / 2);
const _: () = assert!((MIN_RING as u64).is_multiple_of(PAGE_SIZE));

/// A number or a size that [`Geometry::new`] refuses.
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
    /// No lanes, or more than there are senders.
    Lanes {
        /// Lanes of an RX queue.
        lanes: u32,
        /// Most lanes that an RX queue of that NIC can have.
        most: u32,
    },
}

impl fmt::Display for GeometryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GeometryError::Ports(ports) => {
                write!(f, "a NIC has 2 to {MAX_PORTS} ports, not {ports}")
            }
            GeometryError::Queues { ports, queues } => write!(
                f,
                "a port has 1 to {MAX_QUEUES} queues, and a NIC at most {MAX_SENDERS}, \
                 not {queues} on each of {ports} ports"
            ),
            GeometryError::Ring(size) => write!(
                f,
                "a TX ring has {MIN_RING} to {MAX_RING} bytes, a power of two, not {size}"
            ),
            GeometryError::Lane(size) => write!(
                f,
                "a lane has {MIN_RING} to {MAX_RING} bytes, a power of two, not {size}"
            ),
            GeometryError::Lanes { lanes, most } => write!(
                f,
                "an RX queue of this NIC has 1 to {most} lanes, one for each sender at most, \
                 not {lanes}"
            ),
        }
    }
}

impl core::error::Error for GeometryError {}

#[cfg(test)]
mod tests {
    use super::super::header::WindowHeader;
    use super::super::limits::DEFAULT_RING;
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
            [(12, 12), (12, 14), (18, 12)]
                .into_iter()
                .flat_map(move |(ring, lane)| {
                    let geometry =
                        Geometry::new(ports, queues, 1 << ring, 1 << lane).expect("valid");
                    [1, geometry.lanes(), geometry.senders().min(MAX_LANES)]
                        .map(|lanes| geometry.with_lanes(lanes).expect("valid"))
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
            parts.push((geometry.latest_offset(queue), 8));
            parts.push((geometry.used_offset(queue), 32));
            for lane in 0..geometry.lanes() {
                parts.push((geometry.published_offset(queue, lane), 8));
                parts.push((geometry.sender_offset(queue, lane), 1));
                parts.push((geometry.consumed_offset(queue, lane), 4));
                parts.push((geometry.lane_offset(queue, lane), geometry.lane().into()));
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
            for queues in 1..=MAX_QUEUES.min(MAX_SENDERS / ports) {
                for log in 15..=23 {
                    let lane = Geometry::default_lane(ports, queues, 1 << log);
                    let geometry = Geometry::new(ports, queues, 1 << log, lane);
                    assert_eq!(geometry.expect("valid").max_frame(), MAX_FRAME);
                }
            }
        }
        assert_eq!(Geometry::default_lane(2, 1, DEFAULT_RING), DEFAULT_RING);
        assert_eq!(Geometry::default_lane(16, 1, DEFAULT_RING), 64 << 10);
        assert_eq!(Geometry::default_lane(64, 1, DEFAULT_RING), 64 << 10);
        assert_eq!(Geometry::default_lane(256, 1, DEFAULT_RING), 32 << 10);
    }

    #[test]
    fn memory_is_linear_in_the_ports() {
        let window = |ports: u32| {
            let ring = Geometry::default_ring(ports, 1);
            let lane = Geometry::default_lane(ports, 1, ring);
            let geometry = Geometry::new(ports, 1, ring, lane).expect("valid");
            geometry.window_size()
        };
        // What the goal of 160 MiB for 256 ports leaves for a window.
        assert!(window(256) <= 600 << 10, "{}", window(256));
        assert_eq!(window(256), window(65));
        assert_eq!(window(64), window(16));
    }

    #[test]
    fn an_rx_queue_has_no_more_lanes_than_there_are_senders() {
        let geometry = Geometry::new(3, 2, 4096, 4096).expect("valid");
        assert_eq!(geometry.lanes(), 6);
        for lanes in [0, 7, 256, u32::MAX] {
            let error = geometry.with_lanes(lanes).unwrap_err();
            assert_eq!(error, GeometryError::Lanes { lanes, most: 6 });
        }
    }

    #[test]
    fn positions_wrap() {
        assert_eq!(Geometry::filled(4096, 16, u32::MAX - 15), Some(32));
        assert_eq!(Geometry::filled(4096, 4095, u32::MAX), Some(4096));
        assert_eq!(Geometry::filled(4096, 4097, 0), None);
        assert_eq!(Geometry::filled(4096, 0, 1), None);
    }
}
