//! A frame on its way: what was read of it once, and the copy of the rest.

use core::array;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use postern_abi::window::{BUFFER_SIZE, DESCRIPTOR_RESERVED, MAX_FRAME, MIN_FRAME};

use crate::state::Cause;
use crate::table::MAC_MASK;

/// One packet buffer in hostile memory: [`BUFFER_SIZE`] bytes, accessed in words of 8.
#[derive(Clone, Copy)]
pub struct Buffer(*mut u64);

const WORDS: usize = BUFFER_SIZE as usize / 8;

impl Buffer {
    /// The buffer at an address.
    ///
    /// # Safety
    /// `base` must be aligned to 8 bytes and valid for reads and writes of [`BUFFER_SIZE`] bytes as
    /// long as the value is used, and the program may only access the memory atomically meanwhile.
    #[inline]
    pub const unsafe fn new(base: *mut u64) -> Buffer {
        Buffer(base)
    }

    #[inline]
    fn word(&self, index: usize) -> &AtomicU64 {
        // SAFETY: the masked index lies in the buffer, for which `new`'s caller vouches.
        unsafe { AtomicU64::from_ptr(self.0.add(index & (WORDS - 1))) }
    }

    #[inline]
    fn load(&self, index: usize) -> u64 {
        self.word(index).load(Relaxed)
    }

    #[inline]
    fn store(&self, index: usize, value: u64) {
        self.word(index).store(value, Relaxed);
    }

    /// Copies `N` words, all loads before all stores, since the compiler keeps the order of atomics.
    ///
    /// # Safety
    /// `index + N` must not be more than [`WORDS`].
    #[inline]
    unsafe fn copy_words<const N: usize>(&self, to: Buffer, index: usize) {
        // SAFETY: the words lie in both buffers, for which `new`'s callers vouch.
        let (from, to) = unsafe {
            (
                &*self.0.add(index).cast::<[AtomicU64; N]>(),
                &*to.0.add(index).cast::<[AtomicU64; N]>(),
            )
        };
        let words: [u64; N] = array::from_fn(|i| from[i].load(Relaxed));
        for (word, value) in to.iter().zip(words) {
            word.store(value, Relaxed);
        }
    }
}

/// What the switch decided on, read from the sender's memory once: length and the first 16 bytes.
/// These very words are delivered; only what nothing was decided on is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    first: u64,
    second: u64,
    length: u32,
}

impl Frame {
    /// Reads descriptor (already loaded) and header.
    #[inline]
    pub fn read(descriptor: u32, buffer: Buffer) -> Result<Frame, Cause> {
        if descriptor & DESCRIPTOR_RESERVED != 0 {
            return Err(Cause::BadDescriptor);
        }
        if descriptor > MAX_FRAME {
            return Err(Cause::TooLong);
        }
        if descriptor < MIN_FRAME {
            return Err(Cause::TooShort);
        }
        Ok(Frame {
            first: buffer.load(0),
            second: buffer.load(1),
            // The mask changes nothing that was checked, but holds under speculation too.
            length: descriptor & (BUFFER_SIZE as u32 - 1),
        })
    }

    /// Length in bytes, without FCS.
    #[inline]
    pub const fn length(&self) -> u32 {
        self.length
    }

    /// Destination address, first byte lowest.
    #[inline]
    pub const fn destination(&self) -> u64 {
        self.first & MAC_MASK
    }

    /// Source address, first byte lowest.
    #[inline]
    pub const fn source(&self) -> u64 {
        self.first >> 48 | (self.second & 0xffff_ffff) << 16
    }

    /// Writes the frame to a buffer: the words that were read, then the rest from where it was. The
    /// last word is filled with zeros, so that nothing behind the frame travels with it.
    #[inline]
    pub fn copy(&self, from: Buffer, to: Buffer) {
        let length = self.length as usize;
        let whole = length / 8;
        // The bytes of the last word that belong to the frame, where it is not a whole word.
        let tail = (1u64 << (8 * (length & 7))) - 1;
        to.store(0, self.first);
        if whole < 2 {
            to.store(1, self.second & tail);
            return;
        }
        to.store(1, self.second);
        let mut word = 2;
        // SAFETY: `length` is less than BUFFER_SIZE, so `whole` is less than WORDS, and no step
        // goes beyond `whole`: the last three add up to what the first leaves.
        unsafe {
            while word + 8 <= whole {
                from.copy_words::<8>(to, word);
                word += 8;
            }
            let left = whole - word;
            if left & 4 != 0 {
                from.copy_words::<4>(to, word);
                word += 4;
            }
            if left & 2 != 0 {
                from.copy_words::<2>(to, word);
                word += 2;
            }
            if left & 1 != 0 {
                from.copy_words::<1>(to, word);
                word += 1;
            }
        }
        if length & 7 != 0 {
            to.store(word, from.load(word) & tail);
        }
    }
}
