//! The window of a port: the memory that a guest shares with the NIC, and the rings in it.
//!
//! A NIC with `P` ports of `Q` queues has `T = P x Q` *senders*. A sender is one vCPU of a port's
//! VM in its role as a sender: calls of vCPU `v` of a port send with sender `port x Q + v`. Each
//! port has one window. Offsets and sizes are in bytes, and all offsets follow from [`Geometry`]:
//!
//! ```text
//!   offset              content                        written by           read by
//!   0                   WindowHeader                   host, at attach      guest
//!   TX_LINES            TX queue 0: producer (a line)  guest                NIC
//!                                   consumer (a line)  NIC                  guest
//!                                   bells, 256 bits,   NIC                  guest, which clears
//!                                   on that line                            them
//!                       TX queue 1: producer ...
//!   a page each         RX queue 0: latest, u64        NIC                  guest
//!                                   published[L], u64  NIC, element l for   guest
//!                                                      the holder of lane l
//!                                   used, 256 bits     NIC                  guest
//!                                   senders[L], u8     NIC                  guest
//!                                   consumed[L], u32   guest                NIC, element l for
//!                                                                           the holder of lane l
//!                                   asleep, u32        guest                owner
//!                       RX queue 1: latest ...
//!   page aligned        TX ring of queue 0, 1, ...     guest                NIC
//!   page aligned        RX queue 0: lane 0             NIC, for its holder  guest
//!                                   lane 1             NIC, for its holder  guest
//!                       RX queue 1: lane 0 ...
//!   page aligned        end of the window
//! ```
//!
//! An RX queue has `L` *lanes* ([`Geometry::lanes`]). A lane is a ring from one sender, its
//! *holder*, which got it when it first had a frame for the queue. So no two senders share an index
//! or a buffer that one of them could hold up: each ring has one producer and one consumer. The
//! table says who *may rely on* having written a line. A guest can write all of its window at any
//! time. The NIC keeps its own copy of each position that it advances, reads each word of the
//! guest's once, and bounds it before use. A wrong value harms only the guest that wrote it.
//!
//! # Where something is
//!
//! A guest that polls an RX queue looks at one word, `latest`: the last [`Published`] position of
//! any lane, with the number of the lane in its upper half. It differs from any value that the guest
//! has seen before it last looked at the lanes, if any lane was published since: the NIC stores one
//! position of a lane there once, and has the guest look again by adding [`LOOK_AGAIN`]. `used` says which
//! lanes have had a holder in this tenancy, `senders` which sender it is; the frames that a former
//! holder left are read before a lane gets another one.
//!
//! # Sleeping
//!
//! A guest that would rather sleep than poll an RX queue sets `asleep` to 1 and the bit [`ARMED`] in
//! `latest`, by a compare-and-exchange with the word that it saw when all lanes were empty: where that
//! fails there are new frames. The NIC exchanges `latest` as a whole. If the bit was set in what it
//! gets, the bit is gone, so one sender alone notes the queue among the `bells` of the TX queue that it
//! was called for (the bit of the queue's number in the whole NIC, [`Geometry::rx_queue`]) and says so
//! ([`TX_BELL`](crate::service::TX_BELL)). The sender's guest takes the bits and rings the bell of each
//! ([`crate::nic_device::register::BELLS`]), which is an interrupt of the sleeper. Bits that a
//! stopped call has left are rung behind a later one. On the path exit-kernel the host's kernel takes
//! and rings them at the end of the request, whose result then says nothing of them, and on exit-user the
//! VMM does: nothing is left to the guest there.
//!
//! Nobody relies on it. The NIC's owner looks after the queues that are `asleep` and no longer armed
//! every tenth of a second, and rings those: so a sender that never rings, or was stopped in between,
//! costs the sleeper such a time at most.
//!
//! # Secret
//!
//! The header has the [`Secret`](crate::service::Secret) of the tenancy. Whoever reads it there can
//! make requests for the port, and nobody else: so a guest maps its window for its driver alone. The
//! NIC does not read it there, so that a guest that overwrites it harms itself, until the host writes
//! the header of the next tenancy.
//!
//! # Records
//!
//! A ring holds *records*: a [`RecordHeader`] of 16 bytes, a frame, and as many bytes as bring the
//! next record to a multiple of [`RECORD_ALIGN`]. A record never wraps: where the next one does not
//! fit in front of the ring's end, a record of kind [`KIND_PAD`] says that it is at the beginning.
//! So frames of 64 bytes take 80 bytes of a ring, and those of 1514 bytes take 1536.
//!
//! # Positions
//!
//! A position is a `u32` count of bytes that runs freely and wraps, a multiple of [`RECORD_ALIGN`].
//! Position `p` is at offset `p % size` of its ring. `producer - consumer` (wrapping) bytes are in
//! the ring; more than its size is an invalid pair.
//!
//! Positions continue across the tenants of a port: a guest that starts takes the TX consumer as
//! its TX producer, and `consumed` as it finds it. After a call that was stopped before its end the
//! TX consumer may lag behind the records that the NIC took. Any request puts it right, so a guest
//! that may begin after such a call first makes a request for no frames ([`crate::service::OP_TX`],
//! count 0).
//!
//! An element of `published` is a [`Published`]: a position (low half) and the tenancy that its
//! frames are meant for (high half, [`WindowHeader::tenancy`]). One store publishes both. A guest
//! takes a lane whose tenancy is not its own as empty: its frames are for a former tenant, by a
//! call that was stopped meanwhile.
//!
//! # Orderings
//!
//! Each last store is a release; a load of the same word with acquire makes the fourth column
//! visible.
//!
//! | action | order of the writes | last store | visible with it |
//! | --- | --- | --- | --- |
//! | guest sends | records, then | TX producer | the records below the position |
//! | NIC takes | (reads records), then | TX consumer | that the bytes below are free again |
//! | NIC delivers | records, then | `published` | the records below the position |
//! | NIC tells | `published`, then | `latest` | what was published |
//! | guest receives | (reads records), then | `consumed` | that the bytes below are free again |
//!
//! The bytes between consumer and producer belong to the consumer, and the producer never writes
//! them; all other bytes of a ring belong to its producer.
//!
//! # Frames
//!
//! A frame is an Ethernet frame without FCS, [`MIN_FRAME`] to [`Geometry::max_frame`] bytes long.
//! Longer ones are accepted only as large segments ([`RecordHeader::gso_type`]). A frame with one
//! destination (known unicast, or any frame where only one other port is attached) is held back by
//! [`crate::service::TX_HOLD`] while the destination's lane is full. A frame with several
//! destinations is dropped for each of them that has no room. A receiver that wants lossless
//! unicast among more than two ports sends a frame first, so that the switch learns where it is.

mod geometry;
mod header;
mod limits;
mod port;
mod record;

pub use geometry::{BELL_WORDS, Geometry, GeometryError, LINE_SIZE, TX_LINES};
pub use header::{HeaderError, WINDOW_MAGIC, WindowHeader};
pub use limits::{
    DEFAULT_LANE_MIN, DEFAULT_LANES, DEFAULT_LANES_OF_MANY, DEFAULT_LANES_SIZE, DEFAULT_RING,
    DEFAULT_RING_OF_MANY, FEW_SENDERS, MAX_FRAME, MAX_LANES, MAX_PORTS, MAX_QUEUES, MAX_RING,
    MAX_SEGMENT, MAX_SEGMENTS, MAX_SENDERS, MIN_FRAME, MIN_RING,
};
pub use port::PortId;
pub use record::{
    ARMED, FEATURE_CSUM, FEATURE_TSO4, FEATURE_TSO6, FEATURE_USO, FEATURES, FLAG_NEEDS_CSUM,
    GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, KIND_FRAME, KIND_PAD, LOOK_AGAIN,
    PAD_WORD, Published, RECORD_ALIGN, RecordHeader, record_size,
};
