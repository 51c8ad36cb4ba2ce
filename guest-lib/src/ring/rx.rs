//! The guest's end of an RX queue.

use core::marker::PhantomData;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use postern_abi::window::{
    Geometry, KIND_PAD, MAX_LANES, MIN_FRAME, Published, RECORD_ALIGN, RecordHeader, record_size,
};

use super::copy::copy;
use super::window::Window;

/// A frame in a lane, while [`RxQueue::receive`] shows it.
///
/// Its bytes are the guest's until the lane's consumer passes them. On the `direct` path another
/// guest can change them all the same, so they are only copied, never referred to.
#[derive(Debug)]
pub struct Frame<'a> {
    bytes: *const u8,
    /// The two words of the record's header.
    header: (u64, u64),
    /// The lane's element of `senders`.
    sender: *mut u8,
    _window: PhantomData<&'a Window>,
}

impl Frame<'_> {
    /// Length of the frame in bytes, [`MIN_FRAME`] or more.
    #[allow(clippy::len_without_is_empty)]
    #[inline]
    pub fn len(&self) -> usize {
        self.header.0 as u32 as usize
    }

    /// The record's header: all of it but the length is zero unless features were agreed on.
    pub fn header(&self) -> RecordHeader {
        RecordHeader::from_words(self.header.0, self.header.1)
    }

    /// Number in the whole NIC of the sender that sent the frame: the number of its port times the
    /// number of queues of a port, plus the number of the sending vCPU.
    pub fn sender(&self) -> u32 {
        // SAFETY: the byte lies in the window.
        unsafe { AtomicU8::from_ptr(self.sender) }
            .load(Ordering::Relaxed)
            .into()
    }

    /// Copies the whole frame to `target`.
    ///
    /// # Panics
    ///
    /// `target` is not exactly as long as the frame.
    #[inline]
    pub fn copy_to(&self, target: &mut [u8]) {
        if target.len() != self.len() {
            wrong_length(target.len(), self.len());
        }
        // SAFETY: `drain` checked that the record has this many bytes in the window. They stay the
        // guest's until the lane's consumer passes them, which `drain` does after this borrow ends.
        // `target` is not in the window, to which no reference exists.
        unsafe { copy(self.bytes, target.as_mut_ptr(), self.len()) }
    }
}

/// Out of line, so that a copy needs no memory for the message.
#[cold]
#[inline(never)]
fn wrong_length(target: usize, frame: usize) -> ! {
    panic!("a frame of {frame} bytes is copied to {target} bytes");
}

/// The result of [`RxQueue::receive`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Number of frames that the caller got.
    pub frames: usize,
    /// Number of lanes that were emptied because they held no valid record.
    pub malformed: usize,
}

/// A word of `latest` that is none: the lanes are looked at whatever the NIC says.
const UNSEEN: u64 = u64::MAX;

/// The guest's end of an RX queue: the consumer of its lanes.
#[derive(Debug)]
pub struct RxQueue {
    /// The page of the queue's words.
    words: *mut u8,
    /// First byte of the queue's lane 0.
    rings: *mut u8,
    /// The word `latest` as it was when all lanes were found empty, else [`UNSEEN`].
    seen: u64,
    geometry: Geometry,
    /// Size of a lane in bytes, less one.
    mask: u32,
    /// Number of lanes; 0 if they are more than the bits of a word.
    few_lanes: u32,
    /// Number of the lane whose turn is next.
    next: u32,
    /// The element of `published` that each lane has when all its records have been read.
    empty: [u64; MAX_LANES as usize],
}

// SAFETY: the pointers lead into the window, whose mapping belongs to no thread and is accessed by
// atomics and raw pointers alone; the other fields are plain values.
unsafe impl Send for RxQueue {}

impl RxQueue {
    /// The queue of that number, from where the previous tenant of the port stopped.
    ///
    /// # Panics
    ///
    /// The NIC has no such queue.
    pub fn new(window: Window, queue: u32) -> RxQueue {
        let geometry = window.geometry;
        assert!(queue < geometry.queues(), "there is no queue {queue}");
        let mut empty = [0; MAX_LANES as usize];
        for (lane, word) in (0..geometry.lanes()).zip(&mut empty) {
            let position = window.word(geometry.consumed_offset(queue, lane));
            let position = position.load(Ordering::Relaxed) & !(RECORD_ALIGN - 1);
            let tenancy = window.tenancy;
            *word = Published { position, tenancy }.word();
        }
        RxQueue {
            words: window.at(geometry.latest_offset(queue)),
            rings: window.at(geometry.lane_offset(queue, 0)),
            seen: UNSEEN,
            geometry,
            mask: geometry.lane() - 1,
            few_lanes: if geometry.lanes() <= 64 {
                geometry.lanes()
            } else {
                0
            },
            next: 0,
            empty,
        }
    }

    /// The address of a word of the queue, of which queue 0 has the one at this offset.
    #[inline(always)]
    fn at(&self, offset: u64) -> *mut u8 {
        let first = self.geometry.latest_offset(0);
        // SAFETY: the offset is one of the geometry's, of a word in the page of queue 0, and the
        // pages of all queues are alike and lie in the window.
        unsafe { self.words.add((offset - first) as usize) }
    }

    /// A word of 64 bits of the queue, of which queue 0 has the one at this offset.
    #[inline(always)]
    fn long(&self, offset: u64) -> &AtomicU64 {
        // SAFETY: the geometry's offsets of such words are aligned.
        unsafe { AtomicU64::from_ptr(self.at(offset).cast()) }
    }

    /// The word `latest`.
    #[inline(always)]
    fn latest(&self) -> u64 {
        let latest = self.long(self.geometry.latest_offset(0));
        // Acquire: what was published before it is seen.
        latest.load(Ordering::Acquire)
    }

    /// Bytes that wait in a lane.
    #[inline(always)]
    fn waiting(&self, lane: u32) -> u32 {
        let word = self.long(self.geometry.published_offset(0, lane));
        // Acquire: the records below the position are read next.
        let word = word.load(Ordering::Acquire);
        let published = Published::from_word(word);
        let empty = Published::from_word(self.empty[lane as usize]);
        let waiting = published.position.wrapping_sub(empty.position);
        // A lane of another tenancy is empty, and so is one with an impossible position.
        let valid = published.tenancy == empty.tenancy && waiting.wrapping_sub(1) <= self.mask;
        if valid {
            waiting & !(RECORD_ALIGN - 1)
        } else {
            0
        }
    }

    /// The lanes from `64 * index` on that have had a holder; or others, if somebody else has written
    /// there.
    #[inline(always)]
    fn used(&self, index: u32) -> u64 {
        let used = self.long(self.geometry.used_offset(0) + u64::from(index) * 8);
        used.load(Ordering::Relaxed)
    }

    /// Whether a lane has a record that was not read.
    #[inline]
    pub fn ready(&self) -> bool {
        self.latest() != self.seen && (0..self.geometry.lanes()).any(|lane| self.waiting(lane) != 0)
    }

    /// Takes at most `max` frames and gives them to `sink`. The frames of one sender come in the
    /// order in which they were sent; senders take turns.
    ///
    /// A queue in which nothing was published since it was found empty costs one look at one word,
    /// however many lanes it has; else the lanes that are in use are looked at.
    #[inline]
    pub fn receive(&mut self, max: usize, mut sink: impl FnMut(Frame<'_>)) -> Received {
        let latest = self.latest();
        if latest == self.seen {
            return Received::default();
        }
        self.seen = latest;
        // Most queues have one sender, and the end of the lane is seldom between its records.
        let lane = (latest >> 32) as u32;
        if lane < self.few_lanes && self.used(0) == 1 << (lane & 63) && max != 0 {
            let waiting = self.waiting(lane);
            let start = Published::from_word(self.empty[lane as usize]).position;
            let offset = start & self.mask;
            if waiting != 0 && offset + waiting <= self.mask {
                let stretch = self.stretch(lane, offset, waiting);
                let (taken, received) = stretch.take(max, &mut sink);
                self.pass(lane, start.wrapping_add(taken));
                if taken != waiting {
                    self.seen = UNSEEN;
                }
                return received;
            }
        }
        self.receive_used(max, &mut sink)
    }

    /// [`RxQueue::receive`], where something was published, in whatever lane.
    #[inline(never)]
    fn receive_used(&mut self, max: usize, sink: &mut impl FnMut(Frame<'_>)) -> Received {
        let mut received = Received::default();
        let words = self.geometry.lanes().div_ceil(64);
        let (mut index, turn) = (self.next >> 6, self.next & 63);
        for _ in 0..words {
            let mut lanes = self.used(index).rotate_right(turn);
            while lanes != 0 {
                let lane = index * 64 + ((lanes.trailing_zeros() + turn) & 63);
                lanes &= lanes - 1;
                if lane >= self.geometry.lanes() {
                    continue;
                }
                let waiting = self.waiting(lane);
                if waiting == 0 {
                    continue;
                }
                // The lane whose turn is next is the one behind the last from which frames came.
                if received.frames != max {
                    let next = lane + 1;
                    self.next = if next < self.geometry.lanes() {
                        next
                    } else {
                        0
                    };
                    if self.drain(lane, waiting, max, &mut received, sink) {
                        continue;
                    }
                }
                self.seen = UNSEEN;
                return received;
            }
            index = if index + 1 < words { index + 1 } else { 0 };
        }
        received
    }

    /// Takes frames from a lane of `waiting` bytes, until `received` has `max`. Returns whether none
    /// is left of them.
    fn drain(
        &mut self,
        lane: u32,
        waiting: u32,
        max: usize,
        received: &mut Received,
        sink: &mut impl FnMut(Frame<'_>),
    ) -> bool {
        let start = Published::from_word(self.empty[lane as usize]).position;
        let (mut offset, mut left) = (start & self.mask, waiting);
        // At most once around the lane's end.
        while left != 0 && received.frames < max {
            let size = left.min(self.mask + 1 - offset);
            let stretch = self.stretch(lane, offset, size);
            let (taken, more) = stretch.take(max - received.frames, sink);
            received.frames += more.frames;
            received.malformed += more.malformed;
            // Where the next record cannot be found, the rest of the lane is given up.
            left = if more.malformed != 0 { 0 } else { left - taken };
            offset = 0;
        }
        self.pass(lane, start.wrapping_add(waiting - left));
        left == 0
    }

    /// The records of `size` bytes at an offset of a lane, which its end does not cut.
    #[inline(always)]
    fn stretch(&self, lane: u32, offset: u32, size: u32) -> Stretch<'_> {
        // SAFETY: the lanes of the queue follow each other in the window, and the caller says that
        // the lane has the bytes.
        unsafe {
            let ring = self
                .rings
                .add((lane as usize) << (self.geometry.lane_log() & 31));
            let at = ring.add(offset as usize);
            Stretch {
                at,
                end: at.add(size as usize),
                sender: self.at(self.geometry.sender_offset(0, lane)),
                _window: PhantomData,
            }
        }
    }

    /// Tells the NIC that a lane has been read up to a position.
    #[inline(always)]
    fn pass(&mut self, lane: u32, position: u32) {
        let empty = &mut self.empty[lane as usize];
        let tenancy = Published::from_word(*empty).tenancy;
        *empty = Published { position, tenancy }.word();
        let consumed = self.at(self.geometry.consumed_offset(0, lane));
        // SAFETY: the word lies in the window, aligned.
        let consumed = unsafe { AtomicU32::from_ptr(consumed.cast()) };
        consumed.store(position, Ordering::Release);
    }
}

/// Records that follow each other in a lane.
struct Stretch<'a> {
    at: *const u8,
    end: *const u8,
    /// The lane's element of `senders`.
    sender: *mut u8,
    _window: PhantomData<&'a Window>,
}

impl Stretch<'_> {
    /// Gives at most `max` frames, not 0, to `sink`. Returns the number of bytes that were taken: all
    /// of them where a record is padding or cannot be.
    #[inline(always)]
    fn take(mut self, max: usize, sink: &mut impl FnMut(Frame<'_>)) -> (u32, Received) {
        let start = self.at as usize;
        let mut received = Received::default();
        let mut budget = max;
        loop {
            // SAFETY: positions are multiples of 16, so that the 16 bytes of a header lie in what is
            // left of the stretch.
            let header = unsafe {
                let word = self.at.cast_mut().cast::<u64>();
                let first = AtomicU64::from_ptr(word).load(Ordering::Relaxed);
                let second = AtomicU64::from_ptr(word.add(1)).load(Ordering::Relaxed);
                (first, second)
            };
            let length = header.0 as u32;
            let record = record_size(length) as usize;
            if length < MIN_FRAME || record > self.end as usize - self.at as usize {
                // Padding has no length.
                received.malformed = usize::from(header.1 >> 48 != KIND_PAD.into());
                self.at = self.end;
                break;
            }
            // SAFETY: the record ends in the stretch, and is longer than its header.
            let bytes = unsafe { self.at.add(size_of::<RecordHeader>()) };
            // SAFETY: as above.
            self.at = unsafe { self.at.add(record) };
            budget -= 1;
            sink(Frame {
                bytes,
                header,
                sender: self.sender,
                _window: PhantomData,
            });
            if self.at == self.end || budget == 0 {
                break;
            }
        }
        received.frames = max - budget;
        ((self.at as usize - start) as u32, received)
    }
}
