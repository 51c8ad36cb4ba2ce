//! The guest's ends of the rings in its window: producer of TX rings, consumer of lanes.
//!
//! The layout, the meaning of positions and the orderings are those of [`postern_abi::window`]. The
//! host's side of a position is checked against the guest's own; the guest's own is never read back
//! from the window.

use core::arch::asm;
use core::marker::PhantomData;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use postern_abi::PAGE_SIZE;
use postern_abi::window::{
    Geometry, HeaderError, KIND_PAD, MAX_CONTEXTS, MIN_FRAME, PAD_WORD, PortId, Published,
    RECORD_ALIGN, RecordHeader, WindowHeader, record_size,
};

/// A window that is mapped in this address space.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    base: NonNull<u8>,
    geometry: Geometry,
    port: PortId,
    tenancy: u32,
    mac: [u8; 6],
}

// SAFETY: the mapping belongs to no thread, and `Window` alone gives out atomics and raw pointers.
unsafe impl Send for Window {}

impl Window {
    /// Reads and checks the header of the window at `base`.
    ///
    /// # Errors
    ///
    /// What is wrong with the header; the window is then not used.
    ///
    /// # Safety
    ///
    /// `base` is page aligned, `size` bytes are mapped there for reading and writing as long as the
    /// value or anything made from it is used, at least a page, and no reference to them exists.
    pub unsafe fn new(base: NonNull<u8>, size: u64) -> Result<Window, HeaderError> {
        // SAFETY: a page is mapped at `base`, and it is aligned; any bytes are a valid header.
        let header = unsafe { base.cast::<WindowHeader>().read_volatile() };
        let (geometry, port) = header.check(size)?;
        Ok(Window {
            base,
            geometry,
            port,
            tenancy: header.tenancy,
            mac: header.mac,
        })
    }

    /// Ports, queues and sizes of the NIC.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The port that the window belongs to.
    pub fn port(&self) -> PortId {
        self.port
    }

    /// The port's MAC address.
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// Has the host give memory for the whole window now, not while frames move.
    pub fn populate(&self) {
        // SAFETY: `new` checked that the whole window of this geometry is mapped.
        unsafe { touch(self.base, self.geometry.window_size()) };
    }

    /// The byte at an offset that the geometry gave, or inside of what begins there.
    fn at(&self, offset: u64) -> *mut u8 {
        // SAFETY: `new` checked that the whole window of this geometry is mapped.
        unsafe { self.base.as_ptr().add(offset as usize) }
    }

    /// The word at an offset that the geometry gave.
    fn word(&self, offset: u64) -> &AtomicU32 {
        // SAFETY: the geometry's offsets of words lie in the window and are aligned.
        unsafe { AtomicU32::from_ptr(self.at(offset).cast()) }
    }

    /// The word of 8 bytes at an offset that the geometry gave.
    fn long(&self, offset: u64) -> &AtomicU64 {
        // SAFETY: as in `word`.
        unsafe { AtomicU64::from_ptr(self.at(offset).cast()) }
    }
}

/// Touches each page as if to write it, and changes nothing.
///
/// # Safety
///
/// `size` bytes are mapped from `base`, which is page aligned, for reading and writing.
pub unsafe fn touch(base: NonNull<u8>, size: u64) {
    for offset in (0..size).step_by(PAGE_SIZE as usize) {
        // SAFETY: the offset is below the size, and the instruction changes nothing. (The compiler
        // would make a load of an atomic operation that changes nothing.)
        unsafe {
            let word = base.add(offset as usize).as_ptr();
            asm!("lock or dword ptr [{0}], 0", in(reg) word, options(nostack));
        }
    }
}

/// Why a frame was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// No ring takes a frame of so many bytes: it has less than [`MIN_FRAME`] or more than
    /// [`Geometry::max_frame`], or [`Geometry::max_segment`] for a large segment.
    BadLength(usize),
    /// The ring has no room now.
    Full,
}

/// The sending end of a TX queue's ring.
#[derive(Debug)]
pub struct Sender {
    window: Window,
    queue: u32,
    ring: *mut u8,
    /// Position of the next record; what the window says may lag behind until [`Sender::commit`].
    producer: u32,
    /// Position up to which the NIC has taken records, as last read.
    consumer: u32,
}

// SAFETY: as for `Window`.
unsafe impl Send for Sender {}

impl Sender {
    /// Goes on where the previous tenant of the port stopped.
    ///
    /// # Panics
    ///
    /// The NIC has no such queue.
    pub fn new(window: Window, queue: u32) -> Sender {
        let geometry = window.geometry;
        assert!(queue < geometry.queues(), "there is no queue {queue}");
        let consumer = geometry.tx_consumer_offset(queue);
        let producer = window.word(consumer).load(Ordering::Acquire) & !(RECORD_ALIGN - 1);
        let mut sender = Sender {
            window,
            queue,
            ring: window.at(geometry.tx_ring_offset(queue)),
            producer,
            consumer: producer,
        };
        sender.commit();
        sender
    }

    /// Number of the queue.
    pub fn queue(&self) -> u32 {
        self.queue
    }

    /// Bytes of the ring that the NIC has not taken.
    fn filled(&mut self) -> u32 {
        let geometry = self.window.geometry;
        let consumer = self.window.word(geometry.tx_consumer_offset(self.queue));
        // Acquire: the bytes that this frees are written next.
        let consumer = consumer.load(Ordering::Acquire);
        match Geometry::filled(geometry.ring(), self.producer, consumer) {
            Some(filled) => {
                self.consumer = consumer;
                filled
            }
            // A position that cannot be leaves no room, so nothing is overwritten.
            None => geometry.ring(),
        }
    }

    /// Whether the NIC has taken all that was committed.
    pub fn is_empty(&mut self) -> bool {
        self.filled() == 0
    }

    /// Position up to which the NIC has taken records.
    pub fn taken(&mut self) -> u32 {
        self.filled();
        self.consumer
    }

    /// Frames in the ring that the NIC has not taken.
    pub fn pending(&mut self) -> u32 {
        let size = self.window.geometry.ring();
        let mut left = self.filled();
        let mut position = self.producer.wrapping_sub(left);
        let mut frames = 0;
        while left != 0 {
            let offset = position & (size - 1) & !(RECORD_ALIGN - 1);
            // SAFETY: the offset is below the ring's size, and aligned.
            let header = unsafe { self.header(offset) };
            let record = if header.kind == KIND_PAD {
                size - offset
            } else {
                frames += 1;
                // What another program did to the ring is not to lead out of it.
                record_size(header.length).min(left.into()) as u32
            };
            position = position.wrapping_add(record);
            left = left.saturating_sub(record);
        }
        frames
    }

    /// # Safety
    /// The offset is a multiple of 16 below the ring's size.
    unsafe fn header(&self, offset: u32) -> RecordHeader {
        // SAFETY: the caller's promise.
        unsafe {
            let at = self.ring.add(offset as usize);
            let first = AtomicU64::from_ptr(at.cast()).load(Ordering::Relaxed);
            let second = AtomicU64::from_ptr(at.add(8).cast()).load(Ordering::Relaxed);
            RecordHeader::from_words(first, second)
        }
    }

    /// # Safety
    /// The offset is a multiple of 16 below the ring's size.
    unsafe fn set_header(&self, offset: u32, (first, second): (u64, u64)) {
        // SAFETY: the caller's promise.
        unsafe {
            let at = self.ring.add(offset as usize);
            AtomicU64::from_ptr(at.cast()).store(first, Ordering::Relaxed);
            AtomicU64::from_ptr(at.add(8).cast()).store(second, Ordering::Relaxed);
        }
    }

    /// Writes an ordinary frame; [`Sender::commit`] gives it to the NIC.
    ///
    /// # Errors
    ///
    /// The frame's length, or that there is no room now; then nothing was written.
    #[inline]
    pub fn write(&mut self, frame: &[u8]) -> Result<(), SendError> {
        self.write_with(RecordHeader::default(), frame)
    }

    /// Writes a frame whose header says more than its length, which is filled in.
    ///
    /// # Errors
    ///
    /// As [`Sender::write`].
    #[inline]
    pub fn write_with(&mut self, header: RecordHeader, frame: &[u8]) -> Result<(), SendError> {
        let geometry = self.window.geometry;
        let longest = match header.gso_type {
            0 => geometry.max_frame(),
            _ => geometry.max_segment(),
        };
        let length = u32::try_from(frame.len())
            .ok()
            .filter(|length| (MIN_FRAME..=longest).contains(length))
            .ok_or(SendError::BadLength(frame.len()))?;
        let offset = self.reserve(record_size(length) as u32)?;
        let header = RecordHeader { length, ..header };
        // SAFETY: so many bytes of the window's ring follow from there, which no reference covers. If they
        // are not the guest's, the NIC sends a mixture of two frames; nothing else.
        unsafe {
            self.set_header(offset, header.words());
            let to = self.ring.add(offset as usize + size_of::<RecordHeader>());
            ptr::copy_nonoverlapping(frame.as_ptr(), to, frame.len());
        }
        self.producer = self.producer.wrapping_add(record_size(length) as u32);
        Ok(())
    }

    /// The offset of a record of that many bytes, behind padding where needed.
    #[inline]
    fn reserve(&mut self, record: u32) -> Result<u32, SendError> {
        let size = self.window.geometry.ring();
        let mut free = size - self.producer.wrapping_sub(self.consumer).min(size);
        let offset = self.producer & (size - 1);
        let to_end = size - offset;
        let needed = if record <= to_end {
            record
        } else {
            to_end + record
        };
        if needed > free {
            free = size - self.filled();
        }
        if needed <= free && record <= to_end {
            return Ok(offset);
        }
        if record <= to_end || to_end > free {
            return Err(SendError::Full);
        }
        // SAFETY: an aligned offset below the size, for positions are multiples of 16.
        unsafe { self.set_header(offset, (0, PAD_WORD)) };
        self.producer = self.producer.wrapping_add(to_end);
        if record > free - to_end {
            return Err(SendError::Full);
        }
        Ok(0)
    }

    /// Gives what was written to the NIC, which sees it at its next request.
    pub fn commit(&mut self) {
        let producer = self.window.geometry.tx_producer_offset(self.queue);
        let producer = self.window.word(producer);
        producer.store(self.producer, Ordering::Release);
    }
}

/// A frame in a lane.
///
/// On the `direct` path another guest can change it: its bytes are only copied, never referred to.
#[derive(Debug)]
pub struct Frame<'a> {
    bytes: *const u8,
    header: RecordHeader,
    context: u32,
    _window: PhantomData<&'a Window>,
}

impl Frame<'_> {
    /// Bytes of the frame, [`MIN_FRAME`] or more.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.header.length as usize
    }

    /// What the NIC says about it: all but the length is zero unless features were agreed on.
    pub fn header(&self) -> RecordHeader {
        self.header
    }

    /// Number in the whole NIC of the context that sent it: its port's number times the queues of a port, plus
    /// that of the sending vCPU.
    pub fn context(&self) -> u32 {
        self.context
    }

    /// Copies the whole frame.
    ///
    /// # Panics
    ///
    /// `target` is not exactly as long as the frame.
    #[inline]
    pub fn copy_to(&self, target: &mut [u8]) {
        assert_eq!(target.len(), self.len(), "length of a frame's copy");
        // SAFETY: the record holds so many bytes of the window until the lane's consumer passes it,
        // which a borrow of the queue rules out; `target` is not in the window.
        unsafe { ptr::copy_nonoverlapping(self.bytes, target.as_mut_ptr(), self.len()) }
    }
}

/// How many frames a [`Receiver::receive`] took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Frames that the caller got.
    pub frames: usize,
    /// Lanes that were emptied because they did not hold what they should.
    pub malformed: usize,
}

/// The receiving end of an RX queue: a lane from each context.
#[derive(Debug)]
pub struct Receiver {
    window: Window,
    queue: u32,
    /// The context whose turn is next.
    next: u32,
    consumed: [u32; MAX_CONTEXTS as usize],
}

impl Receiver {
    /// The lanes, from where the previous tenant of this port stopped.
    ///
    /// # Panics
    ///
    /// The NIC has no such queue.
    pub fn new(window: Window, queue: u32) -> Receiver {
        let geometry = window.geometry;
        assert!(queue < geometry.queues(), "there is no queue {queue}");
        let mut consumed = [0; MAX_CONTEXTS as usize];
        for (context, position) in (0..geometry.contexts()).zip(&mut consumed) {
            let word = window.word(geometry.consumed_offset(queue, context));
            *position = word.load(Ordering::Relaxed) & !(RECORD_ALIGN - 1);
        }
        Receiver {
            window,
            queue,
            next: 0,
            consumed,
        }
    }

    /// Bytes that wait in a lane.
    #[inline]
    fn waiting(&self, context: u32) -> u32 {
        let geometry = self.window.geometry;
        let word = geometry.published_offset(self.queue, context);
        // Acquire: the records below the position are read next.
        let word = self.window.long(word).load(Ordering::Acquire);
        let published = Published::from_word(word);
        if published.tenancy != self.window.tenancy {
            return 0;
        }
        let consumed = self.consumed[context as usize];
        let waiting = Geometry::filled(geometry.lane(), published.position, consumed);
        waiting.unwrap_or(0) & !(RECORD_ALIGN - 1)
    }

    /// Whether anything waits.
    #[inline]
    pub fn ready(&self) -> bool {
        (0..self.window.geometry.contexts()).any(|context| self.waiting(context) != 0)
    }

    /// Takes at most `max` frames and gives them to `sink`: those of one sender in the order they were sent,
    /// while senders take turns.
    #[inline]
    pub fn receive(&mut self, max: usize, mut sink: impl FnMut(Frame<'_>)) -> Received {
        let contexts = self.window.geometry.contexts();
        let mut received = Received::default();
        for _ in 0..contexts {
            if received.frames == max {
                break;
            }
            let context = self.next;
            self.next = if context + 1 < contexts {
                context + 1
            } else {
                0
            };
            let waiting = self.waiting(context);
            if waiting != 0 {
                self.drain(context, waiting, max, &mut received, &mut sink);
            }
        }
        received
    }

    fn drain(
        &mut self,
        context: u32,
        waiting: u32,
        max: usize,
        received: &mut Received,
        sink: &mut impl FnMut(Frame<'_>),
    ) {
        let geometry = self.window.geometry;
        let size = geometry.lane();
        let lane = self.window.at(geometry.lane_offset(self.queue, context));
        let mut position = self.consumed[context as usize];
        let mut left = waiting;
        while left != 0 && received.frames < max {
            let offset = position & (size - 1);
            let stretch = (size - offset).min(left);
            // SAFETY: an aligned offset below the lane's size, with 16 bytes or more behind it.
            let (at, header) = unsafe {
                let at = lane.add(offset as usize);
                let first = AtomicU64::from_ptr(at.cast()).load(Ordering::Relaxed);
                let second = AtomicU64::from_ptr(at.add(8).cast()).load(Ordering::Relaxed);
                (at, RecordHeader::from_words(first, second))
            };
            let record = if header.kind == KIND_PAD {
                stretch
            } else if header.length < MIN_FRAME || record_size(header.length) > stretch.into() {
                // Nothing behind it can be told apart.
                received.malformed += 1;
                left
            } else {
                received.frames += 1;
                sink(Frame {
                    // SAFETY: the record lies in the lane.
                    bytes: unsafe { at.add(size_of::<RecordHeader>()) },
                    header,
                    context,
                    _window: PhantomData,
                });
                record_size(header.length) as u32
            };
            position = position.wrapping_add(record);
            left -= record;
        }
        self.consumed[context as usize] = position;
        let consumed = geometry.consumed_offset(self.queue, context);
        let consumed = self.window.word(consumed);
        consumed.store(position, Ordering::Release);
    }
}
