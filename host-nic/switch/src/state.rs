//! The state: the host-owned part of a NIC's memory, with ports, forwarding database and positions.
//!
//! ```text
//!   part         content                              written by            read by
//!   State        magic, geometry, hash key (a line)   host, once            host, all calls
//!                clock (a line)                       host                  all calls
//!                attached ports, generation (a line)  host; generation:     all calls
//!                                                     calls that learn, too
//!                tenancy and mode of each port        host                  all calls
//!                secret of each tenancy               host                  host
//!                forwarding database: buckets of      host, calls that      all calls
//!                  two lines                          learn
//!   PortState    what the port's guest may do         host; features,       all calls
//!   of each port                                      tokens: calls
//!                requests refused                     calls of the port     host
//!   SenderState  position of the TX queue, and how    calls for the queue   calls for the queue,
//!   of each        far its first frame came (a line)                        host
//!   vCPU         counters, drops by cause             calls of the vCPU     host
//!                cached routes, and links to its      calls of the vCPU     calls of the vCPU
//!                  lanes in all RX queues
//!   LaneState    holder                               calls that want one,  all calls
//!   of each                                           host
//!   lane (line)  positions, counters                  calls of the holder   host
//! ```
//!
//! [`layout`](crate::layout) says where each part lies. Guests never see this memory except on the
//! `direct` path, which has no isolation. Every word is an atomic accessed with plain moves, but
//! for the few that several calls change at once. A sender has one writer, whatever a guest does,
//! because a vCPU makes one call at a time. Two vCPUs that send from one TX queue at the same time
//! may both take a frame: their port sends it twice. Nothing here is believed further than a mask:
//! whatever the words hold, the switch stays inside the NIC's memory.

use crate::sync::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

use postern_abi::ABI_VERSION;
use postern_abi::service::Secret;
use postern_abi::window::{BELL_WORDS, Geometry, GeometryError, MAX_PORTS, PortId};

use crate::fdb::Fdb;
use crate::policy::acl::Acl;
use crate::policy::rate::Bucket;
use crate::policy::vlan::Vlan;

/// [`State::magic`]: "PSTNSTAT", little endian.
pub const STATE_MAGIC: u64 = u64::from_le_bytes(*b"PSTNSTAT");

/// Why a frame was not delivered, or a request not served in full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Cause {
    /// A record's header means nothing, or asks for what was not agreed on; or a record leads
    /// outside of what the guest said it wrote: then all that is left of that is skipped, and
    /// counts as one.
    BadDescriptor = 0,
    /// The frame is shorter than [`postern_abi::window::MIN_FRAME`].
    TooShort = 1,
    /// The frame is longer than [`Geometry::max_frame`], or the large segment longer than
    /// [`Geometry::max_segment`].
    TooLong = 2,
    /// The destination is behind the sender's own port or one without a tenant, or no other port
    /// has a tenant.
    NoDestination = 3,
    /// The destination's lane had no room. Counted once for each destination.
    Full = 4,
    /// The destination's consumer position is out of range, so that its lane counts as full.
    BadReceiver = 5,
    /// The sender's producer position is out of range, so that nothing was taken. Counts calls, not
    /// frames.
    BadIndex = 6,
    /// The frame has a source address, VLAN or tag that the port may not use.
    Spoofed = 7,
    /// A port's access list, its VLAN membership or port isolation refuses the frame.
    Policy = 8,
    /// The frame is above a port's rate.
    Rate = 9,
    /// All lanes of the destination are other senders'. Counted once for each destination.
    NoLane = 10,
    /// The destination is a reserved group address that the port does not forward
    /// ([`crate::policy::reserved`]).
    Reserved = 11,
    /// The source is no station's address: a group address, or all zero.
    BadSource = 12,
}

/// Number of [`Cause`]s.
pub const CAUSES: usize = 13;

impl Cause {
    /// All causes, in the order of their numbers.
    pub const ALL: [Cause; CAUSES] = [
        Cause::BadDescriptor,
        Cause::TooShort,
        Cause::TooLong,
        Cause::NoDestination,
        Cause::Full,
        Cause::BadReceiver,
        Cause::BadIndex,
        Cause::Spoofed,
        Cause::Policy,
        Cause::Rate,
        Cause::NoLane,
        Cause::Reserved,
        Cause::BadSource,
    ];

    /// The name of the cause in tables and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Cause::BadDescriptor => "bad_descriptor",
            Cause::TooShort => "too_short",
            Cause::TooLong => "too_long",
            Cause::NoDestination => "no_destination",
            Cause::Full => "full",
            Cause::BadReceiver => "bad_receiver",
            Cause::BadIndex => "bad_index",
            Cause::Spoofed => "spoofed",
            Cause::Policy => "policy",
            Cause::Rate => "rate",
            Cause::NoLane => "no_lane",
            Cause::Reserved => "reserved",
            Cause::BadSource => "bad_source",
        }
    }
}

/// TEST ONLY: a lock that is held, which the switch does without. It is there to show that tests of
/// stopped senders find such a lock.
#[cfg(feature = "attack-lock")]
pub(crate) struct Held<'a>(&'a AtomicU32);

#[cfg(feature = "attack-lock")]
impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.store(0, crate::sync::Ordering::Release);
    }
}

#[cfg(feature = "attack-lock")]
impl State {
    /// TEST ONLY: takes the lock, and waits for it as long as it takes.
    pub(crate) fn lock(&self) -> Held<'_> {
        while self.reserved.swap(1, crate::sync::Ordering::Acquire) != 0 {
            core::hint::spin_loop();
        }
        Held(&self.reserved)
    }
}

/// The first part of the state, one for the NIC. Any content is valid, so that it can be referred
/// to wherever memory of the right size and alignment is mapped.
#[repr(C, align(64))]
pub struct State {
    /// [`STATE_MAGIC`] once the host has initialised everything.
    pub magic: AtomicU64,
    /// [`ABI_VERSION`].
    pub abi_version: AtomicU32,
    /// Number of ports. This and the three words that follow are for those who map the memory;
    /// calls take the geometry from their [`Credentials`](crate::credentials::Credentials).
    pub ports: AtomicU32,
    /// Number of queues of each port.
    pub queues: AtomicU32,
    /// Size of a TX ring in bytes.
    pub ring: AtomicU32,
    /// Size of a lane in bytes.
    pub lane: AtomicU32,
    reserved: AtomicU32,
    /// Random key of the forwarding database's bijection and of the flow hash.
    pub key: [AtomicU64; 2],
    /// Not 0 if VLANs are told apart, and each port's [`Vlan`] counts.
    pub vlans: AtomicU64,
    /// Number of lanes of each RX queue.
    pub lanes: AtomicU32,
    pad0: AtomicU32,
    /// The host's clock.
    pub clock: Clock,
    /// The ports that have a tenant: bit `p % 64` of word `p / 64` says that port `p` receives
    /// frames.
    pub attached: [AtomicU64; MAX_PORTS as usize / 64],
    /// The generation: number of changes of the forwarding database and of the set of attached
    /// ports, from 1. A route that was cached in an older generation is void.
    pub generation: AtomicU64,
    pad1: [AtomicU64; 3],
    /// Number of each port's present tenancy; 0 is none.
    pub tenancy: [AtomicU32; MAX_PORTS as usize],
    /// Mode of each port: what its calls have to mind, `MODE_*`.
    pub mode: [AtomicU32; MAX_PORTS as usize],
    /// Secret of each port's present tenancy, for the host, which makes
    /// [`Credentials`](crate::credentials::Credentials) of it. Calls compare with the one in their
    /// credentials.
    pub secret: [AtomicU64; MAX_PORTS as usize],
    /// The forwarding database: which port each station is behind.
    pub fdb: Fdb,
}

impl core::fmt::Debug for State {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("State")
            .field("abi_version", &self.abi_version)
            .field("ports", &self.ports)
            .field("queues", &self.queues)
            .field("ring", &self.ring)
            .field("lane", &self.lane)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

/// Bit of [`State::mode`]: the sources of frames from the port are not learned. It is for a port
/// whose guest sends what several stations said to each other, such as a replayed capture. If they
/// were learned, each would be behind the sender's own port, and frames to them would go nowhere.
pub const MODE_NO_LEARNING: u32 = 1 << 0;
/// Bit of [`State::mode`]: frames from the port meet a policy, of its own or of a port that may
/// receive them, so that they take the slow path.
pub const MODE_POLICY: u32 = 1 << 1;
/// Lowest of the 16 bits of [`State::mode`] that say which reserved group addresses the port
/// forwards frames to ([`crate::policy::reserved`]).
pub const MODE_RESERVED_SHIFT: u32 = 16;

/// The clock of rate limits and ageing. View code cannot ask the processor, whose time-stamp
/// counter the guest sets, so the owner of the NIC writes the time here. While the owner is gone,
/// time stands still.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Clock {
    /// Time in nanoseconds since some moment, never going back.
    pub now: AtomicU64,
    /// Number of ticks of the forwarding database's ageing, modulo [`crate::fdb::STAMPS`]. Each
    /// tick begins a new [`State::generation`], so that stations that send are stamped anew.
    pub tick: AtomicU32,
    reserved: AtomicU32,
    pad: [AtomicU64; 6],
}

/// The state of a port: what its guest may do. All zero is everything. The host writes it, but for
/// the features, the tokens of the buckets and the number of refused requests, which calls change.
#[repr(C, align(128))]
pub struct PortState {
    /// Features that were agreed on with the port's tenant, `FEATURE_*` of [`postern_abi::window`].
    pub features: AtomicU32,
    /// Mirror: number, plus 1, of the port that gets a copy of each frame that this one sends or
    /// receives; 0 is none.
    pub mirror: AtomicU32,
    /// The only source address that the port may use, with [`SOURCE_FIXED`] and perhaps
    /// [`SOURCE_OWN`]; 0 is any.
    pub source: AtomicU64,
    /// Port isolation: bit `p % 64` of word `p / 64` says that frames from this port do not reach
    /// port `p`.
    pub blocked: [AtomicU64; MAX_PORTS as usize / 64],
    /// Rate limit of what the port sends.
    pub ingress: Bucket,
    /// Rate limit of what the port receives.
    pub egress: Bucket,
    /// VLAN settings of the port.
    pub vlan: Vlan,
    /// Access list of the port.
    pub acl: Acl,
    /// Number of requests that were refused because they lacked the secret of the tenancy.
    pub refused: AtomicU64,
}

impl core::fmt::Debug for PortState {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("PortState")
            .field("features", &self.features)
            .field("mirror", &self.mirror)
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

/// Bit of [`PortState::source`]: there is an address.
pub const SOURCE_FIXED: u64 = 1 << 63;
/// Bit of [`PortState::source`]: the address is the tenant's, and changes with the tenant.
pub const SOURCE_OWN: u64 = 1 << 62;

/// The state of a sender: what calls of one vCPU keep from one call to the next, and the position
/// of the TX queue of the same number. In memory, a [`Link`] for each RX queue follows it: to the lane
/// that the sender had there last. Whether it still has it, [`LaneState::holder`] says.
#[repr(C, align(64))]
pub struct SenderState {
    /// Position up to which the TX queue's records were taken, the NIC's own copy.
    pub tx_next: AtomicU32,
    /// Whether [`SenderState::bells`] has anything.
    pub belled: AtomicU32,
    /// The frame behind that position, and the ports that it has reached, if it has more
    /// destinations than one call serves; else 0.
    pub paused: AtomicU64,
    /// The mirrors that are still to get a copy of that frame, as in [`State::attached`].
    pub paused_mirrors: [AtomicU64; MAX_PORTS as usize / 64],
    /// Number of calls to send that began.
    pub calls: AtomicU64,
    /// Number of the last call that came to its end: less than [`SenderState::calls`] while one goes
    /// on, or was stopped.
    pub ended: AtomicU64,
    /// Number of frames taken.
    pub frames: AtomicU64,
    /// Number of bytes of the frames taken that had an acceptable length.
    pub bytes: AtomicU64,
    /// Number of stations learned.
    pub learned: AtomicU64,
    /// Number of stations that moved to this port from another.
    pub moved: AtomicU64,
    /// Number of frames not delivered, by [`Cause`].
    pub drops: [AtomicU64; CAUSES],
    /// The RX queues that are to be rung, and that no guest has been told of: of each the bit of its
    /// number in the whole NIC.
    pub bells: [AtomicU64; BELL_WORDS],
    pad1: [AtomicU64; 3],
    /// The cache of routes of frames with one destination. The last byte of the destination's
    /// address, modulo [`CACHED_ROUTES`], chooses the element.
    pub routes: [CachedRoute; CACHED_ROUTES],
}

impl core::fmt::Debug for SenderState {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("SenderState")
            .field("tx_next", &self.tx_next)
            .field("frames", &self.frames)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

/// Number of routes in a sender's cache, a power of two.
pub const CACHED_ROUTES: usize = 64;

/// A cached route: the lane in which frames of a sender with certain addresses went. Misleading
/// content, however it came about, only sends that sender's own frames elsewhere in the NIC's memory.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct CachedRoute {
    /// Bytes 0 to 7 of the frames: destination, and the first two bytes of the source.
    pub first: AtomicU64,
    /// [`State::generation`] in which the route was found; it is void in any other.
    pub generation: AtomicU64,
    /// Bytes 8 to 11 of the frames: the other four bytes of the source.
    pub second: AtomicU32,
    /// The lane; none if the frames go to all other ports that have a tenant.
    pub link: Link,
    pad: [AtomicU32; 7],
}

/// A link: where a lane is of which a sender is the holder. Misleading content, however it came about,
/// only sends that sender's own frames elsewhere in the NIC's memory.
#[repr(C)]
#[derive(Debug)]
pub struct Link {
    /// Offset of the [`LaneState`], in bytes; 0 if the link leads to no lane.
    pub state: AtomicU32,
    /// Offset of the page with the RX queue's words, in pages.
    pub words: AtomicU32,
    /// Offset of the lane's first byte, in pages.
    pub ring: AtomicU32,
    /// Number of the lane in the RX queue.
    pub lane: AtomicU8,
    reserved: [AtomicU8; 3],
}

/// The state of a lane, on the side of its holder. Positions are those of [`postern_abi::window`].
///
/// A lane gets a holder by one exchange of [`LaneState::holder`], which one call wins, and another
/// holder than before only once the frames of that one have been read. All other words belong to the
/// holder.
/// It keeps the lane until the host takes it, which does so when no call of the holder can still
/// write to it. So a holder that is stopped anywhere keeps its lane, and nobody else's.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct LaneState {
    /// Position up to which the lane was published, and the receiver's tenancy that the lane's
    /// positions belong to: the NIC's own copy of a [`Published`](postern_abi::window::Published)
    /// word, stored before the one in the window.
    pub published: AtomicU64,
    /// Position up to which records may be written without another look at the consumer position,
    /// not beyond the lane's end, and the same tenancy: a word of the same form.
    pub limit: AtomicU64,
    /// Number of frames delivered.
    pub frames: AtomicU64,
    /// Number of bytes of the frames delivered.
    pub bytes: AtomicU64,
    /// Number of frames dropped because the lane had no room, or its consumer position was out of
    /// range.
    pub drops: AtomicU64,
    /// Position up to which the lane is filled, while a call has left it for another lane.
    pub position: AtomicU32,
    /// Number of the sender that has the lane, plus 1, or that had it last, with [`LANE_FREE`]; 0 if
    /// none has ever had it.
    pub holder: AtomicU32,
    /// Of lane 0 of a queue: not 0 if a sender found that all lanes of the queue are others', and while
    /// one of them is taken from its holder.
    pub wanted: AtomicU64,
    /// While the lane is taken from its holder ([`LANE_NOTED`]): number of the holder's calls that had
    /// begun.
    pub begun: AtomicU64,
}

/// Bit of [`LaneState::holder`]: nobody has the lane.
pub const LANE_FREE: u32 = 1 << 31;
/// Bit of [`LaneState::holder`]: the host takes the lane from its holder, whose calls that begin now
/// leave it alone.
pub const LANE_LEAVING: u32 = 1 << 30;
/// Bit of [`LaneState::holder`]: [`LaneState::begun`] counts all of the holder's calls that may still
/// write to the lane.
pub const LANE_NOTED: u32 = 1 << 29;

const _: () = assert!(core::mem::offset_of!(State, clock) == 64);
const _: () = assert!(core::mem::offset_of!(State, attached) == 128);
const _: () = assert!(core::mem::offset_of!(State, tenancy) == 192);
const _: () = assert!(size_of::<LaneState>() == 64);
const _: () = assert!(size_of::<CachedRoute>() == 64 && size_of::<Link>() == 16);

impl State {
    /// The state at the start of a NIC's memory.
    ///
    /// # Safety
    ///
    /// `base` must be aligned to a page and valid for reads and writes of
    /// [`state_size`](crate::layout::state_size) bytes for `'a`, and all of that memory may only be
    /// accessed atomically meanwhile.
    #[inline]
    pub const unsafe fn at<'a>(base: *mut u8) -> &'a State {
        // SAFETY: the caller vouches for size, alignment and lifetime; every field is an atomic,
        // for which any content is valid and shared access is sound.
        unsafe { &*base.cast::<State>() }
    }

    /// Checks that this is the state of a NIC of this version, and returns its geometry.
    ///
    /// # Errors
    ///
    /// [`StateError`]: magic, version or geometry are not a NIC's.
    pub fn check(&self) -> Result<Geometry, StateError> {
        let magic = self.magic.load(Relaxed);
        if magic != STATE_MAGIC {
            return Err(StateError::Magic(magic));
        }
        let version = self.abi_version.load(Relaxed);
        if version != ABI_VERSION {
            return Err(StateError::Version(version));
        }
        let [ports, queues, ring, lane] =
            [&self.ports, &self.queues, &self.ring, &self.lane].map(|word| word.load(Relaxed));
        Geometry::new(ports, queues, ring, lane)
            .and_then(|geometry| geometry.with_lanes(self.lanes.load(Relaxed)))
            .map_err(StateError::Geometry)
    }

    /// Stores the geometry, for [`State::check`].
    pub fn set_geometry(&self, geometry: Geometry) {
        self.ports.store(geometry.ports(), Relaxed);
        self.queues.store(geometry.queues(), Relaxed);
        self.ring.store(geometry.ring(), Relaxed);
        self.lane.store(geometry.lane(), Relaxed);
        self.lanes.store(geometry.lanes(), Relaxed);
    }

    /// Number of a port's present tenancy, 0 if there is none.
    #[inline]
    pub fn tenancy(&self, port: PortId) -> u32 {
        self.tenancy[port.index()].load(Relaxed)
    }

    /// Secret of a port's present tenancy.
    pub fn secret(&self, port: PortId) -> Secret {
        Secret::from_word(self.secret[port.index()].load(Relaxed))
    }

    /// Mode of a port: what its calls have to mind, `MODE_*`.
    #[inline]
    pub fn mode(&self, port: PortId) -> u32 {
        self.mode[port.index()].load(Relaxed)
    }
}

impl SenderState {
    /// Counts a number of frames that were not delivered.
    #[inline]
    pub fn count(&self, cause: Cause, frames: u64) {
        add(&self.drops[cause as usize], frames);
    }
}

/// Adds to a counter that has one writer: plain moves, no locked instruction.
#[inline]
pub fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(amount), Relaxed);
}

/// Why memory is not that of a NIC, or a port has no credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateError {
    /// The memory begins with this word, and not with [`STATE_MAGIC`].
    Magic(u64),
    /// The memory has this version, and not [`ABI_VERSION`].
    Version(u32),
    /// The numbers or sizes in the state are not valid.
    Geometry(GeometryError),
    /// The port of this number does not exist or has no tenant.
    Port(u32),
}

impl core::fmt::Display for StateError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            StateError::Magic(magic) => {
                write!(
                    f,
                    "no state of a Postern NIC here (it begins with {magic:#x})"
                )
            }
            StateError::Version(version) => write!(
                f,
                "the NIC has ABI version {version}, this program {ABI_VERSION}: \
                 build both from one revision"
            ),
            StateError::Geometry(error) => error.fmt(f),
            StateError::Port(port) => write!(f, "port {port} of the NIC has no tenant"),
        }
    }
}

impl core::error::Error for StateError {}
