//! The copy of a frame from window to window: the one routine that differs by where the switch
//! runs.
//!
//! A native program uses the registers of 16 bytes that every x86-64 processor has (SSE), and those
//! of 32 bytes where the processor has them (AVX). Targets without vector registers (the host's
//! kernel, views, the bare guest) use those of 8 bytes, and for more than 256 bytes a string
//! instruction. A NIC view does so only where the caller has not lent the call its vector registers
//! ([`TX_AVX`](postern_abi::service::TX_AVX)), and for large segments; those that it uses are cleared behind each copy, so
//! that no call returns with bytes of frames in them.
//!
//! The routine is written in assembly, because
//! both sides of a copy are memory that a hostile guest may be writing at the same moment: each
//! byte that is loaded is stored, once, and nothing is concluded from it.
//!
//! A *block* is 16 bytes of a frame, at a multiple of 16 from its beginning. Records begin with a
//! header of 16 bytes, so block `n` of a frame is at byte `16 + 16 * n` of its record.

use core::arch::asm;

#[cfg(feature = "view")]
mod lent;

/// Copies a frame's whole blocks but the first, from the record at `from` to the record at `to`:
/// bytes 16 to `whole` of the frame, which are bytes 32 to `16 + whole` of both records.
///
/// # Safety
///
/// `whole` is a multiple of 16, at least 32. `from` is valid for reads and `to` for writes of
/// `16 + whole` bytes, in memory that the program accesses atomically or by routines of this module
/// alone. The two do not overlap.
#[inline(always)]
pub unsafe fn blocks(from: *const u8, to: *mut u8, whole: usize) {
    // SAFETY: the contract of `blocks` is that of the three routines. Each touches bytes 32 to
    // `16 + whole` of the records: `large` `whole - 16` bytes from byte 32 on.
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

/// [`blocks`] for two, three or four blocks: `whole` is 48, 64 or 80.
///
/// # Safety
///
/// The contract of [`blocks`], with one of these three numbers.
#[cfg(target_feature = "sse2")]
#[inline(always)]
pub unsafe fn four(from: *const u8, to: *mut u8, whole: usize) {
    // SAFETY: the caller vouches for bytes 32 to `16 + whole` of both records. `whole` is 48 or
    // more, so the first two blocks and the last two lie in these bytes.
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

/// [`blocks`] for two, three or four blocks: `whole` is 48, 64 or 80.
///
/// # Safety
///
/// The contract of [`blocks`], with one of these three numbers.
#[cfg(not(target_feature = "sse2"))]
#[inline(always)]
pub unsafe fn four(from: *const u8, to: *mut u8, whole: usize) {
    // SAFETY: the caller vouches for bytes 32 to `16 + whole` of both records. `whole` is 48 or
    // more, so the first two blocks and the last two lie in these bytes.
    unsafe {
        straight::<2>(from.add(32), to.add(32));
        straight::<2>(from.add(whole - 16), to.add(whole - 16));
    }
}

/// Copies `size` bytes, any number, between any two addresses.
///
/// # Safety
///
/// `from` is valid for reads and `to` for writes of `size` bytes, in memory that the program
/// accesses atomically or by routines of this module alone. The two do not overlap.
#[inline(never)]
pub unsafe fn bytes(from: *const u8, to: *mut u8, size: usize) {
    let whole = size & !15;
    // SAFETY: the caller vouches for `size` bytes on both sides. `large` copies the first `whole`
    // of them; then the bits of `size` below 16 say how many bytes the steps copy together.
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

/// [`blocks`] for one or two blocks: `whole` is 32 or 48.
///
/// # Safety
///
/// The contract of [`blocks`], with one of these two numbers.
#[inline(never)]
unsafe fn two(from: *const u8, to: *mut u8, whole: usize) {
    // SAFETY: the caller vouches for bytes 32 to `16 + whole` of both records. `whole` is 32 or
    // more, so the first block and the last one lie in these bytes.
    unsafe {
        straight::<1>(from.add(32), to.add(32));
        straight::<1>(from.add(whole), to.add(whole));
    }
}

/// Copies `size` bytes with the widest registers that the program may use.
///
/// # Safety
///
/// The contract of [`bytes`]; and `size` is a multiple of 16, not 0.
#[inline(never)]
unsafe fn large(from: *const u8, to: *mut u8, size: usize) {
    // SAFETY: the contract of `large` is that of all routines, and those of registers of 32 bytes are
    // called only where the processor has AVX, or the caller says that it is on.
    unsafe {
        #[cfg(feature = "std")]
        if std::arch::is_x86_feature_detected!("avx") {
            return wide(from, to, size);
        }
        #[cfg(feature = "view")]
        if size <= lent::LONGEST && lent::are_lent() {
            return lent::copy_by_lent_registers(from, to, size);
        }
        narrow(from, to, size);
    }
}

/// [`large`] with registers of 32 bytes.
///
/// # Safety
///
/// The contract of [`large`], and the processor has AVX.
#[cfg(feature = "std")]
#[inline(always)]
unsafe fn wide(mut from: *const u8, mut to: *mut u8, mut size: usize) {
    // SAFETY: the caller vouches for `size` bytes on both sides, 16 or more. The first step takes
    // 16 of them where it is made, the loop 128 a round, and the other steps what bits 6, 5 and 4
    // of `size` leave.
    unsafe {
        // Records begin at multiples of 16. Behind this step no store crosses the end of a cache
        // line.
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
///
/// The contract of [`large`].
#[inline(always)]
unsafe fn narrow(from: *const u8, to: *mut u8, size: usize) {
    // SAFETY: the caller vouches for `size` bytes on both sides. The loop copies the multiple of
    // 256 in them, and the other steps what bits 7 to 4 of `size` leave.
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

/// Copies `N` blocks, without a loop at run time.
///
/// # Safety
///
/// The contract of [`bytes`] for `16 * N` bytes.
#[cfg(target_feature = "sse2")]
#[inline(always)]
unsafe fn straight<const N: usize>(from: *const u8, to: *mut u8) {
    let mut done = 0;
    while done < N {
        // SAFETY: blocks `done` and, where `N` has one more, `done + 1` are below `N`: the caller
        // vouches for their bytes on both sides.
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
///
/// The contract of [`bytes`], with such a number.
#[cfg(target_feature = "sse2")]
#[inline(always)]
unsafe fn loop_256(from: *const u8, to: *mut u8, size: usize) {
    // SAFETY: the caller vouches for `size` bytes on both sides. Each round copies 256 of them, and
    // the loop ends when none is left.
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

/// Copies `N` blocks, 1, 2, 4 or 8, without a loop at run time.
///
/// # Safety
///
/// The contract of [`bytes`] for `16 * N` bytes.
#[cfg(not(target_feature = "sse2"))]
#[inline(always)]
unsafe fn straight<const N: usize>(from: *const u8, to: *mut u8) {
    const { assert!(N == 1 || N == 2 || N == 4 || N == 8) };
    macro_rules! move_blocks {
        ($($offset:literal)*) => {
            // SAFETY: the caller vouches for the bytes of `N` blocks on both sides.
            unsafe {
                $(asm!(
                    concat!("mov {a}, [{from} + ", $offset, "]"),
                    concat!("mov {b}, [{from} + ", $offset, " + 8]"),
                    concat!("mov [{to} + ", $offset, "], {a}"),
                    concat!("mov [{to} + ", $offset, " + 8], {b}"),
                    from = in(reg) from,
                    to = in(reg) to,
                    a = out(reg) _,
                    b = out(reg) _,
                    options(nostack, preserves_flags),
                );)*
            }
        };
    }
    move_blocks!(0);
    if N >= 2 {
        move_blocks!(16);
    }
    if N >= 4 {
        move_blocks!(32 48);
    }
    if N >= 8 {
        move_blocks!(64 80 96 112);
    }
}

/// Copies `size` bytes, a multiple of 256, not 0, with a string instruction: from some such length on,
/// processors copy whole cache lines for it (Intel, "Optimization Reference Manual", "Enhanced REP
/// MOVSB and STOSB Operation").
///
/// # Safety
///
/// The contract of [`bytes`], with such a number.
#[cfg(not(target_feature = "sse2"))]
#[inline(always)]
unsafe fn loop_256(from: *const u8, to: *mut u8, size: usize) {
    // SAFETY: the caller vouches for `size` bytes on both sides. The direction flag, which a guest sets
    // as it likes, is cleared by the stub that enters a view, and by a VM exit; and here once more, as
    // all bounds of the copy depend on it.
    unsafe {
        // TEST ONLY: the flag is what the caller has made it.
        #[cfg(feature = "attack-caller-state")]
        asm!(
            "rep movsb",
            inout("rcx") size => _,
            inout("rdi") to => _,
            inout("rsi") from => _,
            options(nostack, preserves_flags),
        );
        #[cfg(not(feature = "attack-caller-state"))]
        asm!(
            "cld",
            "rep movsb",
            inout("rcx") size => _,
            inout("rdi") to => _,
            inout("rsi") from => _,
            options(nostack, preserves_flags),
        );
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
            // SAFETY: two vectors of this test, each with more bytes than the copy reaches.
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
            // SAFETY: two vectors of this test, each with more bytes than the copy reaches.
            unsafe { bytes(source.as_ptr().add(3), target.as_mut_ptr().add(13), size) };
            assert_eq!(target[13..13 + size], source[3..3 + size], "{size}");
            let around = target[..13].iter().chain(&target[13 + size..]);
            assert!(around.clone().all(|byte| *byte == 0xaa), "{size}");
        }
    }
}
