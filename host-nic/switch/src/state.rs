//! The host-owned half of a NIC's memory: who is attached, where stations are, how far each ring is.
//!
//! ```text
//!   offset        content                                       written by                read by
//!   0             State: magic, geometry, hash key (a line)     host, once                host, all calls
//!                 clock (a line)                                host                      all calls
//!                 attached ports (a line)                       host                      all calls
//!                 tenancy of each port, mode of each port       host                      all calls
//!                 MAC table: buckets of two lines               calls that learn, host    all calls
//!   PORTS         PortState of each port: what its guest may do host (features: its calls) all calls
//!   ...           SenderState of each port's vCPU:
//!                   TX position of the queue (a line)           calls for that queue      host
//!                   counters, drops by cause                    that vCPU's calls         host
//!                   routes that it remembers                    that vCPU's calls         that vCPU's calls
//!                   for each RX queue a LaneState (a line)      that vCPU's calls         host
//! ```
//!
//! Guests never see this memory except on the `direct` path, which has no isolation. Everything is an
//! atomic accessed with plain moves. A sender has one writer, whatever a guest does, because a vCPU makes
//! one call at a time. Two vCPUs that send from one TX queue at the same time may
//! both take a frame: their port sends it twice. Nothing here is believed further than a mask: whatever
//! the words hold, the core stays inside the NIC's memory.

use crate::sync::{AtomicU32, AtomicU64, Ordering::Relaxed};

use postern_abi::ABI_VERSION;
use postern_abi::window::{Geometry, GeometryError, MAX_PORTS, PortId};

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
    /// A header that means nothing, or asks for what was not agreed on; or a record that
    /// leads outside of what the guest said it wrote: then all of that is skipped, and counts as one.
    BadDescriptor = 0,
    /// Shorter than [`postern_abi::window::MIN_FRAME`].
    TooShort = 1,
    /// Longer than [`Geometry::max_frame`], or than [`Geometry::max_segment`].
    TooLong = 2,
    /// Nobody but the sender is at the destination's port, or nobody at all is attached.
    NoDestination = 3,
    /// The destination's lane had no room; once for each destination.
    Full = 4,
    /// The destination's consumer position is out of range: its lane counts as full.
    BadReceiver = 5,
    /// The sender's producer position is out of range: nothing was taken. Counts calls, not frames.
    BadIndex = 6,
    /// A source address or VLAN that the port may not use.
    Spoofed = 7,
    /// Refused by the port's access list, or by its VLAN membership, or by port isolation.
    Policy = 8,
    /// Above the port's rate.
    Rate = 9,
}

/// Number of [`Cause`]s.
pub const CAUSES: usize = 10;

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
    ];

    /// The name in tables and JSON.
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
        }
    }
}

/// TEST ONLY: what the switch does without. It is there to show that tests of stopped senders find it.
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
    /// Waits for the lock as long as it takes.
    pub(crate) fn lock(&self) -> Held<'_> {
        while self.reserved.swap(1, crate::sync::Ordering::Acquire) != 0 {
            core::hint::spin_loop();
        }
        Held(&self.reserved)
    }
}

/// The first part of the state. Valid for any content, so it can be referred to wherever memory of the
/// right size and alignment is mapped.
#[repr(C, align(64))]
pub struct State {
    /// [`STATE_MAGIC`] once the host has initialised everything.
    pub magic: AtomicU64,
    /// [`ABI_VERSION`].
    pub abi_version: AtomicU32,
    /// Number of ports, for those who map the memory; calls take it from
    /// [`Credentials`](crate::credentials::Credentials).
    pub ports: AtomicU32,
    /// Number of queues of each port, likewise.
    pub queues: AtomicU32,
    /// Size of a TX ring in bytes, likewise.
    pub ring: AtomicU32,
    /// Size of a lane in bytes, likewise.
    pub lane: AtomicU32,
    reserved: AtomicU32,
    /// Random key of the MAC table's hash, and of the flow hash.
    pub key: [AtomicU64; 2],
    /// Not 0: VLANs are told apart, and each port's [`Vlan`] counts.
    pub vlans: AtomicU64,
    pad0: AtomicU64,
    /// The host's clock.
    pub clock: Clock,
    /// Bit `p % 64` of word `p / 64`: port `p` receives frames.
    pub attached: [AtomicU64; MAX_PORTS as usize / 64],
    /// Counts changes of the table and of what is attached, from 1: what a sender remembers of it is then void.
    pub generation: AtomicU64,
    pad1: [AtomicU64; 3],
    /// Which tenant each port has; 0 is nobody.
    pub tenancy: [AtomicU32; MAX_PORTS as usize],
    /// What calls of each port have to mind, `MODE_*`.
    pub mode: [AtomicU32; MAX_PORTS as usize],
    /// Where stations are.
    pub fdb: Fdb,
}

/// [`State::mode`]: the sources of frames from the port are not learned. For a port whose guest sends what
/// several stations said to each other, such as a replayed capture: learned, each of them
/// would be behind the sender's own port, and frames to them would go nowhere.
pub const MODE_NO_LEARNING: u32 = 1 << 0;
/// [`State::mode`]: frames from the port meet a policy, of its own or of a port that may receive them.
pub const MODE_POLICY: u32 = 1 << 1;

/// The time that rate limits and ageing go by. View code cannot ask the processor, whose time-stamp counter
/// the guest sets; so the owner of the NIC writes it here, and while the owner is gone time stands still.
#[repr(C, align(64))]
pub struct Clock {
    /// Nanoseconds since some moment, never going back.
    pub now: AtomicU64,
    /// Ticks of the MAC table's ageing, modulo [`crate::fdb::STAMPS`]. Each begins a new epoch, so that
    /// stations that send are stamped anew.
    pub tick: AtomicU32,
    reserved: AtomicU32,
    pad: [AtomicU64; 6],
}

/// What a port's guest may do. All zero is everything. Written by the host, but for the features and the
/// tokens of the buckets.
#[repr(C, align(128))]
pub struct PortState {
    /// The features that were agreed on with its tenant, `FEATURE_*` of [`postern_abi::window`].
    pub features: AtomicU32,
    /// The port that gets a copy of each frame which this one sends or receives, plus 1; 0 is none.
    pub mirror: AtomicU32,
    /// The only source address that it may use, [`SOURCE_FIXED`], and perhaps [`SOURCE_OWN`]; 0 is any.
    pub source: AtomicU64,
    /// Ports that frames from it do not reach: bit `p % 64` of word `p / 64`.
    pub blocked: [AtomicU64; MAX_PORTS as usize / 64],
    /// How much it may send.
    pub ingress: Bucket,
    /// How much it may receive.
    pub egress: Bucket,
    /// Which VLANs it is in.
    pub vlan: Vlan,
    /// Which packets it may send and receive.
    pub acl: Acl,
}

/// [`PortState::source`]: there is an address.
pub const SOURCE_FIXED: u64 = 1 << 63;
/// [`PortState::source`]: the address is the tenant's, and changes with the tenant.
pub const SOURCE_OWN: u64 = 1 << 62;

/// What calls of one vCPU keep from one to the next, and what calls for the TX queue of the same number do.
#[repr(C, align(64))]
pub struct SenderState {
    /// Position up to which the TX queue's records were taken: the NIC's own copy.
    pub tx_next: AtomicU32,
    reserved: AtomicU32,
    pad: [AtomicU64; 7],
    /// Frames taken.
    pub frames: AtomicU64,
    /// Bytes of the frames that were long enough and short enough.
    pub bytes: AtomicU64,
    /// Stations learned.
    pub learned: AtomicU64,
    /// Stations that moved to this port from another.
    pub moved: AtomicU64,
    /// Frames not delivered, by [`Cause`].
    pub drops: [AtomicU64; CAUSES],
    pad1: [AtomicU64; 2],
    /// Where frames with a single destination went, by the last byte of that.
    pub routes: [CachedRoute; CACHED_ROUTES],
}

/// Routes that a sender remembers, a power of two.
pub const CACHED_ROUTES: usize = 16;

/// A route that a sender remembers from one call to the next. Misleading content, however it came about,
/// only sends that sender's own frames elsewhere.
#[repr(C)]
pub struct CachedRoute {
    /// First eight bytes of the frames.
    pub first: AtomicU64,
    /// The next four.
    pub second: AtomicU32,
    /// The number of the port.
    pub port: AtomicU32,
    /// [`State::generation`] when that was found.
    pub generation: AtomicU64,
    pad: AtomicU64,
}

/// One sender's side of one of its lanes.
#[repr(C, align(64))]
pub struct LaneState {
    /// Up to where the lane was published: the NIC's own copy, stored before the one in the window.
    pub published: AtomicU32,
    /// Up to where it is filled, while a call has left it for another lane.
    pub position: AtomicU32,
    /// The receiver's consumer position when it was last read and found valid.
    pub consumed: AtomicU32,
    /// Up to where records may be written without another look at that; not beyond the lane's end.
    pub limit: AtomicU32,
    /// The receiver's tenancy that the positions belong to.
    pub tenancy: AtomicU32,
    reserved: AtomicU32,
    /// Frames delivered.
    pub frames: AtomicU64,
    /// Bytes of them.
    pub bytes: AtomicU64,
    /// Frames dropped because the lane had no room, or its consumer position was out of range.
    pub drops: AtomicU64,
    pad: [AtomicU64; 2],
}

const _: () = assert!(core::mem::offset_of!(State, clock) == 64);
const _: () = assert!(core::mem::offset_of!(State, attached) == 128);
const _: () = assert!(core::mem::offset_of!(State, tenancy) == 192);
const _: () = assert!(size_of::<LaneState>() == 64);
const _: () = assert!(size_of::<SenderState>() == 704);

impl State {
    /// The state at the start of a NIC's memory.
    ///
    /// # Safety
    /// `base` must be aligned to a page and valid for reads and writes of [`state_size`](crate::layout::state_size) bytes for
    /// `'a`, and all of it may only be accessed atomically meanwhile.
    #[inline]
    pub const unsafe fn at<'a>(base: *mut u8) -> &'a State {
        // SAFETY: the caller vouches for size, alignment and lifetime; every field is an atomic, for
        // which any content is valid and shared access is sound.
        unsafe { &*base.cast::<State>() }
    }

    /// Checks that this is the state of a NIC of this version, and returns its geometry.
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
        Geometry::new(ports, queues, ring, lane).map_err(StateError::Geometry)
    }

    /// Notes the geometry, for [`State::check`].
    pub fn set_geometry(&self, geometry: Geometry) {
        self.ports.store(geometry.ports(), Relaxed);
        self.queues.store(geometry.queues(), Relaxed);
        self.ring.store(geometry.ring(), Relaxed);
        self.lane.store(geometry.lane(), Relaxed);
    }

    /// The tenant of a port, 0 if there is none.
    #[inline]
    pub fn tenancy(&self, port: PortId) -> u32 {
        self.tenancy[port.index()].load(Relaxed)
    }

    /// What calls of a port have to mind, `MODE_*`.
    #[inline]
    pub fn mode(&self, port: PortId) -> u32 {
        self.mode[port.index()].load(Relaxed)
    }
}

impl SenderState {
    /// Counts frames that were not delivered.
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

/// Why memory is not a NIC's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateError {
    /// It does not begin with [`STATE_MAGIC`].
    Magic(u64),
    /// It was made by another [`ABI_VERSION`].
    Version(u32),
    /// Its numbers or sizes are not valid.
    Geometry(GeometryError),
    /// The port does not exist or has no tenant.
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
                "the NIC has ABI version {version}, this program {ABI_VERSION}: build both from one revision"
            ),
            StateError::Geometry(error) => error.fmt(f),
            StateError::Port(port) => write!(f, "port {port} of the NIC has no tenant"),
        }
    }
}

impl core::error::Error for StateError {}
