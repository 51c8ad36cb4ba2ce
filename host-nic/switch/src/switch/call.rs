//! One call of a sender: what does not change during it, and the way to the memory that it works on.

use crate::sync::AtomicU32;

use postern_abi::window::PortId;

use crate::credentials::Credentials;
use crate::layout::port_offset;
use crate::state::{PortState, SenderState, State};

/// What a call is about: everything that does not change during it.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// First byte of the NIC's memory.
    pub base: *mut u8,
    /// Who calls.
    pub caller: &'a Credentials,
    /// The calling vCPU of the port's VM; below the number of queues.
    pub vcpu: u32,
    /// Whether frames wait for room at their only destination ([`postern_abi::service::TX_HOLD`]).
    pub hold: bool,
}

impl<'a> Call<'a> {
    /// The state at the beginning of the memory.
    #[inline(always)]
    pub fn state(&self) -> &'a State {
        // SAFETY: the memory starts with the state; `serve`'s caller vouches for it.
        unsafe { State::at(self.base) }
    }

    /// The sender of a queue: the vCPU of the same number.
    ///
    /// # Safety
    ///
    /// The number is below the number of queues.
    #[inline(always)]
    pub unsafe fn sender_of(&self, queue: u32) -> &'a SenderState {
        let first = self.caller.sender as usize;
        let offset = first + queue as usize * self.caller.sender_stride as usize;
        // SAFETY: one of the port's senders, in memory that `serve`'s caller vouched for; every field is
        // an atomic.
        unsafe { &*self.base.add(offset).cast() }
    }

    /// What calls of this vCPU keep.
    #[inline(always)]
    pub fn sender(&self) -> &'a SenderState {
        // SAFETY: `vcpu` was compared with the number of queues.
        unsafe { self.sender_of(self.vcpu) }
    }

    /// Number of the sender in the whole NIC.
    #[inline(always)]
    pub fn sender_number(&self) -> u32 {
        u32::from(self.caller.first_sender).wrapping_add(self.vcpu)
    }

    /// A word of 32 bits of the NIC's memory.
    ///
    /// # Safety
    ///
    /// The offset is that of such a word, and lies in the memory.
    #[inline(always)]
    pub unsafe fn word(&self, offset: u64) -> &'a AtomicU32 {
        // SAFETY: the caller's promise; all of the memory is accessed atomically.
        unsafe { AtomicU32::from_ptr(self.base.add(offset as usize).cast()) }
    }

    /// The state of a port of this NIC, or port 0's.
    pub fn port_state(&self, port: PortId) -> &'a PortState {
        let number = match port.number() < self.caller.geometry().ports() {
            true => port.number(),
            false => 0,
        };
        // SAFETY: one of the states of ports, in memory that `serve`'s caller vouched for; every field is
        // an atomic.
        unsafe { &*self.base.add(port_offset(number) as usize).cast() }
    }
}
