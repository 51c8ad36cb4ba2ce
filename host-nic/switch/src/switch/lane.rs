//! A lane during a call: the ring from one sender to one RX queue, at its sending end.

use crate::sync::{
    AtomicU8, AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use postern_abi::window::{Geometry, PAD_WORD, PortId, Published, RECORD_ALIGN, record_size};

use super::call::Call;
use super::records::Frame;
use super::run::{Room, Run};
use crate::state::{Cause, LaneState, add};

/// The two ends of a lane: the holder's state of it, and the receiver's window that it lies in.
#[derive(Clone, Copy)]
pub struct Ends<'a> {
    /// The lane's state, on the holder's side.
    pub state: &'a LaneState,
    /// First byte of the receiver's window.
    pub window: *mut u8,
    /// Number of the RX queue in the receiver's port.
    pub queue: u32,
    /// Number of the lane in the queue.
    pub lane: u32,
}

impl<'a> Ends<'a> {
    /// The ends of a lane of an RX queue of a port.
    ///
    /// # Safety
    ///
    /// The NIC has the port and the queue, and the queue the lane.
    #[inline(always)]
    pub unsafe fn of(call: &Call<'a>, to: PortId, queue: u32, lane: u32) -> Ends<'a> {
        // SAFETY: the caller promises that the NIC has all three, which is the contract of `with`
        // and `state` too.
        unsafe {
            let number = call.caller.geometry().rx_queue(to, queue);
            Ends::with(call, Ends::state(call, number, lane), to, queue, lane)
        }
    }

    /// The state of a lane of an RX queue, numbered in the whole NIC.
    ///
    /// # Safety
    ///
    /// The NIC has the queue, and the queue the lane.
    #[inline(always)]
    pub unsafe fn state(call: &Call<'a>, queue: u32, lane: u32) -> &'a LaneState {
        let caller = call.caller;
        let number = queue.wrapping_mul(caller.geometry().lanes()) + lane;
        let offset = caller.lane_states as usize + number as usize * size_of::<LaneState>();
        // SAFETY: the caller promises that the NIC has the lane, so its state lies in memory that
        // `serve`'s caller vouched for; every field is an atomic.
        unsafe { &*call.base.add(offset).cast() }
    }

    /// The ends of the lane whose state is known.
    ///
    /// # Safety
    ///
    /// The NIC has the port and the queue, the queue has the lane, and `state` is that of the lane.
    #[inline(always)]
    pub unsafe fn with(
        call: &Call<'a>,
        state: &'a LaneState,
        to: PortId,
        queue: u32,
        lane: u32,
    ) -> Ends<'a> {
        let caller = call.caller;
        // In this order of additions, only the number of the port has to be kept in a register.
        let offset = to.index() * caller.window_stride as usize + caller.windows as usize;
        Ends {
            state,
            // SAFETY: the caller promises that the NIC has the port, so its window lies in memory
            // that `serve`'s caller vouched for.
            window: unsafe { call.base.add(offset) },
            queue,
            lane,
        }
    }

    /// A word of 64 bits of the receiver's window.
    ///
    /// # Safety
    ///
    /// The offset is one of the geometry's, of such a word.
    #[inline(always)]
    unsafe fn long(&self, offset: u64) -> &'a AtomicU64 {
        // SAFETY: the caller promises that the word lies in the window, aligned.
        unsafe { AtomicU64::from_ptr(self.window.add(offset as usize).cast()) }
    }

    /// The receiver's word `latest`.
    #[inline(always)]
    pub fn latest(&self, call: &Call<'a>) -> &'a AtomicU64 {
        // SAFETY: the NIC has the queue, so the word lies in the window.
        unsafe { self.long(call.caller.geometry().latest_offset(self.queue)) }
    }

    /// The lane's element of `published` in the receiver's window.
    #[inline(always)]
    pub fn published(&self, call: &Call<'a>) -> &'a AtomicU64 {
        let geometry = call.caller.geometry();
        // SAFETY: the NIC has the queue and the lane, so the word lies in the window.
        unsafe { self.long(geometry.published_offset(self.queue, self.lane)) }
    }

    /// The lane's element of `consumed` in the receiver's window.
    #[inline(always)]
    pub fn consumed(&self, call: &Call<'a>) -> &'a AtomicU32 {
        let geometry = call.caller.geometry();
        let offset = geometry.consumed_offset(self.queue, self.lane);
        // SAFETY: the NIC has the queue and the lane, so the word lies in the window, aligned.
        unsafe { AtomicU32::from_ptr(self.window.add(offset as usize).cast()) }
    }

    /// Tells the receiver that the lane is published up to a position, for a tenancy: first the
    /// lane's own word, then the one that says where to look.
    #[inline(always)]
    pub fn publish(&self, call: &Call<'a>, published: Published) {
        self.published(call).store(published.word(), Release);
        self.latest(call)
            .store(published.latest(self.lane), Release);
    }

    /// Address of the lane's byte at a position.
    #[inline(always)]
    pub fn at(&self, call: &Call<'a>, position: u32) -> *mut u8 {
        let caller = call.caller;
        let geometry = caller.geometry();
        let number = self.queue * geometry.lanes() + self.lane;
        let lane = caller.lanes as usize + ((number as usize) << (geometry.lane_log() & 31));
        // SAFETY: the lane lies in the window, and the masked position is below the lane's size.
        unsafe {
            self.window
                .add(lane + (position & caller.lane_mask) as usize)
        }
    }

    /// Whether the receiver has read all that is in the lane, for its present tenancy.
    pub fn is_drained(&self, call: &Call<'a>, tenancy: u32) -> bool {
        self.state.tenancy.load(Relaxed) != tenancy
            || self.state.published.load(Relaxed) == self.consumed(call).load(Relaxed)
    }

    /// Tells the receiver that the lane is in use, and whose it is.
    pub fn introduce(&self, call: &Call<'a>) {
        let geometry = call.caller.geometry();
        let sender = geometry.sender_offset(self.queue, self.lane) as usize;
        let used = geometry.used_offset(self.queue) + u64::from(self.lane >> 6) * 8;
        // SAFETY: the NIC has the queue and the lane, so both words lie in the window.
        unsafe {
            let sender = AtomicU8::from_ptr(self.window.add(sender));
            sender.store(call.sender_number() as u8, Release);
            // Other senders introduce other lanes at the same time.
            self.long(used).fetch_or(1 << (self.lane & 63), Release);
        }
    }

    /// Begins the lane for a new tenant of the receiver's port, at the position where that tenant
    /// expects the next record.
    #[cold]
    #[inline(never)]
    pub fn restart(&self, call: &Call<'a>, tenancy: u32) {
        let position = self.consumed(call).load(Relaxed) & !(RECORD_ALIGN - 1);
        // This comes first, in case the call is stopped here: no later call then goes by a cached
        // route to a lane whose words do not belong together.
        call.void_cached_routes();
        self.state.published.store(position, Release);
        self.state.consumed.store(position, Relaxed);
        self.state.limit.store(position, Relaxed);
        self.introduce(call);
        // This comes last, in case the call is stopped here: the next call then begins anew.
        self.state.tenancy.store(tenancy, Release);
    }
}

/// A lane that a call is filling.
pub struct Lane<'a> {
    ends: Ends<'a>,
    /// Number of the RX queue in the whole NIC.
    number: u32,
    /// Position up to which the lane is filled.
    position: u32,
    /// Number of bytes that can be written from there, up to what the receiver has not read or the
    /// lane's end.
    room: u32,
    /// Number of frames that were written and not counted yet.
    frames: u32,
    /// Number of bytes of these frames.
    bytes: u64,
}

impl<'a> Lane<'a> {
    /// Opens the lane from the calling sender to an RX queue of a port, or nothing if all lanes there
    /// are other senders'. `begun` says that the call has filled it before. A queue or port that the
    /// NIC does not have, because the memory was tampered with, stands for queue 0 or port 0.
    #[inline(always)]
    pub fn open(call: &Call<'a>, to: PortId, queue: u32, begun: bool) -> Option<Lane<'a>> {
        let to = match to.number() < call.caller.geometry().ports() {
            true => to,
            false => PortId::from_number(0),
        };
        let queue = match queue < call.caller.geometry().queues() {
            true => queue,
            false => 0,
        };
        // SAFETY: port and queue were compared with the NIC's numbers of them.
        let ends = unsafe { call.held_lane(to, queue) }?;
        let state = ends.state;
        let position = if begun {
            state.position.load(Relaxed)
        } else {
            // Acquire: the positions that a new tenant begins with were written before its tenancy.
            let tenancy = call.state().tenancy[to.index()].load(Acquire);
            if state.tenancy.load(Relaxed) != tenancy {
                ends.restart(call, tenancy);
            }
            // Bytes that a call had filled and not published when it was stopped are filled anew.
            state.published.load(Relaxed)
        };
        let mut lane = Lane {
            ends,
            number: call.caller.geometry().rx_queue(to, queue),
            position: position & !(RECORD_ALIGN - 1),
            room: 0,
            frames: 0,
            bytes: 0,
        };
        lane.set_room(call, state.consumed.load(Relaxed));
        Some(lane)
    }

    /// Number of the lane in its RX queue.
    #[inline]
    pub const fn lane(&self) -> u32 {
        self.ends.lane
    }

    /// Number of the RX queue in the whole NIC.
    #[inline]
    pub const fn number(&self) -> u32 {
        self.number
    }

    /// Number of bytes that may be written now.
    #[inline]
    pub const fn room_left(&self) -> usize {
        self.room as usize
    }

    /// Offset in the lane of the position, in bytes.
    #[inline(always)]
    fn offset(&self, call: &Call<'a>) -> u32 {
        self.position & call.caller.lane_mask
    }

    /// Computes the room from the receiver's consumer position. Returns false if that position is
    /// out of range.
    #[inline(always)]
    fn set_room(&mut self, call: &Call<'a>, consumed: u32) -> bool {
        let size = call.caller.geometry().lane();
        let filled = Geometry::filled(size, self.position, consumed);
        let free = match filled {
            Some(filled) => size - filled,
            None => 0,
        };
        let to_end = size - self.offset(call);
        self.room = if free < to_end { free } else { to_end };
        filled.is_some()
    }

    /// The room for the next record: its address, and how many bytes may be written there.
    #[inline(always)]
    pub fn room(&self, call: &Call<'a>) -> Room {
        Room {
            to: self.ends.at(call, self.position),
            left: self.room as usize,
        }
    }

    /// Moves the position behind a run that was copied into the room.
    #[inline(always)]
    pub fn advance(&mut self, run: &Run) {
        self.position = self.position.wrapping_add(run.size as u32);
        self.room = self.room.wrapping_sub(run.size as u32);
        self.frames = self.frames.wrapping_add(run.frames);
        self.bytes = self.bytes.wrapping_add(run.bytes);
    }

    /// Writes a frame into the room, as the sender wrote it. [`Lane::pass`] then passes it.
    ///
    /// # Safety
    ///
    /// The room has [`Frame::size`] bytes, and the ring that the frame was read from is still
    /// readable.
    #[inline(always)]
    pub unsafe fn emit(&self, call: &Call<'a>, frame: &Frame) {
        // SAFETY: the caller promises room and ring; records in a lane begin at multiples of 16.
        unsafe { frame.write(self.room(call).to) };
    }

    /// Moves the position behind a frame of `length` bytes that was written into the room.
    #[inline(always)]
    pub fn pass(&mut self, length: u32) {
        let size = record_size(length) as u32;
        self.position = self.position.wrapping_add(size);
        self.room = self.room.wrapping_sub(size);
        self.frames = self.frames.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add(length.into());
    }

    /// Makes room for a record of `size` bytes: reads the receiver's consumer position anew, and
    /// pads the lane to its end where the record does not fit in front of it.
    ///
    /// # Errors
    ///
    /// [`Cause::Full`]: the lane has no room. [`Cause::BadReceiver`]: the consumer position is out
    /// of range.
    #[cold]
    #[inline(never)]
    pub fn make_room(&mut self, call: &Call<'a>, size: usize) -> Result<(), Cause> {
        let geometry = call.caller.geometry();
        // Acquire: the receiver has read the bytes below it.
        let consumed = self.ends.consumed(call).load(Acquire);
        if !self.set_room(call, consumed) {
            return Err(Cause::BadReceiver);
        }
        self.ends.state.consumed.store(consumed, Relaxed);
        let to_end = geometry.lane() - self.offset(call);
        if (self.room as usize) < size && self.room == to_end && to_end < geometry.lane() {
            // The record goes to the beginning of the lane.
            let at = self.room(call).to;
            // SAFETY: `room` bytes may be written at the position, up to the lane's end: 16 or
            // more, since positions are multiples of 16.
            unsafe {
                AtomicU64::from_ptr(at.cast()).store(0, Relaxed);
                AtomicU64::from_ptr(at.add(8).cast()).store(PAD_WORD, Relaxed);
            }
            self.position = self.position.wrapping_add(to_end);
            self.set_room(call, consumed);
        }
        if (self.room as usize) < size {
            return Err(Cause::Full);
        }
        Ok(())
    }

    /// Sees whether records of `bytes` bytes together, padding included, have room. Records that
    /// have more bytes than the lane wait for an empty lane.
    ///
    /// # Errors
    ///
    /// [`Cause::Full`]: they have no room now. [`Cause::BadReceiver`]: the receiver's consumer
    /// position is out of range.
    #[inline(never)]
    pub fn wait_for(&self, call: &Call<'a>, bytes: u32) -> Result<(), Cause> {
        let size = call.caller.geometry().lane();
        // Acquire: the receiver has read the bytes below it.
        let consumed = self.ends.consumed(call).load(Acquire);
        let filled = Geometry::filled(size, self.position, consumed).ok_or(Cause::BadReceiver)?;
        let wanted = if bytes < size { bytes } else { size };
        match size - filled < wanted {
            true => Err(Cause::Full),
            false => Ok(()),
        }
    }

    /// Counts a frame that is not delivered into this lane, by its cause.
    #[cold]
    #[inline(never)]
    pub fn refuse(&self, call: &Call<'a>, cause: Cause) {
        call.sender().count(cause, 1);
        add(&self.ends.state.drops, 1);
    }

    /// Leaves the lane for another one, filled and not published.
    #[inline]
    pub fn leave(&mut self) {
        self.ends.state.position.store(self.position, Relaxed);
        self.count();
    }

    /// Counts the frames that were written.
    #[inline(always)]
    fn count(&self) {
        add(&self.ends.state.frames, self.frames.into());
        add(&self.ends.state.bytes, self.bytes);
    }

    /// Publishes the records that were written: first in the NIC's own copy of the position, then
    /// in the receiver's window, with one store that carries the tenancy.
    #[inline(always)]
    pub fn publish(&self, call: &Call<'a>) {
        self.count();
        let (position, tenancy) = (self.position, self.ends.state.tenancy.load(Relaxed));
        self.ends.state.published.store(position, Release);
        self.ends.publish(call, Published { position, tenancy });
        let limit = position.wrapping_add(self.room);
        self.ends.state.limit.store(limit, Relaxed);
    }
}
