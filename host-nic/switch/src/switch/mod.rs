//! The switch: takes frames from a caller's TX ring and copies them into the caller's lanes at their
//! destinations.
//!
//! | step | functions |
//! | --- | --- |
//! | take: read a record of a TX ring once, and check it | `Call::tx_records`, `Stretch::read` |
//! | look up: find the port that it goes to | `Call::look_up_cached`, `Call::look_up` |
//! | learn: note the port that its source is behind | `Call::learn` |
//! | fan out: go from one destination to the next | `Call::fan_out` |
//! | emit: write it into the sender's lane at a destination | `Lane::emit`, `run`, `Call::deliver` |
//! | publish: tell the receivers | `Lane::publish`, `Lanes::publish` |
//!
//! `transmit` says which frames go together. A frame takes the fast path (`Call::forward_fast`) where its
//! addresses alone decide, and the slow one (`Call::forward_slow`) where a policy has to be minded.
//!
//! Neighbouring frames of a batch mostly go the same way, so a call works in *runs*: frames in a row with
//! the same destination and source addresses. One lookup serves a run; each of its frames is read once,
//! checked, and copied at once to where it is received. A run with several destinations (broadcast,
//! multicast, unknown) is collected first and then copied to one destination after the other. What was
//! copied is published at the end of the call, with one store for each lane. So frames of one sender
//! stay in order at every receiver, broadcast and unicast alike.
//!
//! # What holds at every instruction
//!
//! A guest can stop its own call between any two instructions, for ever, and its other vCPUs can make
//! calls meanwhile. Therefore:
//!
//! * There is no lock and no reservation. The lanes of a sender are written by its vCPU alone, and what it
//!   had filled and not published, its next call fills again.
//! * In a lane, the NIC's own copy of the published position is stored before the one in the window: bytes that
//!   a receiver may read are never written a second time.
//! * On the TX side, the NIC's own position is stored after the deliveries: a call that
//!   was stopped leads to frames sent twice, never to frames lost.
//! * The position that is published carries the tenancy of the receiver for whom the frames were meant, so
//!   that no later tenant takes them for its own.
//!
//! # What is believed
//!
//! Memory safety depends on the [`Credentials`] words and on the size of the memory
//! alone, not on any content of state or windows. Every loop is bounded by the ring, by
//! [`MAX_TX_FRAMES`](postern_abi::service::MAX_TX_FRAMES), by the number of senders or by the longest frame.

mod apply_policy;
mod call;
mod deliver;
mod egress;
mod fan_out;
mod fast;
mod lane;
mod lanes;
mod lookup;
mod progress;
mod records;
mod run;
mod sets;
mod slow;
mod transmit;
mod tx;

use crate::sync::{AtomicU32, AtomicU64, Ordering::Relaxed};

use postern_abi::service::{ERR_BAD_REQUEST, OP_FEATURES, OP_NOP, OP_TX, TX_HOLD, TX_QUEUE_SHIFT};
use postern_abi::window::{FEATURES, Geometry, PortId};

use self::call::Call;
use crate::credentials::Credentials;
use crate::layout::{port_offset, sender_offset, window_offset};
use crate::state::{LaneState, PortState, SenderState, State, StateError};

/// A NIC's memory with a known geometry.
#[derive(Clone, Copy)]
pub struct Switch<'a> {
    base: *mut u8,
    geometry: Geometry,
    state: &'a State,
}

/// Serves one request of a vCPU: what each place's entry does.
///
/// # Safety
/// [`Credentials::check`] must accept `caller`, and `base` be aligned to a page and valid for reads and
/// writes of its [`Credentials::size`]; all of that memory may only be accessed atomically by
/// this program during the call. `caller` and `vcpu` must come from the host, never from the guest, and no
/// two calls of one port may have the same `vcpu` at the same time.
#[inline(always)]
pub unsafe fn serve(
    base: *mut u8,
    caller: &Credentials,
    vcpu: u32,
    op: u64,
    a: u64,
    b: u64,
) -> u64 {
    if op == OP_NOP {
        return 0;
    }
    // SAFETY: the caller's promise is the same.
    unsafe { serve_request(base, caller, vcpu, op, a, b) }
}

/// All but [`OP_NOP`], out of line so that the empty request costs nothing but itself.
#[inline(never)]
unsafe fn serve_request(
    base: *mut u8,
    caller: &Credentials,
    vcpu: u32,
    op: u64,
    a: u64,
    b: u64,
) -> u64 {
    // SAFETY: `serve`'s caller vouches for the memory.
    let state = unsafe { State::at(base) };
    if state.tenancy(caller.port()) != caller.tenancy() {
        return ERR_BAD_REQUEST;
    }
    if op == OP_TX {
        #[cfg(feature = "attack-lock")]
        let _held = state.lock();
        let call = Call {
            base,
            caller,
            vcpu,
            hold: b & TX_HOLD != 0,
        };
        // The first vCPU and the first queue, which every port has: with less to compute, and to check.
        if vcpu == 0 && b & !TX_HOLD == 0 && a != 0 {
            return match (Call { vcpu: 0, ..call }).transmit_one(0) {
                Some(()) => 1,
                None => call.transmit(0, a),
            };
        }
        let queues = caller.geometry().queues();
        let queue = b >> TX_QUEUE_SHIFT;
        if vcpu < queues && queue < queues.into() {
            return match a {
                0 => call.transmit(queue as u32, 0),
                _ => match call.transmit_one(queue as u32) {
                    Some(()) => 1,
                    None => call.transmit(queue as u32, a),
                },
            };
        }
        return ERR_BAD_REQUEST;
    }
    if op == OP_FEATURES {
        // SAFETY: `serve`'s caller vouches for the memory that the caller's geometry needs.
        let switch = unsafe { Switch::from_base(base, caller.geometry()) };
        return switch.agree(caller.port(), a, b);
    }
    ERR_BAD_REQUEST
}

impl<'a> Switch<'a> {
    /// The switch whose memory starts at an address.
    ///
    /// # Safety
    /// `base` must be aligned to a page and valid for reads and writes of
    /// [`memory_size(geometry)`](crate::layout::memory_size) bytes for `'a`, and all of that memory
    /// may only be accessed atomically by this program meanwhile.
    #[inline]
    pub const unsafe fn from_base(base: *mut u8, geometry: Geometry) -> Switch<'a> {
        Switch {
            base,
            geometry,
            // SAFETY: the memory starts with the state; the caller vouches for it.
            state: unsafe { State::at(base) },
        }
    }

    /// The credentials of a port's present tenant.
    ///
    /// # Errors
    ///
    /// The port does not exist or has no tenant.
    pub fn credentials(&self, port: u32) -> Result<Credentials, StateError> {
        Credentials::of_tenant(self.state, port)
    }

    /// The switch state.
    pub const fn state(&self) -> &'a State {
        self.state
    }

    /// Ports, queues and sizes.
    pub const fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// What a port's guest may do, or nothing if the port is not one of this NIC's.
    #[inline]
    pub fn port(&self, port: PortId) -> Option<&'a PortState> {
        if port.number() >= self.geometry.ports() {
            return None;
        }
        let offset = port_offset(port.number()) as usize;
        // SAFETY: one of the states of ports, in memory that `from_base`'s caller vouched for; every
        // field is an atomic.
        Some(unsafe { &*self.base.add(offset).cast() })
    }

    /// What calls of a sender keep, or nothing if the NIC has no such sender.
    #[inline]
    pub fn sender(&self, number: u32) -> Option<&'a SenderState> {
        if number >= self.geometry.senders() {
            return None;
        }
        let offset = sender_offset(self.geometry, number) as usize;
        // SAFETY: one of the senders, in memory that `from_base`'s caller vouched for; every field is
        // an atomic.
        Some(unsafe { &*self.base.add(offset).cast() })
    }

    /// A sender's side of its lane to an RX queue (numbered in the whole NIC), or nothing if the
    /// NIC has no such sender or queue.
    #[inline]
    pub fn lane(&self, sender: u32, queue: u32) -> Option<&'a LaneState> {
        let senders = self.geometry.senders();
        if sender >= senders || queue >= senders {
            return None;
        }
        let offset = sender_offset(self.geometry, sender) as usize
            + size_of::<SenderState>()
            + queue as usize * size_of::<LaneState>();
        // SAFETY: as many lane states as there are RX queues follow a sender, in memory that
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

    /// A 32-bit word of a window.
    ///
    /// # Safety
    /// `window` is one of this switch's, and `offset` one of its geometry's offsets of such words.
    #[inline]
    unsafe fn word(&self, window: *mut u8, offset: u64) -> &'a AtomicU32 {
        // SAFETY: the word lies in the window, aligned; `from_base`'s caller vouched for it.
        unsafe { AtomicU32::from_ptr(window.add(offset as usize).cast()) }
    }

    /// The guest's position of a TX queue, or nothing if there is no such queue.
    #[inline]
    pub fn tx_producer(&self, port: PortId, queue: u32) -> Option<&'a AtomicU32> {
        let window = self.window(port)?;
        if queue >= self.geometry.queues() {
            return None;
        }
        // SAFETY: the queue is one of the geometry's.
        Some(unsafe { self.word(window, self.geometry.tx_producer_offset(queue)) })
    }

    /// The NIC's position of a TX queue, as the guest sees it, or nothing if there is no such queue.
    #[inline]
    pub fn tx_consumer(&self, port: PortId, queue: u32) -> Option<&'a AtomicU32> {
        let window = self.window(port)?;
        if queue >= self.geometry.queues() {
            return None;
        }
        // SAFETY: the queue is one of the geometry's.
        Some(unsafe { self.word(window, self.geometry.tx_consumer_offset(queue)) })
    }

    /// A sender's element of `published` in an RX queue of a port, or nothing if there is none.
    #[inline]
    pub fn published(&self, sender: u32, to: PortId, queue: u32) -> Option<&'a AtomicU64> {
        let window = self.window(to)?;
        if sender >= self.geometry.senders() || queue >= self.geometry.queues() {
            return None;
        }
        let offset = self.geometry.published_offset(queue, sender) as usize;
        // SAFETY: the word lies in the window, aligned; `from_base`'s caller vouched for it.
        Some(unsafe { AtomicU64::from_ptr(window.add(offset).cast()) })
    }

    /// A sender's element of `consumed` in an RX queue of a port, or nothing if there is none.
    #[inline]
    pub fn consumed(&self, sender: u32, to: PortId, queue: u32) -> Option<&'a AtomicU32> {
        let window = self.window(to)?;
        if sender >= self.geometry.senders() || queue >= self.geometry.queues() {
            return None;
        }
        // SAFETY: sender and queue are the geometry's.
        Some(unsafe { self.word(window, self.geometry.consumed_offset(queue, sender)) })
    }

    /// First byte of a TX queue's ring, or nothing if there is no such queue.
    #[inline]
    pub fn tx_ring(&self, port: PortId, queue: u32) -> Option<*mut u8> {
        let window = self.window(port)?;
        if queue >= self.geometry.queues() {
            return None;
        }
        let offset = self.geometry.tx_ring_offset(queue) as usize;
        // SAFETY: the ring lies in the window.
        Some(unsafe { window.add(offset) })
    }

    /// First byte of a sender's lane in an RX queue of a port, or nothing if there is none.
    #[inline]
    pub fn lane_ring(&self, sender: u32, to: PortId, queue: u32) -> Option<*mut u8> {
        let window = self.window(to)?;
        if sender >= self.geometry.senders() || queue >= self.geometry.queues() {
            return None;
        }
        let offset = self.geometry.lane_offset(queue, sender) as usize;
        // SAFETY: the lane lies in the window.
        Some(unsafe { window.add(offset) })
    }

    #[cold]
    #[inline(never)]
    fn agree(&self, port: PortId, features: u64, zero: u64) -> u64 {
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
