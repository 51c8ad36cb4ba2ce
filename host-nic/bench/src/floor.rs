//! The floor: plain copies of the same bytes between rings that are packed alike, the least work
//! that moving frames takes.

use std::arch::{asm, is_x86_feature_detected};
use std::hint::black_box;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering::Release};

use postern_abi::window::RECORD_ALIGN;

use crate::case::{Case, Pattern};
use crate::memory::Pages;

/// The routine that copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copy {
    /// The function `memcpy` of libc.
    Memcpy,
    /// Inline vector moves, of the widest registers that the processor has, up to 32 bytes.
    Vector,
}

/// How much of a frame's way is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The switch alone: from ring to ring.
    Switch,
    /// The whole path: written into a ring, from ring to ring, and read out of a ring.
    Whole,
}

impl Scope {
    /// Both.
    pub const ALL: [Scope; 2] = [Scope::Switch, Scope::Whole];

    /// The name of the scope in tables and on command lines.
    pub const fn name(self) -> &'static str {
        match self {
            Scope::Switch => "switch",
            Scope::Whole => "whole",
        }
    }
}

/// A position in a ring, as the offset of the next record.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor(usize);

/// A word that one end of a ring stores and the other one reads, on a cache line of its own.
#[repr(align(64))]
#[derive(Debug, Default)]
struct Word(AtomicU32);

/// A ring of records.
#[derive(Debug)]
struct Ring {
    pages: Pages,
    size: usize,
    /// Where the next record is written, and where the next one is read.
    write: Cursor,
    read: Cursor,
    produced: Word,
    consumed: Word,
}

impl Ring {
    fn new(size: u32) -> io::Result<Ring> {
        let size = size as usize;
        let pages = Pages::new(size)?;
        // SAFETY: the mapping has that size, and nothing refers to it yet.
        unsafe { pages.base().write_bytes(0x5a, size) };
        Ok(Ring {
            pages,
            size,
            write: Cursor::default(),
            read: Cursor::default(),
            produced: Word::default(),
            consumed: Word::default(),
        })
    }

    /// Address of the record at a cursor, which is moved behind it. Records are packed; one that
    /// does not fit in front of the ring's end begins at its beginning.
    #[inline(always)]
    fn next(&self, cursor: &mut Cursor, record: usize) -> *mut u8 {
        let at = match cursor.0 + record <= self.size {
            true => cursor.0,
            false => 0,
        };
        cursor.0 = at + record;
        // SAFETY: the ring has a whole record from there on.
        unsafe { self.pages.base().add(at) }
    }
}

/// A sender's ring, and the rings that it is copied to.
#[derive(Debug)]
pub struct Floor {
    case: Case,
    from: Ring,
    to: Vec<Ring>,
    /// The frames of a batch, and where one is read to.
    frames: Vec<Vec<u8>>,
    buffer: Vec<u8>,
    /// Number of frames that were moved, modulo 2^32.
    position: u32,
}

impl Floor {
    /// The floor of a case. All rings have the default size of the NIC's TX rings.
    ///
    /// # Errors
    ///
    /// The system has not enough memory.
    pub fn new(case: Case) -> io::Result<Floor> {
        let ring = |_| Ring::new(case.default_ring());
        let frame = vec![0xa5; case.length as usize];
        Ok(Floor {
            case,
            from: ring(0)?,
            to: (0..case.receivers()).map(ring).collect::<io::Result<_>>()?,
            frames: vec![frame.clone(); case.batch as usize],
            buffer: frame,
            position: 0,
        })
    }

    /// Number of frames until all rings have been gone around.
    pub fn lap(&self) -> u32 {
        let lap = self.from.size as u32 / self.case.record();
        match self.case.pattern {
            Pattern::Scatter => lap * self.case.receivers(),
            Pattern::Unicast | Pattern::Broadcast => lap,
        }
    }

    /// Moves `steps` batches.
    pub fn run(&mut self, copy: Copy, scope: Scope, steps: u64) {
        match copy {
            Copy::Memcpy => self.go(scope, steps, |from, to, size| {
                // SAFETY: `go` gives `size` bytes on both sides, which do not overlap.
                unsafe { libc::memcpy(to.cast(), from.cast(), size) };
            }),
            Copy::Vector if is_x86_feature_detected!("avx") => {
                self.go(scope, steps, |from, to, size| {
                    // SAFETY: `go` gives `size` bytes on both sides, more than 32, which do not
                    // overlap, and the processor has AVX.
                    unsafe { vector::<true>(from, to, size) };
                });
            }
            Copy::Vector => self.go(scope, steps, |from, to, size| {
                // SAFETY: as above, without AVX.
                unsafe { vector::<false>(from, to, size) };
            }),
        }
    }

    #[inline(always)]
    fn go(&mut self, scope: Scope, steps: u64, copy: impl Fn(*const u8, *mut u8, usize)) {
        match scope {
            Scope::Switch => (0..steps).for_each(|_| self.step(false, &copy)),
            Scope::Whole => (0..steps).for_each(|_| self.step(true, &copy)),
        }
    }

    /// Moves a batch: from ring to ring, and where it is `whole` from the frames into the one and
    /// out of the others.
    #[inline(always)]
    fn step(&mut self, whole: bool, copy: &impl Fn(*const u8, *mut u8, usize)) {
        const HEADER: usize = RECORD_ALIGN as usize;
        // In registers, of which the compiler does not know what they are.
        let length = black_box(self.case.length as usize);
        let (record, batch) = (black_box(self.case.record() as usize), self.frames.len());
        let (from, position) = (&mut self.from, self.position.wrapping_add(self.case.batch));
        self.position = position;
        if whole {
            let mut write = from.write;
            for frame in &self.frames {
                let at = from.next(&mut write, record);
                // SAFETY: the record has a header and room for the frame, at a multiple of 16.
                unsafe { at.cast::<[u64; 2]>().write([length as u64, 0]) };
                copy(frame.as_ptr(), at.wrapping_add(HEADER), length);
            }
            from.write = write;
        }
        from.produced.0.store(position, Release);
        let start = from.read;
        if self.case.pattern == Pattern::Scatter {
            let mut read = start;
            let mut left = batch;
            while left != 0 {
                for to in self.to.iter_mut().take(left) {
                    let mut write = to.write;
                    let at = to.next(&mut write, record);
                    copy(from.next(&mut read, record), at, record);
                    to.write = write;
                }
                left -= left.min(self.to.len());
            }
            from.read = read;
        } else {
            for to in &mut self.to {
                let (mut read, mut write) = (start, to.write);
                for _ in 0..batch {
                    let at = to.next(&mut write, record);
                    copy(from.next(&mut read, record), at, record);
                }
                (from.read, to.write) = (read, write);
            }
        }
        for to in &self.to {
            to.produced.0.store(position, Release);
        }
        from.consumed.0.store(position, Release);
        for to in &mut self.to {
            if whole {
                let mut read = to.read;
                while read.0 != to.write.0 {
                    let at = to.next(&mut read, record);
                    copy(at.wrapping_add(HEADER), self.buffer.as_mut_ptr(), length);
                }
                to.read = read;
            }
            to.consumed.0.store(position, Release);
        }
    }
}

/// Copies `size` bytes by vector registers: of 32 bytes with `AVX`, else of 16. The last 32 bytes may
/// overlap those before them.
///
/// # Safety
///
/// `from` is valid for reads and `to` for writes of `size` bytes, 32 or more, and the two do not
/// overlap. With `AVX` the processor has that.
#[inline(always)]
unsafe fn vector<const AVX: bool>(from: *const u8, to: *mut u8, size: usize) {
    // SAFETY: the caller vouches for `size` bytes on both sides, and all pieces lie in them.
    unsafe {
        let mut done = 0;
        while done + 128 <= size {
            pieces::<AVX, 4>(from.add(done), to.add(done));
            done += 128;
        }
        while done + 32 <= size {
            pieces::<AVX, 1>(from.add(done), to.add(done));
            done += 32;
        }
        if done != size {
            pieces::<AVX, 1>(from.add(size - 32), to.add(size - 32));
        }
        if AVX {
            asm!("vzeroupper", options(nomem, nostack, preserves_flags));
        }
    }
}

/// Copies `N` pieces of 32 bytes.
///
/// # Safety
///
/// The contract of [`vector`] for `32 * N` bytes.
#[inline(always)]
unsafe fn pieces<const AVX: bool, const N: usize>(from: *const u8, to: *mut u8) {
    for piece in 0..N {
        // SAFETY: the caller vouches for these 32 bytes on both sides, and for AVX.
        unsafe {
            let (from, to) = (from.add(piece * 32), to.add(piece * 32));
            if AVX {
                asm!(
                    "vmovdqu {a:y}, [{from}]",
                    "vmovdqu [{to}], {a:y}",
                    from = in(reg) from,
                    to = in(reg) to,
                    a = out(xmm_reg) _,
                    options(nostack, preserves_flags),
                );
            } else {
                asm!(
                    "movups {a}, [{from}]",
                    "movups {b}, [{from} + 16]",
                    "movups [{to}], {a}",
                    "movups [{to} + 16], {b}",
                    from = in(reg) from,
                    to = in(reg) to,
                    a = out(xmm_reg) _,
                    b = out(xmm_reg) _,
                    options(nostack, preserves_flags),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vector_floor_copies_every_byte_and_no_other() {
        let source: Vec<u8> = (0..2000u32).map(|i| (i * 7 + (i >> 8)) as u8).collect();
        let copies: [unsafe fn(*const u8, *mut u8, usize); 2] = [vector::<false>, vector::<true>];
        let has_avx = usize::from(is_x86_feature_detected!("avx"));
        for copy in &copies[..=has_avx] {
            for size in 32..1600 {
                let mut target = vec![0xaa; size + 64];
                // SAFETY: two vectors of this test, each with more bytes than the copy reaches.
                unsafe { copy(source.as_ptr().add(3), target.as_mut_ptr().add(13), size) };
                assert_eq!(target[13..13 + size], source[3..3 + size], "{size}");
                let around = target[..13].iter().chain(&target[13 + size..]);
                assert!(around.clone().all(|byte| *byte == 0xaa), "{size}");
            }
        }
    }
}
