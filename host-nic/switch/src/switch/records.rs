//! A TX ring as the switch reads it: memory whose other side is hostile.

use crate::sync::{AtomicU64, Ordering::Relaxed};

use postern_abi::window::{KIND_PAD, MIN_FRAME, PAD_WORD, RECORD_ALIGN, RecordHeader, record_size};

use crate::fdb::MAC_MASK;

/// The records of a ring that a call may take.
#[derive(Clone, Copy)]
pub struct Records {
    base: *const u8,
    /// Size of the ring, a power of two, less one.
    mask: u32,
    position: u32,
    end: u32,
}

/// A part of a ring in which records follow each other, none of them cut by the ring's end.
#[derive(Clone, Copy)]
pub struct Stretch {
    /// Its first record.
    pub record: *const u8,
    /// Bytes from there.
    pub left: usize,
}

/// The first 16 bytes of a frame, which decide where it goes. What is delivered are these very
/// words, not what is there later.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// Destination, and the first two bytes of the source.
    pub first: u64,
    /// The other four bytes of the source, and what follows.
    pub second: u64,
}

impl Addresses {
    /// Whether two frames have the same destination and source.
    #[inline]
    pub const fn same_way(self, other: Addresses) -> bool {
        (self.first ^ other.first) | ((self.second ^ other.second) & 0xffff_ffff) == 0
    }

    /// Destination address, first byte lowest.
    #[inline]
    pub const fn destination(self) -> u64 {
        self.first & MAC_MASK
    }

    /// Source address, first byte lowest.
    #[inline]
    pub const fn source(self) -> u64 {
        self.first >> 48 | (self.second & 0xffff_ffff) << 16
    }
}

/// An ordinary frame in its ring, checked.
#[derive(Clone, Copy)]
pub struct Frame {
    /// Where its record is.
    pub record: *const u8,
    /// Bytes of the frame.
    pub length: usize,
    /// Its beginning.
    pub addresses: Addresses,
}

/// What a record was that is behind the position now.
pub enum Taken {
    /// Padding.
    Padding,
    /// A frame of that length, of which no ring holds any.
    Length(u32),
    /// A frame: its header, and where its record is.
    Frame(RecordHeader, *const u8),
    /// It led outside; all of what was left is skipped.
    Outside,
}

#[inline(always)]
pub unsafe fn load(address: *const u8) -> u64 {
    // SAFETY: the caller vouches for an aligned word in shared memory.
    unsafe { AtomicU64::from_ptr(address.cast_mut().cast()).load(Relaxed) }
}

impl Records {
    /// The records between two positions, unless the pair is invalid.
    ///
    /// # Safety
    /// `base` is aligned to a page and valid for reads of `mask` + 1 bytes, a power of two, and of 32 more, as
    /// long as the value or anything made from it is used, in memory that the program accesses atomically.
    #[inline(always)]
    pub unsafe fn new(base: *const u8, mask: u32, position: u32, end: u32) -> Option<Records> {
        let unaligned = end & (RECORD_ALIGN - 1) != 0;
        if unaligned || end.wrapping_sub(position) > mask.wrapping_add(1) {
            return None;
        }
        Some(Records {
            base,
            mask,
            position,
            end,
        })
    }

    /// Up to where records were taken.
    #[inline(always)]
    pub const fn position(&self) -> u32 {
        self.position
    }

    #[inline(always)]
    const fn offset(&self) -> u32 {
        self.position & self.mask & !(RECORD_ALIGN - 1)
    }

    /// What follows the position, up to the end or the ring's end.
    #[inline(always)]
    pub fn stretch(&self) -> Stretch {
        let offset = self.offset();
        let left = self.end.wrapping_sub(self.position);
        let to_end = self.mask - offset + 1;
        Stretch {
            // SAFETY: the offset is below the size.
            record: unsafe { self.base.add(offset as usize) },
            left: if left < to_end { left } else { to_end } as usize,
        }
    }

    /// Whether so little follows that there is no record.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.end.wrapping_sub(self.position) < RECORD_ALIGN
    }

    /// Passes what [`Stretch::read`] checked.
    #[inline]
    pub fn advance(&mut self, bytes: u32) {
        self.position = self.position.wrapping_add(bytes);
    }

    /// Passes padding, if there is some.
    pub fn pass_padding(&mut self) -> bool {
        let Stretch { record, left } = self.stretch();
        // SAFETY: 32 bytes or more follow each position of a ring.
        let second = unsafe { load(record.add(8)) };
        let rest = self.mask - self.offset() + 1;
        let padded = second == PAD_WORD && left == rest as usize;
        if padded {
            self.advance(rest);
        }
        padded
    }

    /// Takes whatever there is at the position. A large segment may have `longest_large` bytes, any other
    /// frame `longest`.
    #[inline(never)]
    pub fn take(&mut self, longest: u32, longest_large: u32) -> Taken {
        let Stretch { record, left } = self.stretch();
        // SAFETY: 32 bytes or more follow each position of a ring.
        let (first, second) = unsafe { (load(record), load(record.add(8))) };
        let header = RecordHeader::from_words(first, second);
        if header.kind == KIND_PAD {
            let rest = self.mask - self.offset() + 1;
            if rest > self.end.wrapping_sub(self.position) {
                self.position = self.end;
                return Taken::Outside;
            }
            self.advance(rest);
            return Taken::Padding;
        }
        let size = record_size(header.length);
        if size > left as u64 {
            self.position = self.end;
            return Taken::Outside;
        }
        self.advance(size as u32);
        let longest = match header.gso_type {
            postern_abi::window::GSO_NONE => longest,
            _ => longest_large,
        };
        if header.length < MIN_FRAME || header.length > longest {
            return Taken::Length(header.length);
        }
        Taken::Frame(header, record)
    }
}

const _: () = assert!(PAD_WORD >> 48 == KIND_PAD as u64);

impl Stretch {
    /// Reads its first record once; nothing if that is no ordinary frame, or there is none. A frame may be `span`
    /// bytes longer than the shortest one.
    ///
    /// # Safety
    /// The stretch is what [`Records::stretch`] gave, or what [`Stretch::pass`] left of it.
    #[inline(always)]
    pub unsafe fn read(&self, span: u16) -> Option<Frame> {
        // SAFETY: the record begins in a ring. Where it is not in the stretch, it is not used.
        unsafe { Frame::read(self.record, span, |size| size <= self.left) }
    }

    /// Passes a frame that it begins with.
    #[inline(always)]
    pub fn pass(&mut self, frame: &Frame) {
        // SAFETY: `read` found the record in the stretch.
        self.record = unsafe { self.record.add(frame.size()) };
        self.left -= frame.size();
    }
}

/// Bytes that the record of a frame takes.
#[inline(always)]
const fn size(length: usize) -> usize {
    (length + 31) & !15
}

const _: () = assert!(size(14) as u64 == record_size(14) && size(17) as u64 == record_size(17));

impl Frame {
    /// The frame of the record that is all there is in `left` bytes, if it is an ordinary one. Whether the record
    /// lies in the ring remains to be seen.
    ///
    /// # Safety
    /// The record begins in a ring of a port, at a multiple of 16 bytes.
    #[inline(always)]
    pub unsafe fn only(record: *const u8, left: u32, span: u16) -> Option<Frame> {
        // SAFETY: the contract is the same.
        unsafe { Frame::read(record, span, |size| size as u32 == left) }
    }

    /// Reads a record once; nothing if that is no ordinary frame, or its size does not fit.
    ///
    /// # Safety
    /// As [`Frame::only`].
    #[inline(always)]
    unsafe fn read(record: *const u8, span: u16, fits: impl Fn(usize) -> bool) -> Option<Frame> {
        // SAFETY: 32 bytes or more follow each position of a ring.
        let (first, second) = unsafe { (load(record), load(record.add(8))) };
        // A length in the lower half, and nothing in the upper one.
        if first.wrapping_sub(MIN_FRAME.into()) > span.into() || second != 0 {
            return None;
        }
        let length = first as usize;
        if !fits(size(length)) {
            return None;
        }
        // SAFETY: as above.
        let (first, second) = unsafe { (load(record.add(16)), load(record.add(24))) };
        Some(Frame {
            record,
            length,
            addresses: Addresses { first, second },
        })
    }

    /// Bytes that its record takes.
    #[inline(always)]
    pub const fn size(&self) -> usize {
        size(self.length)
    }

    /// Writes the record: the words that were read, then the rest from where it was. What lies behind
    /// the frame in its last 16 bytes becomes zero, so that nothing else travels with it.
    ///
    /// # Safety
    /// `to` is aligned to 16 bytes and valid for writes of [`Frame::size`] bytes in shared memory, and
    /// `record` still is what it was made from.
    #[inline(always)]
    pub unsafe fn write(&self, to: *mut u8) {
        // SAFETY: the offsets lie in the record, which has 32 bytes or more; its size was checked where it
        // was read.
        unsafe {
            store(to, self.length as u64);
            store(to.add(8), 0);
            store(to.add(16), self.addresses.first);
            let whole = self.length & !15;
            if whole < 32 {
                return write_short(self.record, to, self.length, self.addresses.second);
            }
            store(to.add(24), self.addresses.second);
            crate::copy::blocks(self.record, to, whole);
            if self.length & 15 != 0 {
                write_tail(self.record, to, self.length);
            }
        }
    }
}

impl Frame {
    /// The same, with the fewest steps for a frame of 64 bytes and some more.
    ///
    /// # Safety
    /// As [`Frame::write`].
    #[inline(always)]
    pub unsafe fn write_alone(&self, to: *mut u8) {
        let whole = self.length & !15;
        // SAFETY: as in `write`.
        unsafe {
            if whole.wrapping_sub(64) > 16 {
                return write_any(self.record, to, self.length, self.addresses);
            }
            store(to, self.length as u64);
            store(to.add(8), 0);
            store(to.add(16), self.addresses.first);
            store(to.add(24), self.addresses.second);
            crate::copy::four(self.record, to, whole);
            if self.length & 15 != 0 {
                write_tail(self.record, to, self.length);
            }
        }
    }
}

/// [`Frame::write`], out of line.
///
/// # Safety
/// As there.
#[inline(never)]
unsafe fn write_any(record: *const u8, to: *mut u8, length: usize, addresses: Addresses) {
    let frame = Frame {
        record,
        length,
        addresses,
    };
    // SAFETY: the contract is the same.
    unsafe { frame.write(to) }
}

/// The rest of a frame of less than 32 bytes.
///
/// # Safety
/// As [`Frame::write`].
#[cold]
#[inline(never)]
unsafe fn write_short(record: *const u8, to: *mut u8, length: usize, second: u64) {
    // SAFETY: as in `write`.
    unsafe {
        if length < 16 {
            store(to.add(24), second & low_bytes(length & 7));
        } else {
            store(to.add(24), second);
            if length != 16 {
                write_tail(record, to, length);
            }
        }
    }
}

/// The last bytes of a frame, which do not fill 16.
///
/// # Safety
/// As [`Frame::write`], of a frame of more than 16 bytes.
#[inline(never)]
unsafe fn write_tail(record: *const u8, to: *mut u8, length: usize) {
    let (last, tail) = ((length & !15) + 16, length & 15);
    // SAFETY: the last 16 bytes of the record.
    unsafe {
        let (low, high) = (load(record.add(last)), load(record.add(last + 8)));
        let mask = low_bytes(tail & 7);
        let (low, high) = if tail < 8 {
            (low & mask, 0)
        } else {
            (low, high & mask)
        };
        store(to.add(last), low);
        store(to.add(last + 8), high);
    }
}

#[inline(always)]
pub unsafe fn store(address: *mut u8, word: u64) {
    // SAFETY: the caller vouches for an aligned word in shared memory.
    unsafe { AtomicU64::from_ptr(address.cast()).store(word, Relaxed) }
}

/// A mask of the lowest bytes, 0 to 7 of them.
#[inline]
const fn low_bytes(count: usize) -> u64 {
    (1u64 << ((count * 8) & 63)) - 1
}
