//! Bells: receivers that sleep, and that the calling guest is asked to wake.
//!
//! Whoever exchanges the word `latest` of an RX queue and finds [`ARMED`] in it notes the queue with the
//! sender, in memory that is the host's alone. At its end the call hands what was noted to the guest, in
//! the `bells` of the TX queue. A call that is stopped before leaves it to the next one of that vCPU
//! that has something to tell, or does more than send a single frame on the fast path; one that is stopped before it has noted anything leaves it to the NIC's owner, who looks after queues
//! that sleep.

use core::array;

use postern_abi::PAGE_SIZE;
use postern_abi::service::TX_BELL;
use postern_abi::window::{ARMED, BELL_WORDS, PortId};

use super::call::Call;
use super::lane::Ends;
use super::memory::Switch;
use crate::sync::AtomicU64;
use crate::sync::Ordering::{AcqRel, Relaxed};

impl<'a> Ends<'a> {
    /// Notes that the receiver is to be woken.
    #[cold]
    #[inline(never)]
    pub fn note_bell(&self, call: &Call<'a>) {
        let geometry = call.caller.geometry();
        let stride = call.caller.window_pages as usize * PAGE_SIZE as usize;
        // The build for the host's kernel has no division.
        let mut offset = self.words_offset(call);
        let mut first = 0;
        while offset >= stride && first < geometry.senders() {
            offset -= stride;
            first += geometry.queues();
        }
        let queue = (offset / PAGE_SIZE as usize).wrapping_sub(1) as u32;
        let number = first.wrapping_add(queue);
        let sender = call.sender();
        if let Some(word) = sender.bells.get(number as usize >> 6) {
            word.store(word.load(Relaxed) | 1 << (number & 63), Relaxed);
            sender.belled.store(1, Relaxed);
        }
    }
}

impl Call<'_> {
    /// Hands what was noted to the guest, for a TX queue. Returns what the result says of it.
    ///
    /// # Safety
    ///
    /// `queue` is below the number of queues.
    #[inline(always)]
    pub unsafe fn hand_bells(&self, queue: u32) -> u64 {
        match self.sender().belled.load(Relaxed) {
            0 => 0,
            // SAFETY: the contract is the same.
            _ => unsafe { self.hand_noted_bells(queue) },
        }
    }

    /// [`Call::hand_bells`], where something was noted.
    ///
    /// # Safety
    ///
    /// `queue` is below the number of queues.
    #[cold]
    #[inline(never)]
    pub unsafe fn hand_noted_bells(&self, queue: u32) -> u64 {
        let sender = self.sender();
        let geometry = self.caller.geometry();
        let first = self.caller.window() + geometry.bells_offset(queue);
        for (noted, offset) in sender.bells.iter().zip((first..).step_by(8)) {
            // SAFETY: the words are on the line of the queue's consumer position, in the port's window,
            // in memory that `serve`'s caller vouched for.
            let bells = unsafe { AtomicU64::from_ptr(self.base.add(offset as usize).cast()) };
            // In this order, in case the call is stopped: a bell is rung twice rather than never.
            bells.fetch_or(noted.load(Relaxed), AcqRel);
            noted.store(0, Relaxed);
        }
        sender.belled.store(0, Relaxed);
        TX_BELL
    }
}

impl Switch<'_> {
    /// Takes the bells of a port's TX queue, for a host that rings them in the guest's place: of each
    /// of the NIC's RX queues the bit of its number. None where there is no such queue.
    pub fn take_bells(&self, port: PortId, queue: u32) -> [u64; BELL_WORDS] {
        let Some(words) = self.bells(port, queue) else {
            return [0; BELL_WORDS];
        };
        // Most are empty, and need no locked access.
        array::from_fn(|index| match words[index].load(Relaxed) {
            0 => 0,
            _ => words[index].swap(0, AcqRel),
        })
    }

    /// Whether the guest of an RX queue sleeps and was woken by nobody: it says that it is `asleep`, and
    /// the bit [`ARMED`] is not there any more.
    pub fn is_overslept(&self, port: PortId, queue: u32) -> bool {
        let asleep = self
            .asleep(port, queue)
            .is_some_and(|word| word.load(Relaxed) != 0);
        asleep
            && self
                .latest(port, queue)
                .is_some_and(|word| word.load(Relaxed) & ARMED == 0)
    }
}
