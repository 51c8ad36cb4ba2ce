//! Copying frames between windows: the one routine that differs by place.
//!
//! Natively it uses the 16-byte registers that every x86-64 processor has, and those of 32 bytes where it
//! finds them; where the target has no vector
//! registers (the host's kernel, views, the bare-metal guest) 8-byte ones. It is written in assembly,
//! because both sides of a copy are memory that a hostile guest may be writing at the same moment:
//! what is loaded is stored, once, and nothing is concluded from it.

use core::arch::asm;

/// Copies a frame's whole blocks of 16 bytes but the first, from record to record: those from byte 16 to
/// byte `whole` of the frame, which begins 16 bytes behind each pointer.
///
/// # Safety
/// `whole` is a multiple of 16, at least 32; `from` is valid for reads and `to` for writes of 16 + `whole` bytes,
/// in memory that the program accesses atomically or by such routines alone; and the two do not overlap.
#[inline(always)]
pub unsafe fn blocks(from: *const u8, to: *mut u8, whole: usize) {
    // SAFETY: the contract is the same; where two copies overlap, both have the whole blocks.
    unsafe {
        if whole > 80 {
            large(from.add(32), to.add(32), whole - 16);
        } else if whole > 48 {
            four(from, to, whole);
        } else {
            two(from, to, whole);
        }
    }
}

/// [`blocks`] for two to four of them.
///
/// # Safety
/// As [`blocks`].
#[cfg(target_feature = "sse2")]
#[inline(always)]
pub unsafe fn four(from: *const u8, to: *mut u8, whole: usize) {
    // SAFETY: what `blocks`' caller vouches for.
    unsafe {
        asm!(
            "movups {a}, [{from} + 32]",
            "movups {b}, [{from} + 48]",
            "movups {c}, [{from} + {whole} - 16]",
            "movups {d}, [{from} + {whole}]",
            "movups [{to} + 32], {a}",
            "movups [{to} + 48], {b}",
            "movups [{to} + {whole} - 16], {c}",
            "movups [{to} + {whole}], {d}",
            from = in(reg) from,
            to = in(reg) to,
            whole = in(reg) whole,
            a = out(xmm_reg) _,
            b = out(xmm_reg) _,
            c = out(xmm_reg) _,
            d = out(xmm_reg) _,
            options(nostack, preserves_flags),
        );
    }
}

/// [`blocks`] for two to four of them.
///
/// # Safety
/// As [`blocks`].
#[cfg(not(target_feature = "sse2"))]
#[inline(always)]
pub unsafe fn four(from: *const u8, to: *mut u8, whole: usize) {
    // SAFETY: what `blocks`' caller vouches for.
    unsafe {
        straight::<2>(from.add(32), to.add(32));
        straight::<2>(from.add(whole - 16), to.add(whole - 16));
    }
}

/// Copies `size` bytes, any number. Both may be at any address.
///
/// # Safety
/// `from` is valid for reads and `to` for writes of that many bytes, in memory that the program accesses
/// atomically or by such routines alone; and the two do not overlap.
#[inline(never)]
pub unsafe fn bytes(from: *const u8, to: *mut u8, size: usize) {
    let whole = size & !15;
    // SAFETY: the contract is the same; each step stays below `size`.
    unsafe {
        if whole != 0 {
            large(from, to, whole);
        }
        let (mut from, mut to) = (from.add(whole), to.add(whole));
        macro_rules! step {
            ($size:literal, $register:literal, $width:literal) => {
                if size & $size != 0 {
                    asm!(
                        concat!("mov {a:", $register, "}, ", $width, " ptr [{from}]"),
                        concat!("mov ", $width, " ptr [{to}], {a:", $register, "}"),
                        from = in(reg) from,
                        to = in(reg) to,
                        a = out(reg) _,
                        options(nostack, preserves_flags),
                    );
                    (from, to) = (from.add($size), to.add($size));
                }
            };
        }
        step!(8, "r", "qword");
        step!(4, "e", "dword");
        step!(2, "x", "word");
        if size & 1 != 0 {
            asm!(
                "mov {a:l}, byte ptr [{from}]",
                "mov byte ptr [{to}], {a:l}",
                from = in(reg) from,
                to = in(reg) to,
                a = out(reg) _,
                options(nostack, preserves_flags),
            );
        }
    }
}

/// [`blocks`] for one or two of them.
///
/// # Safety
/// As [`blocks`].
#[inline(never)]
unsafe fn two(from: *const u8, to: *mut u8, whole: usize) {
    // SAFETY: what `blocks`' caller vouches for.
    unsafe {
        straight::<1>(from.add(32), to.add(32));
        straight::<1>(from.add(whole), to.add(whole));
    }
}

/// Copies `size` bytes, forwards, with the widest registers that are allowed here.
///
/// # Safety
/// `size` is a multiple of 16; and as [`blocks`].
#[inline(never)]
unsafe fn large(from: *const u8, to: *mut u8, size: usize) {
    // SAFETY: the contract is the same, and the processor has what is asked for.
    unsafe {
        #[cfg(feature = "std")]
        if std::arch::is_x86_feature_detected!("avx") {
            return wide(from, to, size);
        }
        narrow(from, to, size);
    }
}

/// [`large`] with registers of 32 bytes.
///
/// # Safety
/// As [`large`], and the processor has AVX.
#[cfg(feature = "std")]
#[inline(always)]
unsafe fn wide(mut from: *const u8, mut to: *mut u8, mut size: usize) {
    // SAFETY: each step stays below `size`, which is 16 or more.
    unsafe {
        // Records begin at multiples of 16. From here on no store goes over the end of a cache line.
        if to as usize & 16 != 0 {
            straight::<1>(from, to);
            (from, to) = (from.add(16), to.add(16));
            size -= 16;
        }
        let steps = size / 128;
        if steps != 0 {
            asm!(
                "2:",
                "vmovups {a:y}, [{from}]",
                "vmovups {b:y}, [{from} + 32]",
                "vmovups {c:y}, [{from} + 64]",
                "vmovups {d:y}, [{from} + 96]",
                "vmovups [{to}], {a:y}",
                "vmovups [{to} + 32], {b:y}",
                "vmovups [{to} + 64], {c:y}",
                "vmovups [{to} + 96], {d:y}",
                "sub {from}, -128",
                "sub {to}, -128",
                "dec {left}",
                "jnz 2b",
                "vzeroupper",
                from = inout(reg) from,
                to = inout(reg) to,
                left = inout(reg) steps => _,
                a = out(xmm_reg) _,
                b = out(xmm_reg) _,
                c = out(xmm_reg) _,
                d = out(xmm_reg) _,
                options(nostack),
            );
        }
        if size & 64 != 0 {
            straight::<4>(from, to);
            (from, to) = (from.add(64), to.add(64));
        }
        if size & 32 != 0 {
            straight::<2>(from, to);
            (from, to) = (from.add(32), to.add(32));
        }
        if size & 16 != 0 {
            straight::<1>(from, to);
        }
    }
}

/// [`large`] with the registers that every processor has.
///
/// # Safety
/// As [`large`].
#[inline(always)]
unsafe fn narrow(from: *const u8, to: *mut u8, size: usize) {
    // SAFETY: the contract is the same; each step stays below `size`.
    unsafe {
        let large = size & !0xff;
        if large != 0 {
            loop_256(from, to, large);
        }
        let (mut from, mut to) = (from.add(large), to.add(large));
        if size & 128 != 0 {
            straight::<8>(from, to);
            (from, to) = (from.add(128), to.add(128));
        }
        if size & 64 != 0 {
            straight::<4>(from, to);
            (from, to) = (from.add(64), to.add(64));
        }
        if size & 32 != 0 {
            straight::<2>(from, to);
            (from, to) = (from.add(32), to.add(32));
        }
        if size & 16 != 0 {
            straight::<1>(from, to);
        }
    }
}

/// Copies `N` blocks of 16 bytes.
///
/// # Safety
/// As [`blocks`].
#[cfg(target_feature = "sse2")]
#[inline(always)]
unsafe fn straight<const N: usize>(from: *const u8, to: *mut u8) {
    let mut done = 0;
    while done < N {
        // SAFETY: within what `blocks`' caller vouches for.
        unsafe {
            if N - done >= 2 {
                asm!(
                    "movups {a}, [{from}]",
                    "movups {b}, [{from} + 16]",
                    "movups [{to}], {a}",
                    "movups [{to} + 16], {b}",
                    from = in(reg) from.add(done * 16),
                    to = in(reg) to.add(done * 16),
                    a = out(xmm_reg) _,
                    b = out(xmm_reg) _,
                    options(nostack, preserves_flags),
                );
                done += 2;
            } else {
                asm!(
                    "movups {a}, [{from}]",
                    "movups [{to}], {a}",
                    from = in(reg) from.add(done * 16),
                    to = in(reg) to.add(done * 16),
                    a = out(xmm_reg) _,
                    options(nostack, preserves_flags),
                );
                done += 1;
            }
        }
    }
}

/// Copies `size` bytes, a multiple of 256, not 0.
///
/// # Safety
/// As [`blocks`].
#[cfg(target_feature = "sse2")]
#[inline(always)]
unsafe fn loop_256(from: *const u8, to: *mut u8, size: usize) {
    // SAFETY: what `blocks`' caller vouches for.
    unsafe {
        asm!(
            "2:",
            "movups {a}, [{from}]",
            "movups {b}, [{from} + 16]",
            "movups {c}, [{from} + 32]",
            "movups {d}, [{from} + 48]",
            "movups [{to}], {a}",
            "movups [{to} + 16], {b}",
            "movups [{to} + 32], {c}",
            "movups [{to} + 48], {d}",
            "movups {a}, [{from} + 64]",
            "movups {b}, [{from} + 80]",
            "movups {c}, [{from} + 96]",
            "movups {d}, [{from} + 112]",
            "movups [{to} + 64], {a}",
            "movups [{to} + 80], {b}",
            "movups [{to} + 96], {c}",
            "movups [{to} + 112], {d}",
            "movups {a}, [{from} + 128]",
            "movups {b}, [{from} + 144]",
            "movups {c}, [{from} + 160]",
            "movups {d}, [{from} + 176]",
            "movups [{to} + 128], {a}",
            "movups [{to} + 144], {b}",
            "movups [{to} + 160], {c}",
            "movups [{to} + 176], {d}",
            "movups {a}, [{from} + 192]",
            "movups {b}, [{from} + 208]",
            "movups {c}, [{from} + 224]",
            "movups {d}, [{from} + 240]",
            "movups [{to} + 192], {a}",
            "movups [{to} + 208], {b}",
            "movups [{to} + 224], {c}",
            "movups [{to} + 240], {d}",
            "add {from}, 256",
            "add {to}, 256",
            "sub {left}, 256",
            "jnz 2b",
            from = inout(reg) from => _,
            to = inout(reg) to => _,
            left = inout(reg) size => _,
            a = out(xmm_reg) _,
            b = out(xmm_reg) _,
            c = out(xmm_reg) _,
            d = out(xmm_reg) _,
            options(nostack),
        );
    }
}

/// Copies `N` blocks of 16 bytes.
///
/// # Safety
/// As [`blocks`].
#[cfg(not(target_feature = "sse2"))]
#[inline(always)]
unsafe fn straight<const N: usize>(from: *const u8, to: *mut u8) {
    let mut done = 0;
    while done < N {
        // SAFETY: within what `blocks`' caller vouches for.
        unsafe {
            asm!(
                "mov {a}, [{from}]",
                "mov {b}, [{from} + 8]",
                "mov [{to}], {a}",
                "mov [{to} + 8], {b}",
                from = in(reg) from.add(done * 16),
                to = in(reg) to.add(done * 16),
                a = out(reg) _,
                b = out(reg) _,
                options(nostack, preserves_flags),
            );
        }
        done += 1;
    }
}

/// Copies `size` bytes, a multiple of 256, not 0.
///
/// # Safety
/// As [`blocks`].
#[cfg(not(target_feature = "sse2"))]
#[inline(always)]
unsafe fn loop_256(from: *const u8, to: *mut u8, size: usize) {
    let (mut from, mut to, mut left) = (from, to, size);
    while left != 0 {
        // SAFETY: what `blocks`' caller vouches for; `left` bytes are left.
        unsafe {
            straight::<16>(from, to);
            (from, to) = (from.add(256), to.add(256));
        }
        left = left.wrapping_sub(256);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_is_copied_and_nothing_else() {
        let source: Vec<u8> = (0..10_000u32).map(|i| (i * 7 + (i >> 8)) as u8).collect();
        for whole in (32..=9024).step_by(16) {
            let mut target = vec![0xaa; whole + 64];
            // SAFETY: both are large enough, and not the same.
            unsafe { blocks(source.as_ptr().add(5), target.as_mut_ptr().add(8), whole) };
            let copied = 40..24 + whole;
            assert_eq!(target[copied.clone()], source[37..21 + whole], "{whole}");
            let around = target[..copied.start].iter().chain(&target[copied.end..]);
            assert!(around.clone().all(|byte| *byte == 0xaa), "{whole}");
        }
    }

    #[test]
    fn any_number_of_bytes_is_copied_and_nothing_else() {
        let source: Vec<u8> = (0..700u32).map(|i| (i * 5 + (i >> 8)) as u8).collect();
        for size in 0..600 {
            let mut target = vec![0xaa; size + 32];
            // SAFETY: both are large enough, and not the same.
            unsafe { bytes(source.as_ptr().add(3), target.as_mut_ptr().add(13), size) };
            assert_eq!(target[13..13 + size], source[3..3 + size], "{size}");
            let around = target[..13].iter().chain(&target[13 + size..]);
            assert!(around.clone().all(|byte| *byte == 0xaa), "{size}");
        }
    }
}
