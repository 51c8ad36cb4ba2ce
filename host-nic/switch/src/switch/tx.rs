//! A TX queue of the calling port: its positions, and the records in its ring.

use crate::sync::{
    AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
};

use postern_abi::window::{LINE_SIZE, RECORD_ALIGN};

use super::call::Call;
use super::records::Records;
use crate::state::Cause;

/// The NIC's positions of a TX queue, up to which records were taken.
pub struct TxQueue<'a> {
    /// The NIC's own copy.
    pub next: &'a AtomicU32,
    /// The copy in the window, which the guest sees.
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
    /// The NIC's positions of a TX queue, the guest's producer position, and the ring's first byte.
    ///
    /// # Safety
    ///
    /// `queue` is below the number of queues.
    #[inline(always)]
    pub unsafe fn tx_queue(&self, queue: u32) -> (TxQueue<'a>, u32, *const u8) {
        let geometry = self.caller.geometry();
        let lines = self.caller.window() + geometry.tx_producer_offset(queue);
        let rings = self.caller.window() + u64::from(self.caller.rings);
        let offset = rings as usize + ((queue as usize) << (geometry.ring_log() & 31));
        // SAFETY: the caller vouches for `queue`, so both words and the ring lie in the port's
        // window, in memory that `serve`'s caller vouched for.
        unsafe {
            let tx = TxQueue {
                next: &self.sender_of(queue).tx_next,
                consumer: self.word(lines + LINE_SIZE),
            };
            // Acquire: the guest has written the records below the producer position before it.
            (tx, self.word(lines).load(Acquire), self.base.add(offset))
        }
    }

    /// The records in a TX queue's ring, or nothing if the guest's producer position is out of
    /// range.
    #[inline(always)]
    pub fn tx_records(&self, queue: u32) -> Option<(TxQueue<'a>, Records)> {
        // SAFETY: `serve` compared `queue` with the number of queues, or it is 0, which every port
        // has.
        let (tx, end, ring) = unsafe { self.tx_queue(queue) };
        let next = tx.next.load(Relaxed) & !(RECORD_ALIGN - 1);
        let mask = self.caller.geometry().ring() - 1;
        // SAFETY: the ring has the geometry's size, in memory that `serve`'s caller vouched for,
        // and a ring or a lane follows it.
        let records = unsafe { Records::new(ring, mask, next, end) }?;
        Some((tx, records))
    }

    /// Counts a producer position of the guest that is out of range, and writes the consumer
    /// position again, which the guest may have overwritten, so that the guest can find back to it.
    pub fn refuse_tx_position(&self, queue: u32) {
        self.sender().count(Cause::BadIndex, 1);
        // SAFETY: `serve` compared `queue` with the number of queues, or it is 0, which every port
        // has.
        let (tx, ..) = unsafe { self.tx_queue(queue) };
        tx.consumer.store(tx.next.load(Relaxed), Release);
    }
}
