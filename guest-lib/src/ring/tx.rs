//! The guest's end of a TX ring.

use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

use postern_abi::window::{
    Geometry, KIND_PAD, MIN_FRAME, PAD_WORD, RECORD_ALIGN, RecordHeader, record_size,
};

use super::window::Window;

/// A frame that [`TxQueue::write`] refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxError {
    /// The frame has this many bytes: less than [`MIN_FRAME`], or more than [`Geometry::max_frame`]
    /// ([`Geometry::max_segment`] for a large segment).
    BadLength(usize),
    /// The ring has no room now.
    Full,
}

/// The guest's end of a TX queue's ring: its producer.
///
/// [`TxQueue::write`] copies a frame into the ring, [`TxQueue::commit`] gives it to the NIC, which
/// takes it at the guest's next request.
#[derive(Debug)]
pub struct TxQueue {
    window: Window,
    queue: u32,
    ring: *mut u8,
    /// Position of the next record; what the window says may lag behind until [`TxQueue::commit`].
    producer: u32,
    /// Position up to which the NIC has taken records, as last read.
    consumer: u32,
}

// SAFETY: `ring` points into the window, whose mapping belongs to no thread and is accessed by
// atomics and raw pointers alone; the other fields are plain values.
unsafe impl Send for TxQueue {}

impl TxQueue {
    /// The queue of that number, from where the previous tenant of the port stopped.
    ///
    /// # Panics
    ///
    /// The NIC has no such queue.
    pub fn new(window: Window, queue: u32) -> TxQueue {
        let geometry = window.geometry;
        assert!(queue < geometry.queues(), "there is no queue {queue}");
        let consumer = geometry.tx_consumer_offset(queue);
        let producer = window.word(consumer).load(Ordering::Acquire) & !(RECORD_ALIGN - 1);
        let mut tx = TxQueue {
            window,
            queue,
            ring: window.at(geometry.tx_ring_offset(queue)),
            producer,
            consumer: producer,
        };
        tx.commit();
        tx
    }

    /// Number of the queue in its port.
    pub fn queue(&self) -> u32 {
        self.queue
    }

    /// Bytes of the ring that the NIC has not taken.
    fn filled(&mut self) -> u32 {
        let geometry = self.window.geometry;
        let consumer = self.window.word(geometry.tx_consumer_offset(self.queue));
        // Acquire: the bytes that this frees are written next.
        let consumer = consumer.load(Ordering::Acquire);
        match Geometry::filled(geometry.ring(), self.producer, consumer) {
            Some(filled) => {
                self.consumer = consumer;
                filled
            }
            // An impossible position is taken for a full ring, so nothing is overwritten.
            None => geometry.ring(),
        }
    }

    /// Whether the NIC has taken all that was committed.
    pub fn is_empty(&mut self) -> bool {
        self.filled() == 0
    }

    /// Position up to which the NIC has taken records.
    pub fn taken(&mut self) -> u32 {
        self.filled();
        self.consumer
    }

    /// Number of frames in the ring that the NIC has not taken.
    pub fn pending(&mut self) -> u32 {
        let size = self.window.geometry.ring();
        let mut left = self.filled();
        let mut position = self.producer.wrapping_sub(left);
        let mut frames = 0;
        while left != 0 {
            let offset = position & (size - 1) & !(RECORD_ALIGN - 1);
            // SAFETY: `offset` is masked to a multiple of 16 below the ring's size.
            let header = unsafe { self.header(offset) };
            let record = if header.kind == KIND_PAD {
                size - offset
            } else {
                frames += 1;
                // Whatever another program wrote into the ring, the walk stays inside of it.
                record_size(header.length).min(left.into()) as u32
            };
            position = position.wrapping_add(record);
            left = left.saturating_sub(record);
        }
        frames
    }

    /// Reads the header at an offset in the ring.
    ///
    /// # Safety
    ///
    /// The offset is a multiple of 16 below the ring's size.
    unsafe fn header(&self, offset: u32) -> RecordHeader {
        // SAFETY: the caller promised an aligned offset in the ring, so both words lie in the
        // window, which `Window::new` was promised is mapped.
        unsafe {
            let at = self.ring.add(offset as usize);
            let first = AtomicU64::from_ptr(at.cast()).load(Ordering::Relaxed);
            let second = AtomicU64::from_ptr(at.add(8).cast()).load(Ordering::Relaxed);
            RecordHeader::from_words(first, second)
        }
    }

    /// Writes the header at an offset in the ring.
    ///
    /// # Safety
    ///
    /// The offset is a multiple of 16 below the ring's size.
    unsafe fn set_header(&self, offset: u32, (first, second): (u64, u64)) {
        // SAFETY: the caller promised an aligned offset in the ring, so both words lie in the
        // window, which `Window::new` was promised is mapped.
        unsafe {
            let at = self.ring.add(offset as usize);
            AtomicU64::from_ptr(at.cast()).store(first, Ordering::Relaxed);
            AtomicU64::from_ptr(at.add(8).cast()).store(second, Ordering::Relaxed);
        }
    }

    /// Writes an ordinary frame; [`TxQueue::commit`] gives it to the NIC.
    ///
    /// # Errors
    ///
    /// [`TxError::BadLength`] for a frame that no ring takes, [`TxError::Full`] while there is no
    /// room for it. No frame was written then.
    #[inline]
    pub fn write(&mut self, frame: &[u8]) -> Result<(), TxError> {
        self.write_with(RecordHeader::default(), frame)
    }

    /// Writes a frame with a header of the caller's; the header's length is filled in.
    ///
    /// # Errors
    ///
    /// The errors of [`TxQueue::write`].
    #[inline]
    pub fn write_with(&mut self, header: RecordHeader, frame: &[u8]) -> Result<(), TxError> {
        let geometry = self.window.geometry;
        let longest = match header.gso_type {
            0 => geometry.max_frame(),
            _ => geometry.max_segment(),
        };
        let length = u32::try_from(frame.len())
            .ok()
            .filter(|length| (MIN_FRAME..=longest).contains(length))
            .ok_or(TxError::BadLength(frame.len()))?;
        let offset = self.reserve(record_size(length) as u32)?;
        let header = RecordHeader { length, ..header };
        // SAFETY: `reserve` gives an offset from which the whole record lies in the ring, which no
        // reference covers. If another program writes these bytes at the same time, the NIC sends a
        // mixture of two frames, and nothing worse happens.
        unsafe {
            self.set_header(offset, header.words());
            let to = self.ring.add(offset as usize + size_of::<RecordHeader>());
            ptr::copy_nonoverlapping(frame.as_ptr(), to, frame.len());
        }
        self.producer = self.producer.wrapping_add(record_size(length) as u32);
        Ok(())
    }

    /// Finds room for a record of `record` bytes, behind padding where needed. Gives its offset in
    /// the ring.
    #[inline]
    fn reserve(&mut self, record: u32) -> Result<u32, TxError> {
        let size = self.window.geometry.ring();
        let mut free = size - self.producer.wrapping_sub(self.consumer).min(size);
        let offset = self.producer & (size - 1);
        let to_end = size - offset;
        let needed = if record <= to_end {
            record
        } else {
            to_end + record
        };
        if needed > free {
            free = size - self.filled();
        }
        if needed <= free && record <= to_end {
            return Ok(offset);
        }
        if record <= to_end || to_end > free {
            return Err(TxError::Full);
        }
        // SAFETY: `offset` is a position modulo the size: below the size, and a multiple of 16
        // since positions are.
        unsafe { self.set_header(offset, (0, PAD_WORD)) };
        self.producer = self.producer.wrapping_add(to_end);
        if record > free - to_end {
            return Err(TxError::Full);
        }
        Ok(0)
    }

    /// Gives the frames that were written to the NIC, which takes them at the guest's next request.
    pub fn commit(&mut self) {
        let producer = self.window.geometry.tx_producer_offset(self.queue);
        let producer = self.window.word(producer);
        producer.store(self.producer, Ordering::Release);
    }
}
