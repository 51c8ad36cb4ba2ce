//! Copies between a frame of the caller's and a ring.
//!
//! Most frames are short, and their length is known at run time alone. So the copy is made of pieces
//! of fixed size, the last of which may overlap the one before it.

use core::ptr::copy_nonoverlapping;

/// Most bytes that are copied here; more are left to the library's routine.
const MOST: usize = 256;

/// Copies `size` bytes.
///
/// # Safety
///
/// `from` is valid for reads and `to` for writes of `size` bytes, and the two do not overlap.
#[inline(always)]
pub unsafe fn copy(from: *const u8, to: *mut u8, size: usize) {
    // SAFETY: the contract is that of all three. The pieces lie in the `size` bytes, 32 or more.
    unsafe {
        if size.wrapping_sub(32) > MOST - 32 {
            return copy_rare(from, to, size);
        }
        let last = size - 32;
        piece(from, to);
        let mut done = 32;
        while done < last {
            piece(from.add(done), to.add(done));
            done += 32;
        }
        piece(from.add(last), to.add(last));
    }
}

/// Copies 32 bytes. The compiler sees no loop of copies around it, for which it would call a routine
/// of the library.
///
/// # Safety
///
/// The contract of [`copy`].
#[cfg(target_feature = "sse2")]
#[inline(always)]
unsafe fn piece(from: *const u8, to: *mut u8) {
    // SAFETY: the caller vouches for 32 bytes on both sides.
    unsafe {
        core::arch::asm!(
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

/// Copies 32 bytes. The compiler sees no loop of copies around it, for which it would call a routine
/// of the library.
///
/// # Safety
///
/// The contract of [`copy`].
#[cfg(not(target_feature = "sse2"))]
#[inline(always)]
unsafe fn piece(from: *const u8, to: *mut u8) {
    // SAFETY: the caller vouches for 32 bytes on both sides.
    unsafe {
        core::arch::asm!(
            "mov {a}, [{from}]",
            "mov {b}, [{from} + 8]",
            "mov [{to}], {a}",
            "mov [{to} + 8], {b}",
            "mov {a}, [{from} + 16]",
            "mov {b}, [{from} + 24]",
            "mov [{to} + 16], {a}",
            "mov [{to} + 24], {b}",
            from = in(reg) from,
            to = in(reg) to,
            a = out(reg) _,
            b = out(reg) _,
            options(nostack, preserves_flags),
        );
    }
}

/// [`copy`] for less than 32 bytes, or many.
///
/// # Safety
///
/// The contract of [`copy`].
#[inline(never)]
unsafe fn copy_rare(from: *const u8, to: *mut u8, size: usize) {
    // SAFETY: the caller vouches for `size` bytes on both sides, in which each piece lies.
    unsafe {
        if size >= 32 {
            copy_nonoverlapping(from, to, size);
        } else if size >= 16 {
            copy_nonoverlapping(from, to, 16);
            copy_nonoverlapping(from.add(size - 16), to.add(size - 16), 16);
        } else if size >= 8 {
            copy_nonoverlapping(from, to, 8);
            copy_nonoverlapping(from.add(size - 8), to.add(size - 8), 8);
        } else {
            copy_nonoverlapping(from, to, size);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_is_copied_and_nothing_else() {
        let source: Vec<u8> = (0..600u32).map(|i| (i * 7 + (i >> 8)) as u8).collect();
        for size in 0..500 {
            let mut target = vec![0xaa; size + 32];
            // SAFETY: two vectors of this test, each with more bytes than the copy reaches.
            unsafe { copy(source.as_ptr().add(3), target.as_mut_ptr().add(13), size) };
            assert_eq!(target[13..13 + size], source[3..3 + size], "{size}");
            let around = target[..13].iter().chain(&target[13 + size..]);
            assert!(around.clone().all(|byte| *byte == 0xaa), "{size}");
        }
    }
}
