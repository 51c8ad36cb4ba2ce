//! The host-owned half of a NIC's memory: who is attached, where stations are, how far each ring is.
//!
//! ```text
//!   line       content                                  written by              read by
//!   0          magic, version, geometry, hash key       host, once              host, all calls
//!   1          attached ports, ports without learning   host                    all calls
//!   2          tenancy of each port                     host                    all calls
//!   ...        MAC table: buckets of two lines          all calls that learn    all calls
//!   per port   TX index, counters, drops                that port's calls       host
//!              for each destination a LaneState         that port's calls       host
//! ```
//!
//! Guests never see this memory except on the `direct` path, which has no isolation. Everything is an
//! atomic accessed with plain moves. A port's own words have one writer as long as its guest makes one
//! call at a time; if it does not, only its own frames and counts go wrong. Nothing here is believed
//! further than a mask: whatever the words hold, the core stays inside the NIC's memory.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use postern_abi::window::{Geometry, GeometryError, MAX_PORTS, PortId};
use postern_abi::{ABI_VERSION, PAGE_SIZE};

use crate::caller::Caller;
use crate::table::Table;

/// [`State::magic`]: "PSTNSTAT", little endian.
pub const STATE_MAGIC: u64 = u64::from_le_bytes(*b"PSTNSTAT");

/// Bytes that switch state takes in front of the first window.
pub const STATE_SIZE: u64 = (size_of::<State>() as u64).next_multiple_of(PAGE_SIZE);

/// Why a frame was not delivered, or a request not served in full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Cause {
    /// A reserved bit of the descriptor was set.
    BadDescriptor = 0,
    /// Shorter than [`postern_abi::window::MIN_FRAME`].
    TooShort = 1,
    /// Longer than [`postern_abi::window::MAX_FRAME`].
    TooLong = 2,
    /// Nobody but the sender is at the destination's port, or nobody at all is attached.
    NoDestination = 3,
    /// The destination's lane had no room; once for each destination.
    Full = 4,
    /// The destination's consumer index is out of range: its lane counts as full.
    BadReceiver = 5,
    /// The destination was detached during the call.
    Detached = 6,
    /// The sender's producer index is out of range: nothing was taken. Counts calls, not frames.
    BadIndex = 7,
}

/// Number of [`Cause`]s.
pub const CAUSES: usize = 8;

impl Cause {
    /// All causes, in the order of their numbers.
    pub const ALL: [Cause; CAUSES] = [
        Cause::BadDescriptor,
        Cause::TooShort,
        Cause::TooLong,
        Cause::NoDestination,
        Cause::Full,
        Cause::BadReceiver,
        Cause::Detached,
        Cause::BadIndex,
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
            Cause::Detached => "detached",
            Cause::BadIndex => "bad_index",
        }
    }
}

/// TEST ONLY: what the switch does without. It is there to show that tests of stopped senders find it.
#[cfg(feature = "attack-lock")]
pub(crate) struct Held<'a>(&'a AtomicU32);

#[cfg(feature = "attack-lock")]
impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.store(0, core::sync::atomic::Ordering::Release);
    }
}

#[cfg(feature = "attack-lock")]
impl State {
    /// Waits for the lock as long as it takes.
    pub(crate) fn lock(&self) -> Held<'_> {
        while self.reserved.swap(1, core::sync::atomic::Ordering::Acquire) != 0 {
            core::hint::spin_loop();
        }
        Held(&self.reserved)
    }
}

/// All of the switch state. Valid for any content, so it can be referred to wherever memory of the
/// right size and alignment is mapped.
#[repr(C, align(64))]
pub struct State {
    /// [`STATE_MAGIC`] once the host has initialised everything.
    pub magic: AtomicU64,
    /// [`ABI_VERSION`].
    pub abi_version: AtomicU32,
    /// Number of ports, for those who map the memory; calls take it from [`Caller`].
    pub ports: AtomicU32,
    /// Number of slots of each ring, likewise.
    pub slots: AtomicU32,
    reserved: AtomicU32,
    /// Random key of the MAC table's hash.
    pub key: [AtomicU64; 2],
    pad0: [AtomicU64; 3],
    /// Bit `p`: port `p` receives frames.
    pub attached: AtomicU64,
    /// Bit `p`: the sources of frames from port `p` are not learned. For a port whose guest sends what
    /// several stations said to each other, such as a replayed capture: learned, each of them
    /// would be behind the sender's own port, and frames to them would go nowhere.
    pub unlearned: AtomicU64,
    pad1: [AtomicU64; 6],
    /// Which tenant each port has; 0 is nobody.
    pub tenancy: [AtomicU32; MAX_PORTS as usize],
    /// Where stations are.
    pub table: Table,
    /// What calls of each port keep.
    pub senders: [SenderState; MAX_PORTS as usize],
}

/// What one port's calls keep from one to the next.
#[repr(C, align(128))]
pub struct SenderState {
    /// TX index up to which frames were taken: the NIC's own copy.
    pub tx_next: AtomicU32,
    reserved: AtomicU32,
    /// Frames taken.
    pub frames: AtomicU64,
    /// Bytes of the frames that were long enough and short enough.
    pub bytes: AtomicU64,
    /// Stations learned.
    pub learned: AtomicU64,
    /// Stations that moved to this port from another.
    pub moved: AtomicU64,
    pad: [AtomicU64; 3],
    /// Frames not delivered, by [`Cause`].
    pub drops: [AtomicU64; CAUSES],
    /// Towards each destination.
    pub lanes: [LaneState; MAX_PORTS as usize],
}

/// One sender's side of one destination's lane.
#[repr(C, align(32))]
pub struct LaneState {
    /// Next index to fill: the NIC's own copy, stored before the published one.
    pub producer: AtomicU32,
    /// The destination's consumer index when it was last read and found valid.
    pub consumer: AtomicU32,
    /// Frames delivered.
    pub frames: AtomicU64,
    /// Frames dropped because the lane had no room, or its consumer index was out of range.
    pub drops: AtomicU64,
}

const _: () = assert!(core::mem::offset_of!(State, attached) == 64);
const _: () = assert!(core::mem::offset_of!(State, tenancy) == 128);
const _: () = assert!(size_of::<LaneState>() == 32);
const _: () = assert!(size_of::<SenderState>() == 640);

impl State {
    /// The state at the start of a NIC's memory.
    ///
    /// # Safety
    /// `base` must be aligned to a page and valid for reads and writes of [`STATE_SIZE`] bytes for
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
        Geometry::new(self.ports.load(Relaxed), self.slots.load(Relaxed))
            .map_err(StateError::Geometry)
    }

    /// The word for calls of a port's present tenant, for a place that has the state mapped and is
    /// told only the port (the `direct` path).
    pub fn caller(&self, port: u32) -> Result<Caller, StateError> {
        let geometry = self.check()?;
        let port = geometry.port(port).ok_or(StateError::Port(port))?;
        match self.tenancy(port) {
            0 => Err(StateError::Port(port.number())),
            tenancy => Ok(Caller {
                geometry,
                port,
                tenancy,
            }),
        }
    }

    /// The tenant of a port, 0 if there is none.
    #[inline]
    pub fn tenancy(&self, port: PortId) -> u32 {
        self.tenancy[port.index()].load(Relaxed)
    }

    /// What the calls of a port keep.
    #[inline]
    pub fn sender(&self, port: PortId) -> &SenderState {
        &self.senders[port.index()]
    }
}

impl SenderState {
    /// Counts frames that were not delivered.
    #[inline]
    pub fn count(&self, cause: Cause, frames: u64) {
        add(&self.drops[cause as usize], frames);
    }

    /// This sender's side of a destination's lane.
    #[inline]
    pub fn lane(&self, to: PortId) -> &LaneState {
        &self.lanes[to.index()]
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
    /// Its numbers of ports and slots are not valid.
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
