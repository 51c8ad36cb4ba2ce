//! The records of a TX ring as the switch takes them: from memory whose other side is hostile.

use crate::sync::{AtomicU64, Ordering::Relaxed};

use postern_abi::window::{KIND_PAD, MIN_FRAME, PAD_WORD, RECORD_ALIGN, RecordHeader, record_size};

use crate::fdb::MAC_MASK;

/// The records of a ring that a call may take: those between two positions.
#[derive(Clone, Copy)]
pub struct Records {
    /// First byte of the ring.
    base: *const u8,
    /// Size of the ring in bytes, a power of two, less one.
    mask: u32,
    /// Position of the next record.
    position: u32,
    /// Position behind the last record.
    end: u32,
}

/// A part of a ring in which records follow each other, none of them cut by the ring's end.
#[derive(Clone, Copy)]
pub struct Stretch {
    /// First byte of its first record.
    pub record: *const u8,
    /// Number of bytes of the stretch.
    pub left: usize,
}

/// The first 16 bytes of a frame, of which its addresses decide where it goes. These very words are
/// delivered, whatever the guest writes there later.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// Bytes 0 to 7, first byte lowest: destination, and the first two bytes of the source.
    pub first: u64,
    /// Bytes 8 to 15, first byte lowest: the other four bytes of the source, and what follows them.
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

/// An ordinary frame in its ring, checked: of an acceptable length, and with nothing in its
/// record's header but that.
#[derive(Clone, Copy)]
pub struct Frame {
    /// First byte of the frame's record.
    pub record: *const u8,
    /// Length of the frame in bytes.
    pub length: usize,
    /// The first 16 bytes of the frame.
    pub addresses: Addresses,
}

/// A record that [`Records::take`] took.
pub enum Taken {
    /// Padding up to the ring's end.
    Padding,
    /// A frame of a length, in bytes, that no frame may have.
    Length(u32),
    /// A frame: the header of its record, and the record's first byte.
    Frame(RecordHeader, *const u8),
    /// A record that led outside of the records. All that was left of them is skipped.
    Outside,
}

/// Reads a word of 8 bytes, first byte lowest.
///
/// # Safety
///
/// `address` is aligned to 8 bytes and valid for reads of as many, in memory that the program
/// accesses atomically.
#[inline(always)]
pub unsafe fn load(address: *const u8) -> u64 {
    // SAFETY: the caller vouches for an aligned word in memory that is accessed atomically.
    unsafe { AtomicU64::from_ptr(address.cast_mut().cast()).load(Relaxed) }
}

impl Records {
    /// The records of the ring at `base` between the positions `position` and `end`, or nothing if
    /// the pair is invalid. `mask` is the ring's size in bytes, less one.
    ///
    /// # Safety
    ///
    /// `base` is aligned to a page and valid for reads of `mask` + 1 bytes, a power of two, and of
    /// 32 more, as long as the value or anything made from it is used, in memory that the program
    /// accesses atomically.
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

    /// Position up to which records were taken.
    #[inline(always)]
    pub const fn position(&self) -> u32 {
        self.position
    }

    /// Offset in the ring of the position, in bytes: a multiple of 16 below the ring's size.
    #[inline(always)]
    const fn offset(&self) -> u32 {
        self.position & self.mask & !(RECORD_ALIGN - 1)
    }

    /// The stretch that begins at the position, up to the last record or the ring's end.
    #[inline(always)]
    pub fn stretch(&self) -> Stretch {
        let offset = self.offset();
        let left = self.end.wrapping_sub(self.position);
        let to_end = self.mask - offset + 1;
        Stretch {
            // SAFETY: the offset is below the ring's size, and `new`'s caller vouched for the ring.
            record: unsafe { self.base.add(offset as usize) },
            left: if left < to_end { left } else { to_end } as usize,
        }
    }

    /// Whether fewer bytes are left than any record has.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.end.wrapping_sub(self.position) < RECORD_ALIGN
    }

    /// Moves the position behind records of `bytes` bytes that [`Stretch::read`] checked.
    #[inline]
    pub fn advance(&mut self, bytes: u32) {
        self.position = self.position.wrapping_add(bytes);
    }

    /// Moves the position to the beginning of the ring if padding leads there. Returns whether it
    /// does.
    pub fn pass_padding(&mut self) -> bool {
        let Stretch { record, left } = self.stretch();
        // SAFETY: 32 bytes or more can be read at each position of a ring, as `new`'s caller
        // vouched.
        let second = unsafe { load(record.add(8)) };
        let rest = self.mask - self.offset() + 1;
        let padded = second == PAD_WORD && left == rest as usize;
        if padded {
            self.advance(rest);
        }
        padded
    }

    /// Takes whatever record there is at the position. A large segment may have `longest_large`
    /// bytes, any other frame `longest`.
    #[inline(never)]
    pub fn take(&mut self, longest: u32, longest_large: u32) -> Taken {
        let Stretch { record, left } = self.stretch();
        // SAFETY: 32 bytes or more can be read at each position of a ring, as `new`'s caller
        // vouched.
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
    /// Reads the first record once. Returns nothing if that is no ordinary frame, or there is none.
    /// A frame may be `span` bytes longer than the shortest one.
    ///
    /// # Safety
    ///
    /// The stretch is one that [`Records::stretch`] gave, or the part of it that [`Stretch::pass`]
    /// left.
    #[inline(always)]
    pub unsafe fn read(&self, span: u16) -> Option<Frame> {
        // SAFETY: the caller's stretch begins in a ring or at its end, where 32 more bytes can be
        // read. A record that does not lie in the stretch is not used.
        unsafe { Frame::read(self.record, span, |size| size <= self.left) }
    }

    /// Takes records of `size` bytes together, which the stretch begins with, out of it.
    #[inline(always)]
    pub fn pass(&mut self, size: usize) {
        // SAFETY: `read` found that the records lie in the stretch.
        self.record = unsafe { self.record.add(size) };
        self.left -= size;
    }
}

/// Size in bytes of the record of a frame of `length` bytes.
#[inline(always)]
const fn size(length: usize) -> usize {
    (length + 31) & !15
}

const _: () = assert!(size(14) as u64 == record_size(14) && size(17) as u64 == record_size(17));

impl Frame {
    /// The frame of a record, if it is an ordinary one. The caller has to see that the record lies in
    /// the ring.
    ///
    /// # Safety
    ///
    /// The record begins in a ring of a port, at a multiple of 16 bytes.
    #[inline(always)]
    pub unsafe fn at(record: *const u8, span: u16) -> Option<Frame> {
        // SAFETY: the contract of `at` is that of `read`.
        unsafe { Frame::read(record, span, |_| true) }
    }

    /// Reads a record once. Returns nothing if it holds no ordinary frame, or its size in bytes
    /// does not fit.
    ///
    /// # Safety
    ///
    /// The record begins in a ring of a port or at the end of one, at a multiple of 16 bytes.
    #[inline(always)]
    unsafe fn read(record: *const u8, span: u16, fits: impl Fn(usize) -> bool) -> Option<Frame> {
        // SAFETY: 32 bytes or more can be read where a record begins: a ring or a lane follows.
        let (first, second) = unsafe { (load(record), load(record.add(8))) };
        // An ordinary frame's header has a length in its lowest 32 bits and zeros in all others.
        if first.wrapping_sub(MIN_FRAME.into()) > span.into() || second != 0 {
            return None;
        }
        let length = first as usize;
        if !fits(size(length)) {
            return None;
        }
        // SAFETY: 32 bytes or more can be read where a record begins: a ring or a lane follows.
        let (first, second) = unsafe { (load(record.add(16)), load(record.add(24))) };
        Some(Frame {
            record,
            length,
            addresses: Addresses { first, second },
        })
    }

    /// Size in bytes of the frame's record.
    #[inline(always)]
    pub const fn size(&self) -> usize {
        size(self.length)
    }

    /// Writes the record: the words that were read, then the rest of the frame from its ring. The
    /// bytes behind the frame in the record's last 16 become zero, so that nothing else travels
    /// with it.
    ///
    /// # Safety
    ///
    /// `to` is aligned to 16 bytes and valid for writes of [`Frame::size`] bytes in shared memory,
    /// and the ring that the frame was read from is still readable.
    #[inline(always)]
    pub unsafe fn write(&self, to: *mut u8) {
        // SAFETY: all offsets are below the record's size, which is 32 bytes or more and was
        // checked where the record was read. The caller vouches for both sides.
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
    /// [`Frame::write`] with the fewest steps for a frame of 64 to 95 bytes.
    ///
    /// # Safety
    ///
    /// The contract of [`Frame::write`].
    #[inline(always)]
    pub unsafe fn write_alone(&self, to: *mut u8) {
        let whole = self.length & !15;
        // SAFETY: the contract of `write_alone` is that of `write_any`. Behind that call, the
        // record has 80 bytes or more, and `whole` is 64 or 80, as `four` demands.
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
///
/// The contract of [`Frame::write`].
#[cold]
#[inline(never)]
unsafe fn write_any(record: *const u8, to: *mut u8, length: usize, addresses: Addresses) {
    let frame = Frame {
        record,
        length,
        addresses,
    };
    // SAFETY: the contract of `write_any` is that of `write`.
    unsafe { frame.write(to) }
}

/// Writes the rest of a frame of less than 32 bytes: all but its first 8. `second` is bytes 8 to
/// 15.
///
/// # Safety
///
/// The contract of [`Frame::write`], for a frame of `length` bytes.
#[cold]
#[inline(never)]
unsafe fn write_short(record: *const u8, to: *mut u8, length: usize, second: u64) {
    // SAFETY: a record has 32 bytes or more, and that of a frame of more than 16 bytes 48, which
    // the caller vouches for.
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

/// Writes the last bytes of a frame, those that do not fill 16, and zeros behind them.
///
/// # Safety
///
/// The contract of [`Frame::write`], for a frame of `length` bytes, more than 16 and no multiple of
/// 16.
#[cold]
#[inline(never)]
unsafe fn write_tail(record: *const u8, to: *mut u8, length: usize) {
    let (last, tail) = ((length & !15) + 16, length & 15);
    // SAFETY: these are the last 16 bytes of the record, on both sides, which the caller vouches
    // for.
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

/// Writes a word of 8 bytes, first byte lowest.
///
/// # Safety
///
/// `address` is aligned to 8 bytes and valid for writes of as many, in memory that the program
/// accesses atomically.
#[inline(always)]
pub unsafe fn store(address: *mut u8, word: u64) {
    // SAFETY: the caller vouches for an aligned word in memory that is accessed atomically.
    unsafe { AtomicU64::from_ptr(address.cast()).store(word, Relaxed) }
}

/// A mask of the lowest bytes, 0 to 7 of them.
#[inline]
const fn low_bytes(count: usize) -> u64 {
    (1u64 << ((count * 8) & 63)) - 1
}
