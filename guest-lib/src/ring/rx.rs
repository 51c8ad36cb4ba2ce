//! The guest's end of an RX queue.

use core::marker::PhantomData;
use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

use postern_abi::window::{
    Geometry, KIND_PAD, MAX_SENDERS, MIN_FRAME, Published, RECORD_ALIGN, RecordHeader, record_size,
};

use super::window::Window;

/// A frame in a lane, while [`RxQueue::receive`] shows it.
///
/// Its bytes are the guest's until the lane's consumer passes them. On the `direct` path another
/// guest can change them all the same, so they are only copied, never referred to.
#[derive(Debug)]
pub struct Frame<'a> {
    bytes: *const u8,
    header: RecordHeader,
    sender: u32,
    _window: PhantomData<&'a Window>,
}

impl Frame<'_> {
    /// Length of the frame in bytes, [`MIN_FRAME`] or more.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.header.length as usize
    }

    /// The record's header: all of it but the length is zero unless features were agreed on.
    pub fn header(&self) -> RecordHeader {
        self.header
    }

    /// Number in the whole NIC of the sender that sent the frame: the number of its port times the
    /// number of queues of a port, plus the number of the sending vCPU.
    pub fn sender(&self) -> u32 {
        self.sender
    }

    /// Copies the whole frame to `target`.
    ///
    /// # Panics
    ///
    /// `target` is not exactly as long as the frame.
    #[inline]
    pub fn copy_to(&self, target: &mut [u8]) {
        assert_eq!(target.len(), self.len(), "length of a frame's copy");
        // SAFETY: `drain` checked that the record has this many bytes in the window. They stay the
        // guest's until the lane's consumer passes them, which `drain` does after this borrow ends.
        // `target` is not in the window, to which no reference exists.
        unsafe { ptr::copy_nonoverlapping(self.bytes, target.as_mut_ptr(), self.len()) }
    }
}

/// The result of [`RxQueue::receive`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Number of frames that the caller got.
    pub frames: usize,
    /// Number of lanes that were emptied because they held no valid record.
    pub malformed: usize,
}

/// The guest's end of an RX queue: the consumer of a lane from each sender of the NIC.
#[derive(Debug)]
pub struct RxQueue {
    window: Window,
    queue: u32,
    /// Number of the sender whose turn is next.
    next: u32,
    /// Position of each lane below which all records have been read, by sender.
    consumed: [u32; MAX_SENDERS as usize],
}

impl RxQueue {
    /// The queue of that number, from where the previous tenant of the port stopped.
    ///
    /// # Panics
    ///
    /// The NIC has no such queue.
    pub fn new(window: Window, queue: u32) -> RxQueue {
        let geometry = window.geometry;
        assert!(queue < geometry.queues(), "there is no queue {queue}");
        let mut consumed = [0; MAX_SENDERS as usize];
        for (sender, position) in (0..geometry.senders()).zip(&mut consumed) {
            let word = window.word(geometry.consumed_offset(queue, sender));
            *position = word.load(Ordering::Relaxed) & !(RECORD_ALIGN - 1);
        }
        RxQueue {
            window,
            queue,
            next: 0,
            consumed,
        }
    }

    /// Bytes that wait in a sender's lane.
    #[inline]
    fn waiting(&self, sender: u32) -> u32 {
        let geometry = self.window.geometry;
        let word = geometry.published_offset(self.queue, sender);
        // Acquire: the records below the position are read next.
        let word = self.window.long(word).load(Ordering::Acquire);
        let published = Published::from_word(word);
        if published.tenancy != self.window.tenancy {
            return 0;
        }
        let consumed = self.consumed[sender as usize];
        let waiting = Geometry::filled(geometry.lane(), published.position, consumed);
        waiting.unwrap_or(0) & !(RECORD_ALIGN - 1)
    }

    /// Whether a lane has a record that was not read.
    #[inline]
    pub fn ready(&self) -> bool {
        (0..self.window.geometry.senders()).any(|sender| self.waiting(sender) != 0)
    }

    /// Takes at most `max` frames and gives them to `sink`. The frames of one sender come in the
    /// order in which they were sent; senders take turns.
    #[inline]
    pub fn receive(&mut self, max: usize, mut sink: impl FnMut(Frame<'_>)) -> Received {
        let senders = self.window.geometry.senders();
        let mut received = Received::default();
        for _ in 0..senders {
            if received.frames == max {
                break;
            }
            let sender = self.next;
            self.next = if sender + 1 < senders { sender + 1 } else { 0 };
            let waiting = self.waiting(sender);
            if waiting != 0 {
                self.drain(sender, waiting, max, &mut received, &mut sink);
            }
        }
        received
    }

    /// Takes frames from a sender's lane of `waiting` bytes, until `received` has `max`.
    fn drain(
        &mut self,
        sender: u32,
        waiting: u32,
        max: usize,
        received: &mut Received,
        sink: &mut impl FnMut(Frame<'_>),
    ) {
        let geometry = self.window.geometry;
        let size = geometry.lane();
        let lane = self.window.at(geometry.lane_offset(self.queue, sender));
        let mut position = self.consumed[sender as usize];
        let mut left = waiting;
        while left != 0 && received.frames < max {
            let offset = position & (size - 1);
            let stretch = (size - offset).min(left);
            // SAFETY: `offset` is below the lane's size, and a multiple of 16 like all positions,
            // so the 16 bytes of a header lie in the lane.
            let (at, header) = unsafe {
                let at = lane.add(offset as usize);
                let first = AtomicU64::from_ptr(at.cast()).load(Ordering::Relaxed);
                let second = AtomicU64::from_ptr(at.add(8).cast()).load(Ordering::Relaxed);
                (at, RecordHeader::from_words(first, second))
            };
            let record = if header.kind == KIND_PAD {
                stretch
            } else if header.length < MIN_FRAME || record_size(header.length) > stretch.into() {
                // The next record cannot be found: the rest of the lane is given up.
                received.malformed += 1;
                left
            } else {
                received.frames += 1;
                sink(Frame {
                    // SAFETY: the record was found to end in the lane, and it is longer than its
                    // header.
                    bytes: unsafe { at.add(size_of::<RecordHeader>()) },
                    header,
                    sender,
                    _window: PhantomData,
                });
                record_size(header.length) as u32
            };
            position = position.wrapping_add(record);
            left -= record;
        }
        self.consumed[sender as usize] = position;
        let consumed = geometry.consumed_offset(self.queue, sender);
        let consumed = self.window.word(consumed);
        consumed.store(position, Ordering::Release);
    }
}
