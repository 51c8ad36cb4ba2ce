//! One call of a sender: the words that do not change during it, and the memory that it works on.

use crate::sync::{
    AtomicU32,
    Ordering::{Relaxed, Release},
};

use postern_abi::window::PortId;

use crate::credentials::Credentials;
use crate::layout::port_offset;
use crate::state::{Link, PortState, SenderState, State, add};

/// One call of a sender: a request of one vCPU, from its entry into the switch to its end.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// First byte of the NIC's memory.
    pub base: *mut u8,
    /// The credentials of the port that calls.
    pub caller: &'a Credentials,
    /// Number of the calling vCPU in the port's VM, below the number of queues.
    pub vcpu: u32,
    /// Whether frames wait for room at their only destination ([`postern_abi::service::TX_HOLD`]).
    pub hold: bool,
}

impl<'a> Call<'a> {
    /// The state at the beginning of the memory.
    #[inline(always)]
    pub fn state(&self) -> &'a State {
        // SAFETY: the memory starts with the state, and `serve`'s caller vouches for its size,
        // alignment and atomic access.
        unsafe { State::at(self.base) }
    }

    /// The state of the sender of a TX queue: of the vCPU with the queue's number.
    ///
    /// # Safety
    ///
    /// `queue` is below the number of queues.
    #[inline(always)]
    pub unsafe fn sender_of(&self, queue: u32) -> &'a SenderState {
        let first = self.caller.sender as usize;
        let offset = first + queue as usize * self.caller.sender_stride as usize;
        // SAFETY: the offset is that of one of the port's senders, in memory that `serve`'s caller
        // vouched for; every field is an atomic.
        unsafe { &*self.base.add(offset).cast() }
    }

    /// The state of the sender that calls.
    #[inline(always)]
    pub fn sender(&self) -> &'a SenderState {
        // SAFETY: `serve` compared `vcpu` with the number of queues, or it is 0, which every port
        // has.
        unsafe { self.sender_of(self.vcpu) }
    }

    /// The link of the sender that calls to its lane in RX queue 0 of the NIC, which those to the lanes
    /// in all other queues follow.
    #[inline(always)]
    pub fn links(&self) -> *const Link {
        (&raw const *self.sender()).wrapping_add(1).cast()
    }

    /// Number in the whole NIC of the sender that calls.
    #[inline(always)]
    pub fn sender_number(&self) -> u32 {
        let caller = self.caller;
        caller.geometry().sender(caller.port(), self.vcpu)
    }

    /// Counts the call as begun.
    #[inline(always)]
    pub fn begin(&self) {
        add(&self.sender().calls, 1);
    }

    /// Notes that the call has come to its end, behind all that it wrote.
    #[inline(always)]
    pub fn end(&self) {
        let sender = self.sender();
        sender.ended.store(sender.calls.load(Relaxed), Release);
    }

    /// The word of 32 bits at an offset in the NIC's memory, in bytes.
    ///
    /// # Safety
    ///
    /// The offset is that of such a word, aligned, and lies in the memory.
    #[inline(always)]
    pub unsafe fn word(&self, offset: u64) -> &'a AtomicU32 {
        // SAFETY: the caller promises an aligned word in the memory, and `serve`'s caller that all
        // of it is accessed atomically.
        unsafe { AtomicU32::from_ptr(self.base.add(offset as usize).cast()) }
    }

    /// The state of a port, or that of port 0 if the NIC has no such port.
    pub fn port_state(&self, port: PortId) -> &'a PortState {
        let number = match port.number() < self.caller.geometry().ports() {
            true => port.number(),
            false => 0,
        };
        // SAFETY: the offset is that of one of the states of ports, in memory that `serve`'s caller
        // vouched for; every field is an atomic.
        unsafe { &*self.base.add(port_offset(number) as usize).cast() }
    }
}
