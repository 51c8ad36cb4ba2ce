//! One ring of one window, as the NIC sees it: memory whose other side is hostile.
//!
//! Every access is one atomic load or store of a whole word. What was read is bounded by the caller
//! ([`crate::switch`]); every index is masked here.

use core::sync::atomic::{
    AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
};

use postern_abi::window::{BUFFER_SIZE, Geometry, Ring};

use crate::frame::Buffer;

/// A ring in mapped memory.
#[derive(Clone, Copy)]
pub struct RingMemory {
    producer: *const AtomicU32,
    consumer: *const AtomicU32,
    /// The first of `slots` words.
    descriptors: *const AtomicU32,
    /// The first of `slots` buffers.
    buffers: *mut u8,
    slots: u32,
}

impl RingMemory {
    /// The ring of a window.
    ///
    /// # Safety
    /// `window` must be aligned to a page and valid for reads and writes of
    /// `geometry.window_size()` bytes as long as the value is used, `ring` must be one of the
    /// geometry's, and the program may only access the memory atomically meanwhile.
    #[inline]
    pub const unsafe fn new(window: *mut u8, geometry: Geometry, ring: Ring) -> RingMemory {
        // SAFETY: the geometry's offsets for its own rings lie in the window and are aligned for
        // what is there.
        unsafe {
            RingMemory {
                producer: window.add(geometry.producer_offset(ring) as usize).cast(),
                consumer: window.add(geometry.consumer_offset(ring) as usize).cast(),
                descriptors: window
                    .add(geometry.descriptor_offset(ring, 0) as usize)
                    .cast(),
                buffers: window.add(geometry.buffer_offset(ring, 0) as usize),
                slots: geometry.slots(),
            }
        }
    }

    /// The slot that an index names; less than `slots`, which is a power of two.
    #[inline]
    const fn slot(&self, index: u32) -> usize {
        (index & (self.slots - 1)) as usize
    }

    #[inline]
    fn word(&self, word: *const AtomicU32) -> &AtomicU32 {
        // SAFETY: all callers pass one of this ring's words, for which `new`'s caller vouches.
        unsafe { &*word }
    }

    /// The published producer index. Acquire: the frames below it were written before.
    #[inline]
    pub fn producer(&self) -> u32 {
        self.word(self.producer).load(Acquire)
    }

    /// The published consumer index. Acquire: the frames below it were read before.
    #[inline]
    pub fn consumer(&self) -> u32 {
        self.word(self.consumer).load(Acquire)
    }

    /// Publishes the producer index, and with it all frames written below it.
    #[inline]
    pub fn publish_producer(&self, index: u32) {
        self.word(self.producer).store(index, Release);
    }

    /// Publishes the consumer index, and with it that all frames below it were read.
    #[inline]
    pub fn publish_consumer(&self, index: u32) {
        self.word(self.consumer).store(index, Release);
    }

    /// The word of the descriptor that an index names.
    #[inline]
    fn descriptor_word(&self, index: u32) -> &AtomicU32 {
        // SAFETY: a ring's descriptors are consecutive, and the slot is one of them.
        self.word(unsafe { self.descriptors.add(self.slot(index)) })
    }

    /// The descriptor that an index names. Read it once.
    #[inline]
    pub fn descriptor(&self, index: u32) -> u32 {
        self.descriptor_word(index).load(Relaxed)
    }

    /// Writes the descriptor that an index names.
    #[inline]
    pub fn set_descriptor(&self, index: u32, descriptor: u32) {
        self.descriptor_word(index).store(descriptor, Relaxed);
    }

    /// The buffer that an index names.
    #[inline]
    pub fn buffer(&self, index: u32) -> Buffer {
        let offset = self.slot(index) * BUFFER_SIZE as usize;
        // SAFETY: a ring's buffers are consecutive, and the slot is one of them; they are aligned to
        // their size.
        unsafe { Buffer::new(self.buffers.add(offset).cast()) }
    }
}
