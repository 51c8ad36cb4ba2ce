//! The guest's ends of the rings in its window: producer of the TX ring, consumer of the lanes.
//!
//! The layout, the meaning of indices and the orderings are those of [`postern_abi::window`]. The
//! host's side of an index is checked against the guest's own; the guest's own is never read back
//! from the window.

use core::arch::asm;
use core::marker::PhantomData;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU32, Ordering};

use postern_abi::PAGE_SIZE;
use postern_abi::window::{
    DESCRIPTOR_RESERVED, Geometry, HeaderError, MAX_FRAME, MIN_FRAME, PortId, Ring, WindowHeader,
};

/// A window that is mapped in this address space.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    base: NonNull<u8>,
    geometry: Geometry,
    port: PortId,
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
            mac: header.mac,
        })
    }

    /// Ports and slots of the NIC.
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

    /// The word at an offset that the geometry gave.
    fn word(&self, offset: u64) -> &AtomicU32 {
        // SAFETY: `new` checked that the whole window of this geometry is mapped; the geometry's
        // offsets of words lie in it and are aligned.
        unsafe { AtomicU32::from_ptr(self.base.as_ptr().add(offset as usize).cast()) }
    }

    /// The buffer that an index names, `BUFFER_SIZE` bytes.
    fn buffer(&self, ring: Ring, index: u32) -> *mut u8 {
        let offset = self.geometry.buffer_offset(ring, index);
        // SAFETY: as in `word`.
        unsafe { self.base.as_ptr().add(offset as usize) }
    }
}

/// Touches each page as if to write it, and changes nothing.
///
/// # Safety
///
/// `size` bytes are mapped from `base`, which is page aligned, for reading and writing.
pub(crate) unsafe fn touch(base: NonNull<u8>, size: u64) {
    for offset in (0..size).step_by(PAGE_SIZE as usize) {
        // SAFETY: the offset is below the size, and the instruction changes nothing. (The compiler
        // would make a load of an atomic operation that changes nothing.)
        unsafe {
            let word = base.add(offset as usize).as_ptr();
            asm!("lock or dword ptr [{0}], 0", in(reg) word, options(nostack));
        }
    }
}

/// A frame that no ring takes: shorter than [`MIN_FRAME`] or longer than [`MAX_FRAME`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadLength(pub usize);

/// The sending end of a window's TX ring.
#[derive(Debug)]
pub struct Sender {
    window: Window,
    /// Index of the next frame; what the window says may lag behind until [`Sender::publish`].
    producer: u32,
}

impl Sender {
    /// Goes on where the previous tenant of the port stopped.
    pub fn new(window: Window) -> Sender {
        let consumer = window.geometry.consumer_offset(Ring::TX);
        let producer = window.word(consumer).load(Ordering::Acquire);
        let sender = Sender { window, producer };
        sender.publish();
        sender
    }

    /// Frames in the ring that the NIC has not taken.
    pub fn pending(&self) -> u32 {
        let geometry = self.window.geometry;
        let consumer = self.window.word(geometry.consumer_offset(Ring::TX));
        // Acquire: the slots that this frees are written next.
        let consumer = consumer.load(Ordering::Acquire);
        // An index that cannot be leaves no room, so nothing is overwritten.
        geometry
            .filled(self.producer, consumer)
            .unwrap_or(geometry.slots())
    }

    /// Frames that the ring has room for.
    pub fn room(&self) -> u32 {
        self.window.geometry.slots() - self.pending()
    }

    /// Writes a frame into the slot `ahead` places after the last one that was committed.
    ///
    /// # Errors
    ///
    /// The frame's length, if no ring takes it.
    ///
    /// # Panics
    ///
    /// There is no such slot in the ring. Less than [`Sender::room`] is never too far.
    #[inline]
    pub fn write(&mut self, ahead: u32, frame: &[u8]) -> Result<(), BadLength> {
        let geometry = self.window.geometry;
        assert!(ahead < geometry.slots(), "slot {ahead} ahead of the ring");
        let len = u32::try_from(frame.len())
            .ok()
            .filter(|len| (MIN_FRAME..=MAX_FRAME).contains(len))
            .ok_or(BadLength(frame.len()))?;
        let index = self.producer.wrapping_add(ahead);
        // SAFETY: the buffer holds MAX_FRAME bytes of the window, which no reference covers. If the
        // slot is not the guest's, the NIC sends a mixture of two frames; nothing else.
        unsafe {
            let buffer = self.window.buffer(Ring::TX, index);
            ptr::copy_nonoverlapping(frame.as_ptr(), buffer, frame.len());
        }
        let descriptor = geometry.descriptor_offset(Ring::TX, index);
        self.window.word(descriptor).store(len, Ordering::Relaxed);
        Ok(())
    }

    /// Gives the next `count` slots to the NIC, which sees them after its next request.
    pub fn commit(&mut self, count: u32) {
        self.producer = self.producer.wrapping_add(count);
        self.publish();
    }

    fn publish(&self) {
        let producer = self.window.geometry.producer_offset(Ring::TX);
        let producer = self.window.word(producer);
        producer.store(self.producer, Ordering::Release);
    }
}

/// A frame in a buffer of the window.
///
/// The NIC does not change it, yet a second vCPU of its sender can (see [`postern_abi::window`]):
/// its bytes are only copied, never referred to.
#[derive(Debug)]
pub struct Frame<'a> {
    buffer: *const u8,
    len: usize,
    _window: PhantomData<&'a Window>,
}

impl Frame<'_> {
    /// Bytes of the frame, [`MIN_FRAME`] to [`MAX_FRAME`].
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Copies the whole frame.
    ///
    /// # Panics
    ///
    /// `target` is not exactly as long as the frame.
    #[inline]
    pub fn copy_to(&self, target: &mut [u8]) {
        assert_eq!(target.len(), self.len, "length of a frame's copy");
        // SAFETY: the buffer holds `len` bytes of the window until the lane's consumer passes it,
        // which a borrow of the lane rules out; `target` is not in the window.
        unsafe { ptr::copy_nonoverlapping(self.buffer, target.as_mut_ptr(), self.len) }
    }
}

/// The receiving end of one lane.
#[derive(Debug)]
pub struct Lane {
    window: Window,
    ring: Ring,
    consumer: u32,
}

/// How many frames a [`Lane::receive`] took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Frames that the caller got.
    pub frames: usize,
    /// Slots that were skipped because they held no frame.
    pub malformed: usize,
}

impl Lane {
    /// The lane of a sending port, from where the previous tenant of this port stopped.
    pub fn new(window: Window, sender: PortId) -> Lane {
        let ring = Ring::lane(sender);
        let consumer = window.geometry.consumer_offset(ring);
        Lane {
            window,
            ring,
            consumer: window.word(consumer).load(Ordering::Relaxed),
        }
    }

    /// Frames that wait in the lane.
    #[inline]
    pub fn available(&self) -> u32 {
        let geometry = self.window.geometry;
        let producer = self.window.word(geometry.producer_offset(self.ring));
        // Acquire: the frames below the index are read next.
        let producer = producer.load(Ordering::Acquire);
        geometry.filled(producer, self.consumer).unwrap_or(0)
    }

    /// Takes at most `max` slots and gives the frames to `sink`, in the order they were sent.
    #[inline]
    pub fn receive(&mut self, max: usize, mut sink: impl FnMut(Frame<'_>)) -> Received {
        let count = (self.available() as usize).min(max);
        let mut received = Received::default();
        if count == 0 {
            return received;
        }
        let geometry = self.window.geometry;
        for ahead in 0..count as u32 {
            let index = self.consumer.wrapping_add(ahead);
            let descriptor = geometry.descriptor_offset(self.ring, index);
            let len = self.window.word(descriptor).load(Ordering::Relaxed);
            if len & DESCRIPTOR_RESERVED != 0 || !(MIN_FRAME..=MAX_FRAME).contains(&len) {
                received.malformed += 1;
                continue;
            }
            received.frames += 1;
            sink(Frame {
                buffer: self.window.buffer(self.ring, index),
                len: len as usize,
                _window: PhantomData,
            });
        }
        self.consumer = self.consumer.wrapping_add(count as u32);
        let consumer = self.window.word(geometry.consumer_offset(self.ring));
        consumer.store(self.consumer, Ordering::Release);
        received
    }
}
