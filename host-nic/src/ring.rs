//! One ring of one window, as the NIC sees it: memory whose other side is hostile.
//!
//! Every access is one atomic load or store of a whole word. What was read is bounded by the caller
//! ([`crate::switch`]); every index is masked here.

use core::sync::atomic::{
    AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
};

use postern_abi::window::{Geometry, Ring};

use crate::frame::Buffer;

/// A ring in mapped memory.
#[derive(Clone, Copy)]
pub struct RingMemory {
    window: *mut u8,
    geometry: Geometry,
    ring: Ring,
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
        RingMemory {
            window,
            geometry,
            ring,
        }
    }

    #[inline]
    fn word(&self, offset: u64) -> &AtomicU32 {
        // SAFETY: all callers pass an offset that the geometry computed for this ring, which lies in
        // the window and is a multiple of 4; `new`'s caller vouches for the window.
        unsafe { AtomicU32::from_ptr(self.window.add(offset as usize).cast()) }
    }

    /// The published producer index. Acquire: the frames below it were written before.
    #[inline]
    pub fn producer(&self) -> u32 {
        self.word(self.geometry.producer_offset(self.ring))
            .load(Acquire)
    }

    /// The published consumer index. Acquire: the frames below it were read before.
    #[inline]
    pub fn consumer(&self) -> u32 {
        self.word(self.geometry.consumer_offset(self.ring))
            .load(Acquire)
    }

    /// Publishes the producer index, and with it all frames written below it.
    #[inline]
    pub fn publish_producer(&self, index: u32) {
        self.word(self.geometry.producer_offset(self.ring))
            .store(index, Release);
    }

    /// Publishes the consumer index, and with it that all frames below it were read.
    #[inline]
    pub fn publish_consumer(&self, index: u32) {
        self.word(self.geometry.consumer_offset(self.ring))
            .store(index, Release);
    }

    /// The descriptor that an index names. Read it once.
    #[inline]
    pub fn descriptor(&self, index: u32) -> u32 {
        self.word(self.geometry.descriptor_offset(self.ring, index))
            .load(Relaxed)
    }

    /// Writes the descriptor that an index names.
    #[inline]
    pub fn set_descriptor(&self, index: u32, descriptor: u32) {
        self.word(self.geometry.descriptor_offset(self.ring, index))
            .store(descriptor, Relaxed);
    }

    /// The buffer that an index names.
    #[inline]
    pub fn buffer(&self, index: u32) -> Buffer {
        let offset = self.geometry.buffer_offset(self.ring, index);
        // SAFETY: the offset lies in the window, BUFFER_SIZE from any other buffer and from its end,
        // and is a multiple of BUFFER_SIZE.
        unsafe { Buffer::new(self.window.add(offset as usize).cast()) }
    }
}
