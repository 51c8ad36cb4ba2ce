//! The guest's end of an RX queue.

use core::marker::PhantomData;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use postern_abi::window::{
    ARMED, Geometry, KIND_PAD, MAX_LANES, MIN_FRAME, Published, RECORD_ALIGN, RecordHeader,
    record_size,
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

    /// The frame's first byte. [`Frame::len`] bytes may be read from there while the value lives, by raw
    /// pointers and by the kernel. On the `direct` path they may change meanwhile, so no reference may be
    /// made of them.
    pub fn as_ptr(&self) -> *const u8 {
        self.bytes
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
    /// The lane that was the only one in use, the last time that there was one.
    only: OnlyLane,
    /// Number of the lane whose turn is next.
    next: u32,
    /// The element of `published` of a lane at position 0.
    tenancy: u64,
    /// Position up to which each lane has been read.
    read: [u32; MAX_LANES as usize + 1],
}

/// A lane that is the only one in use.
#[derive(Clone, Copy, Debug)]
struct OnlyLane {
    number: u8,
    /// The word of `used` then, 0 if there is no such lane.
    used: u64,
    /// The lane's first byte.
    ring: *mut u8,
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
        let mut read = [0; MAX_LANES as usize + 1];
        for (lane, read) in (0..geometry.lanes()).zip(&mut read) {
            let position = window.word(geometry.consumed_offset(queue, lane));
            *read = position.load(Ordering::Relaxed) & !(RECORD_ALIGN - 1);
        }
        let beginning = Published {
            position: 0,
            tenancy: window.tenancy,
        };
        let rings = window.at(geometry.lane_offset(queue, 0));
        RxQueue {
            words: window.at(geometry.latest_offset(queue)),
            rings,
            seen: UNSEEN,
            geometry,
            mask: geometry.lane() - 1,
            only: OnlyLane {
                number: 0,
                used: 0,
                ring: rings,
            },
            next: 0,
            tenancy: beginning.word(),
            read,
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

    /// The element of `published` of a lane.
    #[inline(always)]
    fn published(&self, lane: u32) -> u64 {
        let word = self.long(self.geometry.published_offset(0, lane));
        // Acquire: the records below the position are read next.
        word.load(Ordering::Acquire)
    }

    /// Bytes that wait in a lane.
    fn waiting(&self, lane: u32) -> u32 {
        let published = Published::from_word(self.published(lane));
        let own = Published::from_word(self.tenancy).tenancy;
        let waiting = published.position.wrapping_sub(self.read[lane as usize]);
        // A lane of another tenancy is empty, and so is one with an impossible position.
        let valid = published.tenancy == own && waiting.wrapping_sub(1) <= self.mask;
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

    /// Has the NIC wake the guest when something is published, by the queue's bell. Returns false, and
    /// has it do nothing, if there may be frames: then the guest receives once more first.
    ///
    /// A guest that is armed, and then woken or not, calls [`RxQueue::disarm`] before it receives.
    pub fn arm(&mut self) -> bool {
        if self.seen == UNSEEN {
            return false;
        }
        self.asleep().store(1, Ordering::Relaxed);
        let latest = self.long(self.geometry.latest_offset(0));
        // Release: the owner that sees the bit gone sees the word above. The NIC exchanges the word, so
        // what was published before is seen here, and what comes later sees the bit.
        let armed = latest.compare_exchange(
            self.seen,
            self.seen | ARMED,
            Ordering::AcqRel,
            Ordering::Relaxed,
        );
        if armed.is_err() {
            self.asleep().store(0, Ordering::Relaxed);
        }
        armed.is_ok()
    }

    /// Whether the queue is armed: nothing has been published since [`RxQueue::arm`] said so.
    pub fn is_armed(&self) -> bool {
        self.latest() & ARMED != 0
    }

    /// Ends what [`RxQueue::arm`] began.
    pub fn disarm(&mut self) {
        self.asleep().store(0, Ordering::Relaxed);
        if self.is_armed() {
            let latest = self.long(self.geometry.latest_offset(0));
            latest.fetch_and(!ARMED, Ordering::AcqRel);
        }
    }

    /// The word `asleep`, by which the owner of the NIC knows that somebody relies on being woken.
    fn asleep(&self) -> &AtomicU32 {
        let word = self.at(self.geometry.asleep_offset(0));
        // SAFETY: the word lies in the window, aligned.
        unsafe { AtomicU32::from_ptr(word.cast()) }
    }

    /// Takes at most `max` frames and gives them to `sink`. The frames of one sender come in the
    /// order in which they were sent; senders take turns.
    ///
    /// A queue in which nothing was published since it was found empty costs one look at one word,
    /// however many lanes it has; else the lanes that are in use are looked at.
    #[inline(always)]
    pub fn receive(&mut self, max: usize, mut sink: impl FnMut(Frame<'_>)) -> Received {
        let latest = self.latest();
        if latest == self.seen {
            return Received::default();
        }
        self.seen = latest;
        // Most queues have one sender, and the end of the lane is seldom between its records.
        let only = self.only;
        if latest >> 32 == u64::from(only.number) && self.used(0) == only.used && max != 0 {
            let published = self.published(only.number.into());
            let start = self.read[usize::from(only.number)];
            let beginning = self.tenancy | u64::from(start);
            // Both words differ in the bits of an offset alone where they are of one tenancy and the
            // lane's end does not lie between them.
            let differ = published.wrapping_sub(1) ^ beginning;
            if differ <= self.mask.into() && published > beginning {
                let (offset, waiting) = (start & self.mask, (published - beginning) as u32);
                let lane = u32::from(only.number);
                // SAFETY: the lane has so many bytes there, which its end does not cut.
                let stretch = unsafe { self.stretch(lane, only.ring, offset, waiting) };
                let (left, received) = stretch.take(max, &mut sink);
                self.pass(only.number.into(), (published as u32).wrapping_sub(left));
                if left != 0 {
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
        self.find_only();
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

    /// Finds the only lane that is in use, if there is one.
    fn find_only(&mut self) {
        let used = self.used(0);
        let lane = used.trailing_zeros();
        self.only.used = 0;
        if used.is_power_of_two() && self.geometry.lanes() <= 64 && lane < self.geometry.lanes() {
            self.only = OnlyLane {
                number: lane as u8,
                used,
                ring: self.ring(lane),
            };
        }
    }

    /// The first byte of a lane of the queue.
    fn ring(&self, lane: u32) -> *mut u8 {
        let offset = (lane as usize) << (self.geometry.lane_log() & 31);
        // SAFETY: the lanes of the queue follow each other in the window, and callers ask for one of
        // them.
        unsafe { self.rings.add(offset) }
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
        let start = self.read[lane as usize];
        let (mut offset, mut left) = (start & self.mask, waiting);
        // At most once around the lane's end.
        while left != 0 && received.frames < max {
            let size = left.min(self.mask + 1 - offset);
            // SAFETY: the lane has so many bytes there, which its end does not cut.
            let stretch = unsafe { self.stretch(lane, self.ring(lane), offset, size) };
            let (rest, more) = stretch.take(max - received.frames, sink);
            received.frames += more.frames;
            received.malformed += more.malformed;
            // Where the next record cannot be found, the rest of the lane is given up.
            left = if more.malformed != 0 {
                0
            } else {
                left - size + rest
            };
            offset = 0;
        }
        self.pass(lane, start.wrapping_add(waiting - left));
        left == 0
    }

    /// The records of `size` bytes at an offset of a lane with this first byte.
    ///
    /// # Safety
    ///
    /// `ring` is the lane's first byte, and the lane has the bytes.
    #[inline(always)]
    unsafe fn stretch(&self, lane: u32, ring: *mut u8, offset: u32, size: u32) -> Stretch<'_> {
        // SAFETY: the caller promises that the lane has the bytes.
        unsafe {
            Stretch {
                at: ring.add(offset as usize),
                left: size as usize,
                sender: self.at(self.geometry.sender_offset(0, lane)),
                _window: PhantomData,
            }
        }
    }

    /// Tells the NIC that a lane has been read up to a position.
    #[inline(always)]
    fn pass(&mut self, lane: u32, position: u32) {
        self.read[lane as usize] = position;
        let consumed = self.at(self.geometry.consumed_offset(0, lane));
        // SAFETY: the word lies in the window, aligned.
        let consumed = unsafe { AtomicU32::from_ptr(consumed.cast()) };
        consumed.store(position, Ordering::Release);
    }
}

/// Records that follow each other in a lane: `left` bytes from `at` on, a multiple of 16 bytes from the
/// lane's beginning. The 16 bytes in which they end lie in the lane, whatever the NIC says.
struct Stretch<'a> {
    at: *const u8,
    left: usize,
    /// The lane's element of `senders`.
    sender: *mut u8,
    _window: PhantomData<&'a Window>,
}

impl Stretch<'_> {
    /// Gives at most `max` frames, not 0, to `sink`. Returns the number of bytes that are left: less than
    /// 16 where a record is padding or cannot be.
    #[inline(always)]
    fn take(mut self, max: usize, sink: &mut impl FnMut(Frame<'_>)) -> (u32, Received) {
        let mut received = Received::default();
        loop {
            // SAFETY: something is left, so that the 16 bytes of a header lie in the lane.
            let header = unsafe {
                let word = self.at.cast_mut().cast::<u64>();
                let first = AtomicU64::from_ptr(word).load(Ordering::Relaxed);
                let second = AtomicU64::from_ptr(word.add(1)).load(Ordering::Relaxed);
                (first, second)
            };
            let length = header.0 as u32;
            let record = record_size(length) as usize;
            if length < MIN_FRAME || record > self.left {
                // Padding has no length.
                received.malformed = usize::from(header.1 >> 48 != u64::from(KIND_PAD));
                self.left &= RECORD_ALIGN as usize - 1;
                break;
            }
            // SAFETY: the record ends in the stretch, and is longer than its header.
            let bytes = unsafe { self.at.add(size_of::<RecordHeader>()) };
            // SAFETY: as above.
            self.at = unsafe { self.at.add(record) };
            self.left -= record;
            received.frames += 1;
            sink(Frame {
                bytes,
                header,
                sender: self.sender,
                _window: PhantomData,
            });
            if self.left == 0 || received.frames == max {
                break;
            }
        }
        (self.left as u32, received)
    }
}
