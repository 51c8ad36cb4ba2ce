//! A TX queue of the calling port: its positions, and what its ring holds.

use crate::sync::{
    AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
};

use postern_abi::window::{LINE_SIZE, RECORD_ALIGN};

use super::call::Call;
use super::records::Records;
use crate::state::Cause;

/// The NIC's positions of a TX queue: its own copy, and the one that the guest sees.
pub struct TxQueue<'a> {
    pub next: &'a AtomicU32,
    consumer: &'a AtomicU32,
}

impl TxQueue<'_> {
    /// Stores the position up to which records were taken, after their frames were published.
    #[inline(always)]
    pub fn complete(&self, position: u32) {
        self.next.store(position, Release);
        self.consumer.store(position, Release);
    }
}

impl<'a> Call<'a> {
    /// The NIC's positions of a TX queue, the guest's, and the ring.
    ///
    /// # Safety
    ///
    /// `queue` is below the number of queues.
    #[inline(always)]
    pub unsafe fn tx_queue(&self, queue: u32) -> (TxQueue<'a>, u32, *const u8) {
        let geometry = self.caller.geometry();
        let lines = self.caller.window + geometry.tx_producer_offset(queue);
        let rings = self.caller.window + u64::from(self.caller.rings);
        let offset = rings as usize + ((queue as usize) << (geometry.ring_log() & 31));
        // SAFETY: these are the port's.
        unsafe {
            let tx = TxQueue {
                next: &self.sender_of(queue).tx_next,
                consumer: self.word(lines + LINE_SIZE),
            };
            // Acquire: the records below it were written before.
            (tx, self.word(lines).load(Acquire), self.base.add(offset))
        }
    }

    /// What a TX queue's ring holds, or nothing if the guest's position cannot be.
    #[inline(always)]
    pub fn tx_records(&self, queue: u32) -> Option<(TxQueue<'a>, Records)> {
        // SAFETY: `serve` compared `queue` with the number of queues.
        let (tx, end, ring) = unsafe { self.tx_queue(queue) };
        let next = tx.next.load(Relaxed) & !(RECORD_ALIGN - 1);
        // SAFETY: the ring has the geometry's size, in memory that `serve`'s caller vouched for, and a lane
        // follows it.
        let records = unsafe { Records::new(ring, self.caller.ring_mask, next, end) }?;
        Some((tx, records))
    }

    /// Counts a guest's position that cannot be, and writes the NIC's position again where the guest may
    /// have overwritten it, so that it can find back.
    pub fn refuse_tx_position(&self, queue: u32) {
        self.sender().count(Cause::BadIndex, 1);
        // SAFETY: `serve` compared `queue` with the number of queues.
        let (tx, ..) = unsafe { self.tx_queue(queue) };
        tx.consumer.store(tx.next.load(Relaxed), Release);
    }
}
