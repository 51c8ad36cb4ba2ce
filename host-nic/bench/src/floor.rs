//! The least that moving frames takes.

use std::arch::asm;
use std::hint::black_box;
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering::Release};

use crate::case::{Case, Pattern, SLOT};
use crate::memory::Pages;

/// What copies a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copy {
    /// libc's `memcpy`.
    Memcpy,
    /// 16-byte vector moves in line, four at a time: the length is rounded up to 64, as the slots have room.
    Vector,
}

/// A position on a line of its own.
#[repr(align(64))]
#[derive(Default)]
struct Line(AtomicU32);

/// Where frames begin in the rings they are copied to: not in the cache sets of those they come from. The copy is
/// faster so.
const SKEW: usize = 128;

/// A ring of slots that was filled, and the rings that it is copied to.
pub struct Floor {
    from: Pages,
    /// Each with what was published and what was consumed.
    to: Vec<(Pages, Line, Line)>,
    producer: Line,
    consumer: Line,
    /// Bytes from one frame to the next.
    stride: usize,
    /// Frames of a ring, and which of them is the next.
    frames: u32,
    next: u32,
    position: u32,
    batch: u32,
    length: usize,
    scatter: bool,
}

impl Floor {
    /// That of a case.
    ///
    /// # Errors
    ///
    /// When the system has not enough memory.
    pub fn new(case: Case) -> io::Result<Floor> {
        let size = (case.slots * SLOT) as usize;
        let from = Pages::new(size)?;
        // SAFETY: the mapping has that size.
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

    /// Frames of a lap of the rings.
    pub fn lap(&self) -> u32 {
        self.frames
    }

    /// So many steps.
    pub fn run(&mut self, copy: Copy, steps: u64) {
        match copy {
            Copy::Memcpy => self.go(steps, |from, to, length| {
                // SAFETY: both slots are that long, and they are in different mappings.
                unsafe { libc::memcpy(to.cast(), from.cast(), length) };
            }),
            Copy::Vector => self.go(steps, |from, to, length| {
                // SAFETY: as above; slots are multiples of 64 bytes.
                unsafe { vector(from, to, length) }
            }),
        }
    }

    #[inline(always)]
    fn go(&mut self, steps: u64, copy: impl Fn(*const u8, *mut u8, usize)) {
        let (batch, length) = (self.batch as usize, black_box(self.length));
        // In registers, which the compiler would not dare around calls of `memcpy`.
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

/// The way around rings.
struct Laps {
    from: *const u8,
    stride: usize,
    frames: u32,
}

impl Laps {
    /// One frame for each receiver's ring, from a number on; gives the number behind them.
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
            // SAFETY: the number is below that of the frames that rings have room for.
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

/// # Safety
///
/// Both are valid for `length` bytes, rounded up to 64, and do not overlap. `length` is not 0.
#[inline(always)]
unsafe fn vector(mut from: *const u8, mut to: *mut u8, length: usize) {
    let mut left = length;
    loop {
        // SAFETY: the caller vouches for 64 bytes more, as long as any are left.
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
