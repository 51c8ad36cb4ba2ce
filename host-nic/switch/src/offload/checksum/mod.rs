//! The Internet checksum (RFC 1071), and partial checksums of virtio.
//!
//! Memory is read in words of 8 bytes through a closure, each word once, in order. Since the sum
//! does not depend on the byte order (RFC 1071, 2 (B)), words are added as they are, first byte
//! lowest, and only a range that begins at an odd offset has its bytes swapped.
//!
//! A sender that asks for a checksum ([`Partial`]; `VIRTIO_NET_HDR_F_NEEDS_CSUM`) has put the sum
//! of the pseudo-header into the checksum's two bytes. The NIC adds up everything from `csum_start`
//! to the end of the frame, these two bytes included, and stores the complement there (virtio 1.2,
//! "Packet Transmission").

use crate::policy::headers::{Headers, Hidden, SNAPSHOT_BYTES};

/// A ones' complement sum of 16-bit words, in 64 bits, not folded yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// The sum of nothing.
    pub const ZERO: Sum = Sum(0);

    /// Adds 8 bytes, the first one lowest, that begin at an even offset.
    #[inline]
    pub const fn add_word(self, word: u64) -> Sum {
        let (sum, carry) = self.0.overflowing_add(word);
        Sum(sum.wrapping_add(carry as u64))
    }

    /// Adds two bytes in network order, a field of a header.
    #[inline]
    pub const fn add_be16(self, value: u16) -> Sum {
        self.add_word(value.swap_bytes() as u64)
    }

    /// Adds the sum of bytes that begin at an even offset.
    #[inline]
    pub const fn add(self, other: Sum) -> Sum {
        self.add_word(other.0)
    }

    /// Adds bytes `from..to` of memory, as if they began at an even offset. `word(i)` is called
    /// once for each word that has one of these bytes, in order, and returns bytes `8 * i..8 * i +
    /// 8`, first byte lowest. An empty or reversed range adds nothing.
    #[inline(always)]
    pub fn add_range(self, from: u32, to: u32, mut word: impl FnMut(usize) -> u64) -> Sum {
        if from >= to {
            return self;
        }
        let first = from >> 3;
        let last = (to - 1) >> 3;
        let head = u64::MAX << (8 * (from & 7));
        // The mask of all bytes of the last word up to and with `to - 1`.
        let tail = u64::MAX >> (8 * (7 - ((to - 1) & 7)));
        // Both halves are added apart, so that no addition waits for a carry. There are far fewer
        // than 2^32 words, so neither sum overflows.
        let (mut low, mut high) = (0u64, 0u64);
        let mut mask = head;
        let mut index = first;
        while index < last {
            let word = word(index as usize) & mask;
            low = low.wrapping_add(word & 0xffff_ffff);
            high = high.wrapping_add(word >> 32);
            mask = u64::MAX;
            index += 1;
        }
        let word = word(last as usize) & mask & tail;
        let mut sum = Sum(low).add_word(high).add_word(word);
        if from & 1 != 0 {
            sum = Sum(u64::from(sum.fold().swap_bytes()));
        }
        self.add(sum)
    }

    /// The sum folded into 16 bits, to be stored with the low byte first.
    #[inline]
    pub const fn fold(self) -> u16 {
        // Two halves of 32 bits, then of 16, each time with the carry that the addition leaves.
        let half = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        let half = (half & 0xffff_ffff) + (half >> 32);
        let quarter = (half & 0xffff) + (half >> 16);
        let quarter = (quarter & 0xffff) + (quarter >> 16);
        quarter as u16
    }

    /// The checksum: the complement of the sum, to be stored with the low byte first.
    #[inline]
    pub const fn checksum(self) -> u16 {
        !self.fold()
    }

    /// The checksum for a protocol in which zero means that there is none (RFC 768): all ones,
    /// which is the same number, instead of zero. It is right for every other protocol too.
    #[inline]
    pub const fn checksum_not_zero(self) -> u16 {
        match self.checksum() {
            0 => 0xffff,
            checksum => checksum,
        }
    }
}

/// A partial checksum: one that its sender has left undone, whose two bytes lie in the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partial {
    /// Offset in the frame of the first byte that is added up.
    start: u32,
    /// Offset in the frame of the checksum.
    place: u32,
    /// Length of the frame in bytes.
    length: u32,
}

impl Partial {
    /// The partial checksum with the `csum_start` and `csum_offset` of a frame of `length` bytes.
    /// `None` unless summing begins behind the Ethernet header and the checksum lies in the frame.
    #[inline]
    pub const fn new(csum_start: u16, csum_offset: u16, length: u32) -> Option<Partial> {
        let start = csum_start as u32;
        let place = start + csum_offset as u32;
        if start < 14 || place + 2 > length {
            return None;
        }
        Some(Partial {
            start,
            place,
            length,
        })
    }

    /// Offset in the frame of the first byte that is added up.
    #[inline]
    pub const fn start(&self) -> u32 {
        self.start
    }

    /// Offset in the frame of the checksum's first byte.
    #[inline]
    pub const fn place(&self) -> u32 {
        self.place
    }

    /// Whether the checksum lies behind all bytes that a policy reads in a frame with these
    /// headers. The sender determines its value, and the value is stored after the policy was
    /// applied.
    #[inline]
    pub const fn is_payload(&self, headers: &Headers) -> bool {
        let l4 = headers.l4_offset as u32;
        let read = match headers.ports {
            Some(_) => 4,
            None => 0,
        };
        if matches!(headers.hidden, Hidden::Nothing) && l4 != 0 {
            self.start >= l4 && self.place >= l4 + read
        } else {
            self.start >= headers.l3_offset as u32 && self.place >= SNAPSHOT_BYTES
        }
    }

    /// The checksum of the frame whose words the closure returns, as for [`Sum::add_range`]. It is
    /// to be stored with the low byte first.
    ///
    /// A guest that changes its frame meanwhile gets a wrong checksum. If the words are those of
    /// the copy that is delivered, the checksum is right for that copy.
    #[inline(always)]
    pub fn finish(&self, word: impl FnMut(usize) -> u64) -> u16 {
        let sum = Sum::ZERO.add_range(self.start, self.length, word);
        sum.checksum_not_zero()
    }

    /// Word `index` of the frame, with those bytes of the checksum put in that lie in it. The
    /// checksum lies in the words [`Partial::words`].
    #[inline]
    pub const fn patch(&self, checksum: u16, index: usize, word: u64) -> u64 {
        put_u16(word, index, self.place, checksum)
    }

    /// Numbers of the first and the last word that the checksum lies in, equal unless it straddles
    /// two.
    #[inline]
    pub const fn words(&self) -> [usize; 2] {
        [(self.place >> 3) as usize, ((self.place + 1) >> 3) as usize]
    }
}

/// Word `index` of a frame, with those of the two bytes at offset `place` replaced that lie in it.
/// The low byte of `value` comes first.
#[inline]
pub const fn put_u16(word: u64, index: usize, place: u32, value: u16) -> u64 {
    let word = put_u8(word, index, place, value as u8);
    put_u8(word, index, place.wrapping_add(1), (value >> 8) as u8)
}

/// Word `index` of a frame, with the byte at offset `place` replaced if it lies in it.
#[inline]
const fn put_u8(word: u64, index: usize, place: u32, value: u8) -> u64 {
    if (place >> 3) as usize != index {
        return word;
    }
    let shift = 8 * (place & 7);
    word & !(0xff << shift) | (value as u64) << shift
}

#[cfg(test)]
mod tests;
