//! The memory of a switch as the host works with it: every word at its offset, checked.

use crate::sync::{AtomicU32, AtomicU64, Ordering::Relaxed};

use postern_abi::service::ERR_BAD_REQUEST;
use postern_abi::window::{BELL_WORDS, FEATURES, Geometry, PortId};

use crate::credentials::Credentials;
use crate::layout::{lane_offset, port_offset, sender_offset, window_offset};
use crate::state::{LaneState, Link, PortState, SenderState, State, StateError};

/// The switch in a NIC's memory of a known geometry, as the host sees it.
#[derive(Clone, Copy)]
pub struct Switch<'a> {
    base: *mut u8,
    geometry: Geometry,
    state: &'a State,
}

impl core::fmt::Debug for Switch<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Switch")
            .field("geometry", &self.geometry)
            .finish_non_exhaustive()
    }
}

impl<'a> Switch<'a> {
    /// The switch whose memory starts at `base`.
    ///
    /// # Safety
    ///
    /// `base` must be aligned to a page and valid for reads and writes of
    /// [`memory_size(geometry)`](crate::layout::memory_size) bytes for `'a`, and all of that memory
    /// may only be accessed atomically by this program meanwhile.
    #[inline]
    pub const unsafe fn from_base(base: *mut u8, geometry: Geometry) -> Switch<'a> {
        Switch {
            base,
            geometry,
            // SAFETY: the memory starts with the state, and the caller vouches for its size,
            // alignment and atomic access.
            state: unsafe { State::at(base) },
        }
    }

    /// The credentials of a port's present tenant.
    ///
    /// # Errors
    ///
    /// [`StateError`]: the state is not a NIC's, or the port does not exist or has no tenant.
    pub fn credentials(&self, port: u32) -> Result<Credentials, StateError> {
        Credentials::of_tenant(self.state, port)
    }

    /// The state at the beginning of the memory.
    pub const fn state(&self) -> &'a State {
        self.state
    }

    /// Geometry of the NIC: its ports, queues and sizes.
    pub const fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The state of a port, or nothing if the port is not one of this NIC's.
    #[inline]
    pub fn port(&self, port: PortId) -> Option<&'a PortState> {
        if port.number() >= self.geometry.ports() {
            return None;
        }
        let offset = port_offset(port.number()) as usize;
        // SAFETY: the offset is that of one of the states of ports, in memory that `from_base`'s
        // caller vouched for; every field is an atomic.
        Some(unsafe { &*self.base.add(offset).cast() })
    }

    /// The state of a sender, numbered in the whole NIC, or nothing if the NIC has no such sender.
    #[inline]
    pub fn sender(&self, number: u32) -> Option<&'a SenderState> {
        if number >= self.geometry.senders() {
            return None;
        }
        let offset = sender_offset(self.geometry, number) as usize;
        // SAFETY: the offset is that of one of the senders, in memory that `from_base`'s caller
        // vouched for; every field is an atomic.
        Some(unsafe { &*self.base.add(offset).cast() })
    }

    /// The state of a lane of an RX queue, numbered in the whole NIC, or nothing if there is none.
    #[inline]
    pub fn lane(&self, queue: u32, lane: u32) -> Option<&'a LaneState> {
        if queue >= self.geometry.senders() || lane >= self.geometry.lanes() {
            return None;
        }
        let offset = lane_offset(self.geometry, queue, lane) as usize;
        // SAFETY: the offset is that of one of the states of lanes, in memory that `from_base`'s
        // caller vouched for; every field is an atomic.
        Some(unsafe { &*self.base.add(offset).cast() })
    }

    /// The lane that a sender holds in an RX queue, both numbered in the whole NIC, and its state; or
    /// nothing if it holds none.
    pub fn lane_from(&self, sender: u32, queue: u32) -> Option<(u32, &'a LaneState)> {
        let lanes =
            (0..self.geometry.lanes()).filter_map(|lane| Some((lane, self.lane(queue, lane)?)));
        let holder = sender.checked_add(1);
        lanes
            .into_iter()
            .find(|(_, state)| Some(state.holder.load(Relaxed)) == holder)
    }

    /// The link of a sender to the lane that it had last in an RX queue, both numbered in the whole NIC,
    /// or nothing if the NIC has no such sender or queue.
    pub(crate) fn link(&self, sender: u32, queue: u32) -> Option<&'a Link> {
        if sender >= self.geometry.senders() || queue >= self.geometry.senders() {
            return None;
        }
        let links = sender_offset(self.geometry, sender) as usize + size_of::<SenderState>();
        let offset = links + queue as usize * size_of::<Link>();
        // SAFETY: as many links as there are RX queues follow the state of a sender, in memory that
        // `from_base`'s caller vouched for; every field is an atomic.
        Some(unsafe { &*self.base.add(offset).cast() })
    }

    /// First byte of a port's window, or nothing if the port is not one of this NIC's.
    #[inline]
    pub fn window(&self, port: PortId) -> Option<*mut u8> {
        if port.number() >= self.geometry.ports() {
            return None;
        }
        let offset = window_offset(self.geometry, port) as usize;
        // SAFETY: the port is one of the geometry's, so its window lies in the memory that
        // `from_base`'s caller vouched for.
        Some(unsafe { self.base.add(offset) })
    }

    /// The 32-bit word at an offset in a window, in bytes.
    ///
    /// # Safety
    ///
    /// `window` is the first byte of one of this NIC's windows, and `offset` one of its geometry's
    /// offsets of such words.
    #[inline]
    unsafe fn word(&self, window: *mut u8, offset: u64) -> &'a AtomicU32 {
        // SAFETY: the caller promises an aligned word of a window, in memory that `from_base`'s
        // caller vouched for.
        unsafe { AtomicU32::from_ptr(window.add(offset as usize).cast()) }
    }

    /// The producer position of a port's TX queue, which the guest writes, or nothing if there is
    /// no such queue.
    #[inline]
    pub fn tx_producer(&self, port: PortId, queue: u32) -> Option<&'a AtomicU32> {
        let window = self.window(port)?;
        if queue >= self.geometry.queues() {
            return None;
        }
        // SAFETY: the window is the port's, and the port has the queue.
        Some(unsafe { self.word(window, self.geometry.tx_producer_offset(queue)) })
    }

    /// The consumer position of a port's TX queue, as the guest sees it, or nothing if there is no
    /// such queue.
    #[inline]
    pub fn tx_consumer(&self, port: PortId, queue: u32) -> Option<&'a AtomicU32> {
        let window = self.window(port)?;
        if queue >= self.geometry.queues() {
            return None;
        }
        // SAFETY: the window is the port's, and the port has the queue.
        Some(unsafe { self.word(window, self.geometry.tx_consumer_offset(queue)) })
    }

    /// The words of a TX queue's `bells`, or nothing if there is no such queue.
    pub fn bells(&self, port: PortId, queue: u32) -> Option<[&'a AtomicU64; BELL_WORDS]> {
        let window = self.window(port)?;
        if queue >= self.geometry.queues() {
            return None;
        }
        let first = self.geometry.bells_offset(queue) as usize;
        Some(core::array::from_fn(|index| {
            // SAFETY: the port has the queue, so the words lie in the window, aligned, in memory that
            // `from_base`'s caller vouched for.
            unsafe { AtomicU64::from_ptr(window.add(first + index * 8).cast()) }
        }))
    }

    /// The word `asleep` of an RX queue of a port, or nothing if there is no such queue.
    pub fn asleep(&self, port: PortId, queue: u32) -> Option<&'a AtomicU32> {
        let window = self.window(port)?;
        if queue >= self.geometry.queues() {
            return None;
        }
        // SAFETY: the window is the port's, and the port has the queue.
        Some(unsafe { self.word(window, self.geometry.asleep_offset(queue)) })
    }

    /// The word `latest` of an RX queue of a port, or nothing if there is no such queue.
    #[inline]
    pub fn latest(&self, to: PortId, queue: u32) -> Option<&'a AtomicU64> {
        let window = self.window(to)?;
        if queue >= self.geometry.queues() {
            return None;
        }
        let offset = self.geometry.latest_offset(queue) as usize;
        // SAFETY: the port has the queue, so the word lies in the window, aligned, in memory that
        // `from_base`'s caller vouched for.
        Some(unsafe { AtomicU64::from_ptr(window.add(offset).cast()) })
    }

    /// A lane's element of `published` in an RX queue of a port, or nothing if there is none.
    #[inline]
    pub fn published(&self, to: PortId, queue: u32, lane: u32) -> Option<&'a AtomicU64> {
        let window = self.window(to)?;
        if lane >= self.geometry.lanes() || queue >= self.geometry.queues() {
            return None;
        }
        let offset = self.geometry.published_offset(queue, lane) as usize;
        // SAFETY: the port has the queue and the queue the lane, so the word lies in the window,
        // aligned, in memory that `from_base`'s caller vouched for.
        Some(unsafe { AtomicU64::from_ptr(window.add(offset).cast()) })
    }

    /// A lane's element of `consumed` in an RX queue of a port, or nothing if there is none.
    #[inline]
    pub fn consumed(&self, to: PortId, queue: u32, lane: u32) -> Option<&'a AtomicU32> {
        let window = self.window(to)?;
        if lane >= self.geometry.lanes() || queue >= self.geometry.queues() {
            return None;
        }
        // SAFETY: the window is the port's, the port has the queue, and the queue the lane.
        Some(unsafe { self.word(window, self.geometry.consumed_offset(queue, lane)) })
    }

    /// First byte of a TX queue's ring, or nothing if there is no such queue.
    #[inline]
    pub fn tx_ring(&self, port: PortId, queue: u32) -> Option<*mut u8> {
        let window = self.window(port)?;
        if queue >= self.geometry.queues() {
            return None;
        }
        let offset = self.geometry.tx_ring_offset(queue) as usize;
        // SAFETY: the port has the queue, so the ring lies in its window.
        Some(unsafe { window.add(offset) })
    }

    /// First byte of a lane of an RX queue of a port, or nothing if there is none.
    #[inline]
    pub fn lane_ring(&self, to: PortId, queue: u32, lane: u32) -> Option<*mut u8> {
        let window = self.window(to)?;
        if lane >= self.geometry.lanes() || queue >= self.geometry.queues() {
            return None;
        }
        let offset = self.geometry.lane_offset(queue, lane) as usize;
        // SAFETY: the port has the queue and the queue the lane, so the lane lies in the window.
        Some(unsafe { window.add(offset) })
    }

    /// Counts a request of a port that lacks the secret of the tenancy.
    #[cold]
    #[inline(never)]
    pub(super) fn refuse(&self, port: PortId) {
        if let Some(state) = self.port(port) {
            // Calls of several vCPUs of the port may count at once.
            state.refused.fetch_add(1, Relaxed);
        }
    }

    /// Serves [`OP_FEATURES`](postern_abi::service::OP_FEATURES): agrees on features with a port's
    /// tenant. Returns them, or [`ERR_BAD_REQUEST`] if they are unknown ones or `zero` is not 0.
    #[cold]
    #[inline(never)]
    pub(super) fn agree(&self, port: PortId, features: u64, zero: u64) -> u64 {
        let Some(state) = self.port(port) else {
            return ERR_BAD_REQUEST;
        };
        if zero != 0 || features & !u64::from(FEATURES) != 0 {
            return ERR_BAD_REQUEST;
        }
        state.features.store(features as u32, Relaxed);
        features
    }
}
