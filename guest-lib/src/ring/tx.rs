//! The guest's end of a TX ring.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use postern_abi::window::{
    BELL_WORDS, Geometry, KIND_PAD, LINE_SIZE, MIN_FRAME, PAD_WORD, RECORD_ALIGN, RecordHeader,
    record_size,
};

use super::copy::copy;
use super::window::Window;

/// A frame that [`TxQueue::write`] refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxError {
    /// The frame has this many bytes: less than [`MIN_FRAME`], or more than [`Geometry::max_frame`]
    /// ([`Geometry::max_segment`] for a large segment).
    BadLength(usize),
    /// The ring has no room now.
    Full,
}

/// Room for a frame in a TX queue's ring ([`TxQueue::reserve`]): for who gets frames by a system call or
/// from a device, which then need not be copied once more. Dropped, it costs nothing.
#[derive(Debug)]
pub struct Reserved<'a> {
    tx: &'a mut TxQueue,
    at: *mut u8,
    longest: usize,
}

impl Reserved<'_> {
    /// The frame's first byte. [`Reserved::len`] bytes may be written from there while the value lives, by
    /// raw pointers and by the kernel: other programs may have the memory, too, so no reference may
    /// be made of it.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.at
    }

    /// Number of bytes that there is room for, [`MIN_FRAME`] or more.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.longest
    }

    /// Makes a frame of what was written, `header.length` bytes; [`TxQueue::commit`] gives it to the NIC.
    ///
    /// # Errors
    ///
    /// [`TxError::BadLength`] if that is less than [`MIN_FRAME`], more than the room, or more than an
    /// ordinary frame may have and the header does not say that it is a large segment. There is no frame
    /// then.
    pub fn write(self, header: RecordHeader) -> Result<(), TxError> {
        let tx = self.tx;
        let length = header.length as usize;
        let longest = tx.longest[usize::from(header.gso_type != 0)] as usize;
        if length < MIN_FRAME as usize || length > longest.min(self.longest) {
            return Err(TxError::BadLength(length));
        }
        // SAFETY: `reserve` found a record's room at the producer position, which is a multiple of 16, and
        // this record is no longer.
        unsafe {
            let at = tx.ring.add((tx.producer & tx.mask) as usize);
            TxQueue::set_header(at, header.words());
        }
        let record = record_size(header.length) as u32;
        tx.producer = tx.producer.wrapping_add(record);
        tx.room -= record;
        Ok(())
    }
}

/// The guest's end of a TX queue's ring: its producer.
///
/// [`TxQueue::write`] copies a frame into the ring, [`TxQueue::commit`] gives it to the NIC, which
/// takes it at the guest's next request.
#[derive(Debug)]
pub struct TxQueue {
    ring: *mut u8,
    /// The line of the producer position, which that of the consumer position follows.
    lines: *mut u8,
    /// Size of the ring in bytes, less one.
    mask: u32,
    /// Position of the next record; what the window says may lag behind until [`TxQueue::commit`].
    producer: u32,
    /// Number of bytes that are free behind the producer position, without another look at the
    /// consumer position, up to the ring's end.
    room: u32,
    /// Length of the longest frame, less that of the shortest.
    span: usize,
    /// Length of the longest frame, and of the longest large segment.
    longest: [u32; 2],
    queue: u32,
}

// SAFETY: the pointers lead into the window, whose mapping belongs to no thread and is accessed by
// atomics and raw pointers alone; the other fields are plain values.
unsafe impl Send for TxQueue {}

impl TxQueue {
    /// The queue of that number, from where the previous tenant of the port stopped.
    ///
    /// # Panics
    ///
    /// The NIC has no such queue.
    pub fn new(window: Window, queue: u32) -> TxQueue {
        let geometry = window.geometry;
        assert!(queue < geometry.queues(), "there is no queue {queue}");
        let consumer = geometry.tx_consumer_offset(queue);
        let producer = window.word(consumer).load(Ordering::Acquire) & !(RECORD_ALIGN - 1);
        let tx = TxQueue {
            ring: window.at(geometry.tx_ring_offset(queue)),
            lines: window.at(geometry.tx_producer_offset(queue)),
            mask: geometry.ring() - 1,
            producer,
            room: geometry.ring() - (producer & (geometry.ring() - 1)),
            span: (geometry.max_frame() - MIN_FRAME) as usize,
            longest: [geometry.max_frame(), geometry.max_segment()],
            queue,
        };
        tx.commit();
        tx
    }

    /// Number of the queue in its port.
    pub fn queue(&self) -> u32 {
        self.queue
    }

    /// The consumer position, which the NIC writes.
    #[inline(always)]
    pub(crate) fn consumer(&self) -> u32 {
        // SAFETY: the consumer position is a word at the beginning of the line behind that of the
        // producer position.
        let consumer = unsafe { AtomicU32::from_ptr(self.lines.add(LINE_SIZE as usize).cast()) };
        // Acquire: the bytes that this frees are written next.
        consumer.load(Ordering::Acquire)
    }

    /// Bytes of the ring that the NIC has not taken.
    fn filled(&self) -> u32 {
        let size = self.mask + 1;
        // An impossible position is taken for a full ring, so nothing is overwritten.
        Geometry::filled(size, self.producer, self.consumer()).unwrap_or(size)
    }

    /// Takes the next of the bells that the NIC has noted for this queue: the number of an RX queue in
    /// the whole NIC.
    #[cold]
    pub fn take_bell(&self) -> Option<u32> {
        // SAFETY: the words are the second half of the line of the consumer position, which lies in the
        // window, and are aligned.
        let bells = |index| unsafe {
            let first = self.lines.add((LINE_SIZE + LINE_SIZE / 2) as usize);
            AtomicU64::from_ptr(first.cast::<u64>().add(index).cast())
        };
        (0..BELL_WORDS).find_map(|index| {
            let noted = bells(index).load(Ordering::Acquire);
            let bit = noted & noted.wrapping_neg();
            (bit != 0).then(|| {
                bells(index).fetch_and(!bit, Ordering::AcqRel);
                index as u32 * 64 + bit.trailing_zeros()
            })
        })
    }

    /// Whether the NIC has taken all that was committed.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.consumer() == self.producer
    }

    /// Position up to which the NIC has taken records.
    pub fn taken(&self) -> u32 {
        self.producer.wrapping_sub(self.filled())
    }

    /// Number of frames in the ring that the NIC has not taken.
    pub fn pending(&self) -> u32 {
        let mut left = self.filled();
        let mut position = self.producer.wrapping_sub(left);
        let mut frames = 0;
        while left != 0 {
            let offset = position & self.mask & !(RECORD_ALIGN - 1);
            // SAFETY: `offset` is masked to a multiple of 16 below the ring's size, so both words lie
            // in the ring.
            let header = unsafe {
                let at = self.ring.add(offset as usize);
                let first = AtomicU64::from_ptr(at.cast()).load(Ordering::Relaxed);
                let second = AtomicU64::from_ptr(at.add(8).cast()).load(Ordering::Relaxed);
                RecordHeader::from_words(first, second)
            };
            let record = if header.kind == KIND_PAD {
                self.mask + 1 - offset
            } else {
                frames += 1;
                // Whatever another program wrote into the ring, the walk stays inside of it.
                record_size(header.length).min(left.into()) as u32
            };
            position = position.wrapping_add(record);
            left = left.saturating_sub(record);
        }
        frames
    }

    /// Writes the header of a record.
    ///
    /// # Safety
    ///
    /// `at` is the address of an offset in the ring that is a multiple of 16.
    #[inline(always)]
    unsafe fn set_header(at: *mut u8, (first, second): (u64, u64)) {
        // SAFETY: the caller promised an aligned offset in the ring, so both words lie in the
        // window, which `Window::new` was promised is mapped.
        unsafe {
            AtomicU64::from_ptr(at.cast()).store(first, Ordering::Relaxed);
            AtomicU64::from_ptr(at.add(8).cast()).store(second, Ordering::Relaxed);
        }
    }

    /// Writes a record: its header, and the frame. If another program writes these bytes at the same
    /// time, the NIC sends a mixture of two frames, and nothing worse happens.
    ///
    /// # Safety
    ///
    /// `at` is the address of an offset in the ring that is a multiple of 16, from which the whole
    /// record lies in the ring. No reference covers it.
    #[inline(always)]
    unsafe fn set_record(at: *mut u8, header: (u64, u64), frame: &[u8]) {
        // SAFETY: the caller promises room for header and frame.
        unsafe {
            TxQueue::set_header(at, header);
            let to = at.add(size_of::<RecordHeader>());
            copy(frame.as_ptr(), to, frame.len());
        }
    }

    /// Writes an ordinary frame; [`TxQueue::commit`] gives it to the NIC.
    ///
    /// # Errors
    ///
    /// [`TxError::BadLength`] for a frame that no ring takes, [`TxError::Full`] while there is no
    /// room for it. No frame was written then.
    #[inline(always)]
    pub fn write(&mut self, frame: &[u8]) -> Result<(), TxError> {
        self.write_record(RecordHeader::plain(0), frame, self.longest[0])
    }

    /// Writes a frame with a header of the caller's; the header's length is filled in.
    ///
    /// # Errors
    ///
    /// The errors of [`TxQueue::write`].
    #[inline]
    pub fn write_with(&mut self, header: RecordHeader, frame: &[u8]) -> Result<(), TxError> {
        let longest = self.longest[usize::from(header.gso_type != 0)];
        self.write_record(header, frame, longest)
    }

    #[inline(always)]
    fn write_record(
        &mut self,
        header: RecordHeader,
        frame: &[u8],
        longest: u32,
    ) -> Result<(), TxError> {
        let over = frame.len().wrapping_sub(MIN_FRAME as usize);
        if over > (longest - MIN_FRAME) as usize {
            return Err(TxError::BadLength(frame.len()));
        }
        let length = frame.len() as u32;
        let record = record_size(length) as u32;
        if record > self.room && !self.make_room(record) {
            return Err(TxError::Full);
        }
        let header = RecordHeader { length, ..header };
        // SAFETY: the whole record lies in the ring, behind the producer position, which is a
        // multiple of 16.
        unsafe {
            let at = self.ring.add((self.producer & self.mask) as usize);
            TxQueue::set_record(at, header.words(), frame);
        }
        self.producer = self.producer.wrapping_add(record);
        self.room -= record;
        Ok(())
    }

    /// Room in the ring for one frame of at most `longest` bytes, which the caller writes there itself;
    /// nothing while there is none. [`Reserved::write`] makes a frame of it.
    ///
    /// # Errors
    ///
    /// [`TxError::BadLength`] if no ring takes so long a segment, [`TxError::Full`].
    pub fn reserve(&mut self, longest: usize) -> Result<Reserved<'_>, TxError> {
        let most = self.longest[1] as usize;
        if longest.wrapping_sub(MIN_FRAME as usize) > most - MIN_FRAME as usize {
            return Err(TxError::BadLength(longest));
        }
        let record = record_size(longest as u32) as u32;
        if record > self.room && !self.make_room(record) {
            return Err(TxError::Full);
        }
        // SAFETY: the record has room behind the producer position, and its header is the first part.
        let at = unsafe {
            let record = self.ring.add((self.producer & self.mask) as usize);
            record.add(size_of::<RecordHeader>())
        };
        Ok(Reserved {
            tx: self,
            at,
            longest,
        })
    }

    /// Writes ordinary frames in order, as many as there is room for. Returns the number of those
    /// that it took from the slice, and of those among them that no ring takes.
    #[inline(always)]
    pub fn write_all<F: AsRef<[u8]>>(&mut self, frames: &[F]) -> (usize, usize) {
        // In registers, in which the copies would not leave them otherwise.
        let (mut producer, mut room) = (self.producer, self.room);
        let (mut taken, mut bad) = (0, 0);
        while let Some(frame) = frames.get(taken) {
            let frame = frame.as_ref();
            if frame.len().wrapping_sub(MIN_FRAME as usize) > self.span {
                bad += 1;
            } else {
                let record = record_size(frame.len() as u32) as u32;
                if record > room {
                    (self.producer, self.room) = (producer, room);
                    let made = self.make_room(record);
                    (producer, room) = (self.producer, self.room);
                    if !made {
                        break;
                    }
                }
                // SAFETY: as in `write_record`.
                unsafe {
                    let at = self.ring.add((producer & self.mask) as usize);
                    TxQueue::set_record(at, (frame.len() as u64, 0), frame);
                }
                producer = producer.wrapping_add(record);
                room -= record;
            }
            taken += 1;
        }
        (self.producer, self.room) = (producer, room);
        (taken, bad)
    }

    /// Looks at the consumer position, and finds room for a record of `record` bytes: at the
    /// producer position, or at the beginning of the ring, to which padding leads then. Returns
    /// whether there is.
    #[cold]
    #[inline(never)]
    fn make_room(&mut self, record: u32) -> bool {
        let free = self.mask + 1 - self.filled();
        let offset = self.producer & self.mask;
        let to_end = self.mask + 1 - offset;
        self.room = free.min(to_end);
        if record > to_end && to_end <= free {
            // SAFETY: `offset` is a position modulo the size: below the size, and a multiple of 16
            // since positions are.
            unsafe { TxQueue::set_header(self.ring.add(offset as usize), (0, PAD_WORD)) };
            self.producer = self.producer.wrapping_add(to_end);
            self.room = free - to_end;
        }
        record <= self.room
    }

    /// Gives the frames that were written to the NIC, which takes them at the guest's next request.
    #[inline(always)]
    pub fn commit(&self) {
        // SAFETY: the producer position is a word at the beginning of its line.
        let producer = unsafe { AtomicU32::from_ptr(self.lines.cast()) };
        producer.store(self.producer, Ordering::Release);
    }
}
