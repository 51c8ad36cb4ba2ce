//! A lane during a call: the ring from one sender to one RX queue, at its sending end.

use crate::sync::{
    AtomicU8, AtomicU32, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

use postern_abi::PAGE_SIZE;
use postern_abi::window::{
    ARMED, Geometry, LOOK_AGAIN, PAD_WORD, PortId, Published, RECORD_ALIGN, record_size,
};

use super::call::Call;
use super::records::Frame;
use super::run::Room;
use crate::state::{Cause, LaneState, Link, add};

/// The two ends of a lane: the holder's state of it, and the receiver's window that it lies in.
#[derive(Clone, Copy)]
pub struct Ends<'a> {
    /// The lane's state, on the holder's side.
    pub state: &'a LaneState,
    /// The page of the RX queue's words in the receiver's window.
    words: *mut u8,
    /// The lane's first byte in the receiver's window.
    ring: *mut u8,
    /// Number of the lane in the queue.
    pub lane: u32,
}

impl<'a> Ends<'a> {
    /// The ends of a lane of an RX queue of a port, whose number in the whole NIC is known.
    ///
    /// # Safety
    ///
    /// The NIC has the port, the queue and a queue of that number, and all queues have the lane.
    #[inline(always)]
    pub unsafe fn of(call: &Call<'a>, to: PortId, queue: u32, number: u32, lane: u32) -> Ends<'a> {
        let caller = call.caller;
        let geometry = caller.geometry();
        let lanes = geometry.lanes();
        let state = number.wrapping_mul(lanes).wrapping_add(lane);
        let state = caller.lane_states as usize + state as usize * size_of::<LaneState>();
        let stride = caller.window_pages as usize * PAGE_SIZE as usize;
        let window = to.index() * stride + caller.windows as usize;
        let number = queue.wrapping_mul(lanes).wrapping_add(lane);
        let ring = caller.lanes as usize + ((number as usize) << (geometry.lane_log() & 31));
        // SAFETY: the caller promises that the NIC has the lane, so its state, the page of its
        // queue's words and its ring lie in memory that `serve`'s caller vouched for; every field of
        // the state is an atomic.
        unsafe {
            Ends {
                state: &*call.base.add(state).cast(),
                words: call
                    .base
                    .add(window + geometry.latest_offset(queue) as usize),
                ring: call.base.add(window + ring),
                lane,
            }
        }
    }

    /// The ends of the lane that a link leads to, or nothing if it leads to none.
    #[inline(always)]
    pub fn linked(call: &Call<'a>, link: &Link) -> Option<Ends<'a>> {
        let state = Ends::linked_state(call, link)?;
        Ends::linked_with(call, link, state)
    }

    /// [`Ends::linked`], the lane's state alone.
    #[inline(always)]
    pub fn linked_state(call: &Call<'a>, link: &Link) -> Option<&'a LaneState> {
        let offset = link.state.load(Relaxed);
        if offset.wrapping_sub(1) >= call.caller.windows {
            return None;
        }
        let line = (size_of::<LaneState>() - 1) as u32;
        // SAFETY: the state lies in front of the first window or is its beginning, at a multiple of its
        // size, in memory that `serve`'s caller vouched for; every field is an atomic.
        Some(unsafe { &*call.base.add((offset & !line) as usize).cast() })
    }

    /// [`Ends::linked`], where the state is known.
    #[inline(always)]
    pub fn linked_with(call: &Call<'a>, link: &Link, state: &'a LaneState) -> Option<Ends<'a>> {
        Some(Ends {
            state,
            words: Ends::page(call, &link.words)?,
            ring: Ends::page(call, &link.ring)?,
            lane: link.lane.load(Relaxed).into(),
        })
    }

    /// A page of the memory whose number is in a word, if there is such a page.
    #[inline(always)]
    fn page(call: &Call<'a>, word: &AtomicU32) -> Option<*mut u8> {
        let number = word.load(Relaxed);
        if number > call.caller.last_page {
            return None;
        }
        // SAFETY: the last lane begins at the last page or behind it, and so much lies in memory
        // that `serve`'s caller vouched for.
        Some(unsafe { call.base.add(number as usize * PAGE_SIZE as usize) })
    }

    /// Has a link lead here. It leads to no lane while its words belong to different ones, in case the
    /// call is stopped here.
    #[inline]
    pub fn link(&self, call: &Call<'a>, link: &Link) {
        let base = call.base as usize;
        let offset = |address: usize| address.wrapping_sub(base);
        let page = |address: *mut u8| (offset(address as usize) / PAGE_SIZE as usize) as u32;
        link.state.store(0, Relaxed);
        link.words.store(page(self.words), Release);
        link.ring.store(page(self.ring), Release);
        link.lane.store(self.lane as u8, Release);
        let state = offset(&raw const *self.state as usize) as u32;
        link.state.store(state, Release);
    }

    /// The address of a word of the receiver's queue, of which queue 0 has the one at this offset.
    ///
    /// # Safety
    ///
    /// The offset is one of the geometry's, in the page of queue 0.
    #[inline(always)]
    unsafe fn at_offset(&self, call: &Call<'a>, offset: u64) -> *mut u8 {
        let first = call.caller.geometry().latest_offset(0);
        // SAFETY: the pages of all queues are alike, and this one lies in the memory.
        unsafe { self.words.add((offset - first) as usize) }
    }

    /// A word of 64 bits of the receiver's queue, likewise.
    ///
    /// # Safety
    ///
    /// The offset is one of the geometry's, of such a word in the page of queue 0.
    #[inline(always)]
    unsafe fn long(&self, call: &Call<'a>, offset: u64) -> &'a AtomicU64 {
        // SAFETY: the caller promises an aligned word.
        unsafe { AtomicU64::from_ptr(self.at_offset(call, offset).cast()) }
    }

    /// The lane's element of `consumed` in the receiver's window.
    #[inline(always)]
    pub fn consumed(&self, call: &Call<'a>) -> &'a AtomicU32 {
        let offset = call.caller.geometry().consumed_offset(0, self.lane);
        // SAFETY: the offset is that of a word of queue 0, aligned.
        unsafe { AtomicU32::from_ptr(self.at_offset(call, offset).cast()) }
    }

    /// Publishes the lane up to a position, for a tenancy, whose word is given: first in the NIC's own
    /// copy, then in the receiver's window, there first in the lane's own word, then in the one that
    /// says where to look. Returns whether the receiver slept:
    /// that is noted.
    #[inline(always)]
    pub fn publish(&self, call: &Call<'a>, published: u64) -> bool {
        let geometry = call.caller.geometry();
        self.state.published.store(published, Release);
        // SAFETY: both offsets are those of words of queue 0.
        let (own, latest) = unsafe {
            let own = self.long(call, geometry.published_offset(0, self.lane));
            (own, self.long(call, geometry.latest_offset(0)))
        };
        own.store(published, Release);
        // An exchange: a receiver arms this word, and either sees what is new or is seen.
        let before = latest.swap(Published::from_word(published).latest(self.lane), AcqRel);
        let slept = before & ARMED != 0;
        if slept {
            self.note_bell(call);
        }
        slept
    }

    /// Publishes the lane up to the position of before, in case a call that was stopped has not come to
    /// that. Others may have published lanes since then, so the receiver looks again, wherever that was.
    #[cold]
    #[inline(never)]
    pub fn publish_again(&self, call: &Call<'a>, published: u64) {
        let geometry = call.caller.geometry();
        // SAFETY: both offsets are those of words of queue 0.
        unsafe {
            self.long(call, geometry.published_offset(0, self.lane))
                .store(published, Release);
            let latest = self.long(call, geometry.latest_offset(0));
            if look_again(latest) {
                self.note_bell(call);
            }
        }
    }

    /// Offset of the page of the queue's words from the first window, in bytes.
    pub fn words_offset(&self, call: &Call<'a>) -> usize {
        let first = call.base as usize + call.caller.windows as usize;
        (self.words as usize).wrapping_sub(first)
    }

    /// Counts frames that were written.
    #[inline(always)]
    pub fn count(&self, frames: u64, bytes: u64) {
        add(&self.state.frames, frames);
        add(&self.state.bytes, bytes);
    }

    /// Address of the lane's byte at a position, a multiple of 16.
    #[inline(always)]
    pub fn at(&self, call: &Call<'a>, position: u32) -> *mut u8 {
        // SAFETY: the masked position is below the lane's size, and so much lies behind `ring` in the
        // memory.
        unsafe { self.ring.add((position & call.caller.lane_mask) as usize) }
    }

    /// Whether the receiver has read all that is in the lane, for its present tenancy.
    pub fn is_drained(&self, call: &Call<'a>, tenancy: u32) -> bool {
        let published = Published::from_word(self.state.published.load(Relaxed));
        published.tenancy != tenancy || published.position == self.consumed(call).load(Relaxed)
    }

    /// Tells the receiver that the lane is in use, and whose it is.
    pub fn introduce(&self, call: &Call<'a>) {
        let geometry = call.caller.geometry();
        let used = geometry.used_offset(0) + u64::from(self.lane >> 6) * 8;
        // SAFETY: both offsets are those of words of queue 0.
        unsafe {
            let sender = self.at_offset(call, geometry.sender_offset(0, self.lane));
            AtomicU8::from_ptr(sender).store(call.sender_number() as u8, Release);
            // Other senders introduce other lanes at the same time.
            self.long(call, used)
                .fetch_or(1 << (self.lane & 63), Release);
        }
    }

    /// Begins the lane for a new tenant of the receiver's port, at the position where that tenant
    /// expects the next record.
    #[cold]
    #[inline(never)]
    pub fn restart(&self, call: &Call<'a>, tenancy: u32) {
        let position = self.consumed(call).load(Relaxed) & !(RECORD_ALIGN - 1);
        let word = Published { position, tenancy }.word();
        // This comes first, in case the call is stopped here: no later call then goes by a cached
        // route to a lane whose words do not belong together.
        call.state().generation.fetch_add(1, Release);
        self.state.limit.store(word, Release);
        self.introduce(call);
        // This comes last, in case the call is stopped here: the next call then begins anew.
        self.state.published.store(word, Release);
    }
}

/// Has the receiver of a queue look at its lanes again, by the word `latest`. Returns whether it slept,
/// and is to be woken.
pub fn look_again(latest: &AtomicU64) -> bool {
    let before = latest.fetch_add(LOOK_AGAIN, AcqRel);
    // Of several that come here, one takes the bit away.
    before & ARMED != 0 && latest.fetch_and(!ARMED, AcqRel) & ARMED != 0
}

impl LaneState {
    /// The word of the lane's published position, and what it becomes if a record of `size` bytes is
    /// published there, if there is room for it without another look at the consumer position. The
    /// position does not wrap then, so that both have one tenancy.
    #[inline(always)]
    pub fn reserve(&self, size: u32) -> Option<(u64, u64)> {
        let published = self.published.load(Relaxed);
        let next = published.wrapping_add(size.into());
        // A call that was stopped may have left a limit below the position, which is no room.
        (next <= self.limit.load(Relaxed)).then_some((published, next))
    }
}

/// A lane that a call is filling.
pub struct Lane<'a> {
    ends: Ends<'a>,
    /// Number of the RX queue in the whole NIC.
    number: u32,
    /// The receiver's tenancy that the lane's positions belong to.
    tenancy: u32,
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
        let number = call.caller.geometry().rx_queue(to, queue);
        // SAFETY: port and queue were compared with the NIC's numbers of them.
        let ends = unsafe {
            match call.held_lanes().ready(to, number, begun) {
                Some(ends) => ends,
                None if begun => return None,
                None => call.prepare_lane(to, queue)?,
            }
        };
        let mut lane = Lane::resume(call, ends, number);
        if begun {
            let position = ends.state.position.load(Relaxed) & !(RECORD_ALIGN - 1);
            let room = lane
                .room
                .saturating_sub(position.wrapping_sub(lane.position));
            lane.position = position;
            lane.room = room.min(lane.to_end(call));
        }
        Some(lane)
    }

    /// The lane with these ends, to an RX queue of this number in the whole NIC, from where it was
    /// published. Bytes that a call had filled and not published when it was stopped are filled anew.
    #[inline(always)]
    pub fn resume(call: &Call<'a>, ends: Ends<'a>, number: u32) -> Lane<'a> {
        let published = Published::from_word(ends.state.published.load(Relaxed));
        let limit = Published::from_word(ends.state.limit.load(Relaxed));
        let mut lane = Lane {
            ends,
            number,
            tenancy: published.tenancy,
            position: published.position & !(RECORD_ALIGN - 1),
            room: 0,
            frames: 0,
            bytes: 0,
        };
        // A call that was stopped may have left a limit of no tenancy, which is no room.
        if limit.tenancy == published.tenancy {
            let room = limit.position.wrapping_sub(published.position) as i32;
            lane.room = (room.max(0) as u32).min(lane.to_end(call));
        }
        lane
    }

    /// The lane's ends.
    #[inline]
    pub const fn ends(&self) -> Ends<'a> {
        self.ends
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

    /// Number of bytes from the position to the lane's end.
    #[inline(always)]
    fn to_end(&self, call: &Call<'a>) -> u32 {
        call.caller.geometry().lane() - self.offset(call)
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
        let to_end = self.to_end(call);
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
        let to_end = self.to_end(call);
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
        self.ends.count(self.frames.into(), self.bytes);
    }

    /// Publishes the records that were written.
    #[inline(always)]
    pub fn publish(&self, call: &Call<'a>) {
        self.count();
        let (position, tenancy) = (self.position, self.tenancy);
        let word = Published { position, tenancy }.word();
        let state = self.ends.state;
        // In case the call is stopped before the last step: where the position begins anew at 0, the
        // limit of before would be far behind it.
        state.limit.store(0, Release);
        match state.published.load(Relaxed) == word {
            true => self.ends.publish_again(call, word),
            false => {
                self.ends.publish(call, word);
            }
        }
        let position = position.wrapping_add(self.room);
        let limit = Published { position, tenancy }.word();
        state.limit.store(limit, Release);
    }
}
