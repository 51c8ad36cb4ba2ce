//! Limits and defaults of a NIC: numbers of ports and queues, sizes of rings and frames.
#![forbid(unsafe_code)]

/// Most ports of a NIC.
pub const MAX_PORTS: u32 = 256;
/// Most TX queues and most RX queues of a port.
pub const MAX_QUEUES: u32 = 8;
/// Most senders, and most RX queues, of a NIC: ports times queues.
pub const MAX_SENDERS: u32 = 256;

/// Size of the smallest ring or lane, in bytes.
pub const MIN_RING: u32 = 4 << 10;
/// Size of the largest ring or lane, in bytes.
pub const MAX_RING: u32 = 8 << 20;
/// Default size of a TX ring, in bytes.
pub const DEFAULT_RING: u32 = 256 << 10;
/// Size of a TX ring in bytes that is never exceeded by default in a NIC of more than
/// [`FEW_SENDERS`] senders.
pub const DEFAULT_RING_OF_MANY: u32 = 128 << 10;
/// Most lanes of an RX queue: one for each sender but the port's own.
pub const MAX_LANES: u32 = MAX_SENDERS - 1;
/// Default number of lanes of an RX queue, where there are as many senders.
pub const DEFAULT_LANES: u32 = 16;
/// Default number of lanes of an RX queue in a NIC of more than [`FEW_SENDERS`] senders.
pub const DEFAULT_LANES_OF_MANY: u32 = 12;
/// Number of senders up to which a NIC has the larger of two defaults.
pub const FEW_SENDERS: u32 = 64;
/// Default size of all lanes of an RX queue together, in bytes.
pub const DEFAULT_LANES_SIZE: u32 = 1 << 20;
/// Least default size of a lane, in bytes.
pub const DEFAULT_LANE_MIN: u32 = 32 << 10;

/// Shortest frame in bytes: an Ethernet header. Anything shorter is dropped and counted.
pub const MIN_FRAME: u32 = 14;
/// Longest frame in bytes: 9000, an Ethernet header and a VLAN tag.
pub const MAX_FRAME: u32 = 9018;
/// Longest large segment in bytes: an IP packet of 65535 bytes, an Ethernet header and a VLAN tag.
pub const MAX_SEGMENT: u32 = 65535 + 18;
/// Most frames that a large segment is cut into, so that it is no more work than a batch.
pub const MAX_SEGMENTS: u32 = 256;
