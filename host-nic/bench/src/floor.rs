//! The floor: plain copies of frames, the least work that moving them takes.

use std::arch::asm;
use std::hint::black_box;
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering::Release};

use crate::case::{Case, Pattern, SLOT};
use crate::memory::Pages;

/// The routine that copies a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copy {
    /// The function `memcpy` of libc.
    Memcpy,
    /// Inline vector moves of 16 bytes, four at a time. The length is rounded up to a multiple of
    /// 64, for which slots have room.
    Vector,
}

/// A position on a cache line of its own.
#[repr(align(64))]
#[derive(Debug, Default)]
struct Line(AtomicU32);

/// Offset in bytes of the first frame in the rings that frames are copied to, so that they lie in
/// other cache sets than those they come from. The copy is faster so.
const SKEW: usize = 128;

/// A ring of slots that was filled, and the rings that it is copied to.
#[derive(Debug)]
pub struct Floor {
    /// The ring that frames come from.
    from: Pages,
    /// The rings that frames are copied to, each with its published and its consumed position.
    to: Vec<(Pages, Line, Line)>,
    producer: Line,
    consumer: Line,
    /// Number of bytes from one frame to the next.
    stride: usize,
    /// Number of frames of a ring.
    frames: u32,
    /// Number in the ring of the next frame.
    next: u32,
    /// Number of frames that were moved, modulo 2^32.
    position: u32,
    /// Number of frames of a step.
    batch: u32,
    /// Length of a frame in bytes.
    length: usize,
    /// Whether each frame goes to one receiver, in turn.
    scatter: bool,
}

impl Floor {
    /// The floor of a case.
    ///
    /// # Errors
    ///
    /// The system has not enough memory.
    pub fn new(case: Case) -> io::Result<Floor> {
        let size = (case.slots * SLOT) as usize;
        let from = Pages::new(size)?;
        // SAFETY: the mapping has that size, and nothing refers to it yet.
        unsafe { ptr::write_bytes(from.base(), 0x5a, size) };
        let to = |_| {
            let pages = Pages::new(size + SKEW)?;
            Ok((pages, Line::default(), Line::default()))
        };
        Ok(Floor {
            from,
            to: (0..case.receivers()).map(to).collect::<io::Result<_>>()?,
            producer: Line::default(),
            consumer: Line::default(),
            stride: (case.pieces() * SLOT) as usize,
            frames: case.slots / case.pieces(),
            next: 0,
            position: 0,
            batch: case.batch,
            length: case.length as usize,
            scatter: case.pattern == Pattern::Scatter,
        })
    }

    /// Number of frames of a lap of the rings.
    pub fn lap(&self) -> u32 {
        self.frames
    }

    /// Makes `steps` steps.
    pub fn run(&mut self, copy: Copy, steps: u64) {
        match copy {
            Copy::Memcpy => self.go(steps, |from, to, length| {
                // SAFETY: both slots have `length` bytes, and lie in different mappings.
                unsafe { libc::memcpy(to.cast(), from.cast(), length) };
            }),
            Copy::Vector => self.go(steps, |from, to, length| {
                // SAFETY: both slots have `length` bytes, rounded up to 64 since slots have a
                // multiple of that, and lie in different mappings.
                unsafe { vector(from, to, length) }
            }),
        }
    }

    /// Makes `steps` steps with one routine.
    #[inline(always)]
    fn go(&mut self, steps: u64, copy: impl Fn(*const u8, *mut u8, usize)) {
        let (batch, length) = (self.batch as usize, black_box(self.length));
        // These are in registers, which the compiler would not dare around calls of `memcpy`.
        let (mut next, mut position) = (self.next, self.position);
        let laps = Laps {
            from: self.from.base(),
            stride: self.stride,
            frames: self.frames,
        };
        for _ in 0..steps {
            position = position.wrapping_add(self.batch);
            self.producer.0.store(position, Release);
            let first = next;
            if self.scatter {
                let receivers = self.to.iter().cycle().take(batch);
                next = laps.copy(first, receivers.map(|(to, _, _)| to.base()), length, &copy);
            } else {
                for (to, _, _) in &self.to {
                    let same = std::iter::repeat_n(to.base(), batch);
                    next = laps.copy(first, same, length, &copy);
                }
            }
            for (_, published, _) in &self.to {
                published.0.store(position, Release);
            }
            self.consumer.0.store(position, Release);
            for (_, _, consumed) in &self.to {
                consumed.0.store(position, Release);
            }
        }
        (self.next, self.position) = (next, position);
    }
}

/// The ring that frames come from, gone around again and again.
#[derive(Debug)]
struct Laps {
    from: *const u8,
    stride: usize,
    frames: u32,
}

impl Laps {
    /// Copies one frame into each receiver's ring, from frame `number` on. Returns the number
    /// behind the last one.
    #[inline(always)]
    fn copy(
        &self,
        mut number: u32,
        receivers: impl Iterator<Item = *mut u8>,
        length: usize,
        copy: &impl Fn(*const u8, *mut u8, usize),
    ) -> u32 {
        for to in receivers {
            let offset = number as usize * self.stride;
            // SAFETY: the number is below that of the frames for which all rings have room.
            let (from, to) = unsafe { (self.from.add(offset), to.add(offset + SKEW)) };
            copy(from, to, length);
            number += 1;
            if number == self.frames {
                number = 0;
            }
        }
        number
    }
}

/// Copies `length` bytes, rounded up to a multiple of 64.
///
/// # Safety
///
/// `from` is valid for reads and `to` for writes of so many bytes, and the two do not overlap.
/// `length` is not 0.
#[inline(always)]
unsafe fn vector(mut from: *const u8, mut to: *mut u8, length: usize) {
    let mut left = length;
    loop {
        // SAFETY: the caller vouches for 64 more bytes on both sides, as long as any are left.
        unsafe {
            asm!(
                "movups {a}, [{from}]",
                "movups {b}, [{from} + 16]",
                "movups {c}, [{from} + 32]",
                "movups {d}, [{from} + 48]",
                "movups [{to}], {a}",
                "movups [{to} + 16], {b}",
                "movups [{to} + 32], {c}",
                "movups [{to} + 48], {d}",
                from = in(reg) from,
                to = in(reg) to,
                a = out(xmm_reg) _,
                b = out(xmm_reg) _,
                c = out(xmm_reg) _,
                d = out(xmm_reg) _,
                options(nostack, preserves_flags),
            );
            if left <= 64 {
                return;
            }
            (from, to) = (from.add(64), to.add(64));
        }
        left -= 64;
    }
}
