//! The sending end of a lane during a call.

use crate::sync::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use postern_abi::window::{Geometry, PAD_WORD, PortId, Published, RECORD_ALIGN, record_size};

use super::call::Call;
use super::records::Frame;
use super::run::{Room, Run};
use crate::state::{Cause, LaneState, add};

/// Where a lane's two ends are.
#[derive(Clone, Copy)]
pub struct Ends<'a> {
    /// The sender's side of it.
    pub state: &'a LaneState,
    /// The receiver's window.
    pub window: *mut u8,
    /// Its RX queue.
    pub queue: u32,
}

impl<'a> Ends<'a> {
    /// The lane of the calling sender to an RX queue of a port of the NIC.
    ///
    /// # Safety
    /// The NIC has the port and the queue.
    #[inline(always)]
    pub unsafe fn of(call: &Call<'a>, to: PortId, queue: u32) -> Ends<'a> {
        // SAFETY: the caller's promise.
        unsafe { Ends::with(call, Ends::state(call, to, queue), to, queue) }
    }

    /// The sender's side of the lane to an RX queue of a port of the NIC, without the other one.
    ///
    /// # Safety
    /// As [`Ends::of`].
    #[inline(always)]
    pub unsafe fn state(call: &Call<'a>, to: PortId, queue: u32) -> &'a LaneState {
        let number = call.caller.geometry().rx_queue(to, queue) as usize;
        // SAFETY: as many lane states as there are RX queues follow the call's.
        unsafe {
            let states = (&raw const *call.sender()).add(1).cast::<LaneState>();
            &*states.add(number)
        }
    }

    /// The lane whose state is known.
    ///
    /// # Safety
    /// As [`Ends::of`].
    #[inline(always)]
    pub unsafe fn with(call: &Call<'a>, state: &'a LaneState, to: PortId, queue: u32) -> Ends<'a> {
        let caller = call.caller;
        // Added in this order, the number of the port alone has to be kept for it.
        let offset = to.index() * caller.window_size as usize + caller.windows as usize;
        Ends {
            state,
            // SAFETY: the window lies in memory that `serve`'s caller vouched for.
            window: unsafe { call.base.add(offset) },
            queue,
        }
    }

    /// The call's element of `published`.
    #[inline(always)]
    pub fn published(&self, call: &Call<'a>) -> &'a AtomicU64 {
        let offset = call
            .caller
            .geometry()
            .published_offset(self.queue, call.sender_number());
        // SAFETY: the word lies in the window, aligned.
        unsafe { AtomicU64::from_ptr(self.window.add(offset as usize).cast()) }
    }

    /// The call's element of `consumed`.
    #[inline(always)]
    pub fn consumed(&self, call: &Call<'a>) -> &'a AtomicU32 {
        let offset = call
            .caller
            .geometry()
            .consumed_offset(self.queue, call.sender_number());
        // SAFETY: the word lies in the window, aligned.
        unsafe { AtomicU32::from_ptr(self.window.add(offset as usize).cast()) }
    }

    /// The byte of the lane at a position.
    #[inline(always)]
    pub fn at(&self, call: &Call<'a>, position: u32) -> *mut u8 {
        let caller = call.caller;
        let geometry = caller.geometry();
        let behind = self.queue * geometry.senders() + call.vcpu;
        let lane = caller.lane as usize + ((behind as usize) << (geometry.lane_log() & 31));
        // SAFETY: the lane lies in the window, and the offset is below its size.
        unsafe {
            self.window
                .add(lane + (position & caller.lane_mask) as usize)
        }
    }

    /// A new tenant: the positions begin where it expects the next record.
    #[cold]
    #[inline(never)]
    pub fn restart(&self, call: &Call<'a>, tenancy: u32) {
        let position = self.consumed(call).load(Relaxed) & !(RECORD_ALIGN - 1);
        // First, so that nobody goes by a route to a lane whose words do not belong together, in case the call is
        // stopped here.
        call.void_cached_routes();
        self.state.published.store(position, Release);
        self.state.consumed.store(position, Relaxed);
        self.state.limit.store(position, Relaxed);
        // Last, so that a call that is stopped here begins anew.
        self.state.tenancy.store(tenancy, Release);
    }
}

/// A lane that a call is filling.
pub struct Lane<'a> {
    ends: Ends<'a>,
    /// Number of the RX queue in the whole NIC.
    number: u32,
    /// The receiving port's tenant.
    tenancy: u32,
    /// Up to where the lane is filled.
    position: u32,
    /// Bytes that can be written from there, up to what the receiver has not read or the lane's end.
    room: u32,
    frames: u32,
    bytes: u64,
}

impl<'a> Lane<'a> {
    /// The lane of the calling sender to an RX queue of a port. A queue or port that the NIC does not
    /// have, because the memory was tampered with, stands for queue 0 or port 0.
    ///
    /// `begun`: the call has filled it before.
    #[inline(always)]
    pub fn open(call: &Call<'a>, to: PortId, queue: u32, begun: bool) -> Lane<'a> {
        let to = match to.number() < call.caller.geometry().ports() {
            true => to,
            false => PortId::from_number(0),
        };
        let queue = match queue < call.caller.geometry().queues() {
            true => queue,
            false => 0,
        };
        // SAFETY: the NIC has both.
        let ends = unsafe { Ends::of(call, to, queue) };
        let state = ends.state;
        let position = if begun {
            state.position.load(Relaxed)
        } else {
            // Acquire: the positions that a new tenant begins with were written before.
            let tenancy = call.state().tenancy[to.index()].load(Acquire);
            if state.tenancy.load(Relaxed) != tenancy {
                ends.restart(call, tenancy);
            }
            // What a call that was stopped had filled is filled anew.
            state.published.load(Relaxed)
        };
        let mut lane = Lane {
            ends,
            number: call.caller.geometry().rx_queue(to, queue),
            tenancy: state.tenancy.load(Relaxed),
            position: position & !(RECORD_ALIGN - 1),
            room: 0,
            frames: 0,
            bytes: 0,
        };
        lane.set_room(call, state.consumed.load(Relaxed));
        lane
    }

    /// Number of the RX queue in the whole NIC.
    #[inline]
    pub const fn number(&self) -> u32 {
        self.number
    }

    /// Bytes that may be written now.
    #[inline]
    pub const fn room_left(&self) -> usize {
        self.room as usize
    }

    #[inline(always)]
    fn offset(&self, call: &Call<'a>) -> u32 {
        self.position & call.caller.lane_mask
    }

    /// False if the position cannot be.
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

    /// Where the next record goes, and how many bytes there may be written.
    #[inline(always)]
    pub fn room(&self, call: &Call<'a>) -> Room {
        Room {
            to: self.ends.at(call, self.position),
            left: self.room as usize,
        }
    }

    /// Passes a run that was copied into the room.
    #[inline(always)]
    pub fn advance(&mut self, run: &Run) {
        self.position = self.position.wrapping_add(run.size as u32);
        self.room = self.room.wrapping_sub(run.size as u32);
        self.frames = self.frames.wrapping_add(run.frames);
        self.bytes = self.bytes.wrapping_add(run.bytes);
    }

    /// Writes a frame into the room, as it is. [`Lane::pass`] then passes it.
    ///
    /// # Safety
    ///
    /// The room has [`Frame::size`] bytes, and the frame's record still is what it was made from.
    #[inline(always)]
    pub unsafe fn emit(&self, call: &Call<'a>, frame: &Frame) {
        // SAFETY: the caller's promise.
        unsafe { frame.write(self.room(call).to) };
    }

    /// Passes a frame of `length` bytes that was written into the room.
    #[inline(always)]
    pub fn pass(&mut self, length: u32) {
        let size = record_size(length) as u32;
        self.position = self.position.wrapping_add(size);
        self.room = self.room.wrapping_sub(size);
        self.frames = self.frames.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add(length.into());
    }

    /// Makes room for a record of `size` bytes, or says why there is none.
    #[cold]
    #[inline(never)]
    pub fn make_room(&mut self, call: &Call<'a>, size: usize) -> Result<(), Cause> {
        let geometry = call.caller.geometry();
        // Acquire: what was below it has been read.
        let consumed = self.ends.consumed(call).load(Acquire);
        if !self.set_room(call, consumed) {
            return Err(Cause::BadReceiver);
        }
        self.ends.state.consumed.store(consumed, Relaxed);
        let to_end = geometry.lane() - self.offset(call);
        if (self.room as usize) < size && self.room == to_end && to_end < geometry.lane() {
            // The record begins at the beginning of the lane.
            let at = self.room(call).to;
            // SAFETY: `room` bytes, 16 or more since positions are multiples of that, may be written.
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

    /// Whether several records of so many bytes, padding included, have room; or whether the lane is empty, if they
    /// never have.
    #[inline(never)]
    pub fn wait_for(&self, call: &Call<'a>, bytes: u32) -> Result<(), Cause> {
        let size = call.caller.geometry().lane();
        // Acquire: what was below it has been read.
        let consumed = self.ends.consumed(call).load(Acquire);
        let filled = Geometry::filled(size, self.position, consumed).ok_or(Cause::BadReceiver)?;
        let wanted = if bytes < size { bytes } else { size };
        match size - filled < wanted {
            true => Err(Cause::Full),
            false => Ok(()),
        }
    }

    /// Counts a frame that is not delivered here.
    #[cold]
    #[inline(never)]
    pub fn refuse(&self, call: &Call<'a>, cause: Cause) {
        call.sender().count(cause, 1);
        add(&self.ends.state.drops, 1);
    }

    /// Leaves the lane for another one, not published.
    #[inline]
    pub fn leave(&mut self) {
        self.ends.state.position.store(self.position, Relaxed);
        self.count();
    }

    #[inline(always)]
    fn count(&self) {
        add(&self.ends.state.frames, self.frames.into());
        add(&self.ends.state.bytes, self.bytes);
    }

    /// Publishes what was filled.
    #[inline(always)]
    pub fn publish(&self, call: &Call<'a>) {
        self.count();
        let (position, tenancy) = (self.position, self.tenancy);
        self.ends.state.published.store(position, Release);
        let word = Published { position, tenancy }.word();
        self.ends.published(call).store(word, Release);
        let limit = position.wrapping_add(self.room);
        self.ends.state.limit.store(limit, Relaxed);
    }
}
