//! The switch: takes frames from a caller's TX ring and copies them into its lanes at their
//! destinations.
//!
//! A call works in batches of at most [`BATCH`] frames, in two passes. The *lookup pass* reads each
//! descriptor and header once, learns the source, finds the destinations, and puts the frame on a
//! list for each destination that has room. The *delivery pass* goes from destination to
//! destination, copies what is on its list, in order, and publishes all of it with one store. So
//! frames of one sender stay in order at every receiver, broadcast and unicast alike.
//!
//! # What holds at every instruction
//!
//! A guest can stop its own call between any two instructions, for ever, and its other vCPUs can make
//! calls meanwhile. Therefore:
//!
//! * There is no lock and no reservation that another port could see. A sender alone writes the words
//!   that describe its lanes; what it had filled and not published, its next call fills again.
//! * In a lane, the NIC's own producer index is stored before the published one: a slot that a receiver
//!   may read is never filled a second time. Frames between the two become visible with the next ones.
//! * On the TX side, the NIC's own consumer index is stored after the deliveries: a call that
//!   was stopped leads to frames sent twice, never to frames lost.
//!
//! # What is believed
//!
//! Memory safety depends on the [`Caller`] word and on the size of the memory
//! alone, not on any content of state or windows. Every loop is bounded by the number of slots, by
//! [`BATCH`], by the number of ports or by the longest frame.

use core::mem::MaybeUninit;
use core::sync::atomic::Ordering::{Relaxed, Release};

use postern_abi::service::{ERR_BAD_REQUEST, OP_NOP, OP_TX, TX_HOLD};
use postern_abi::window::{Geometry, MAX_PORTS, PortId, Ring};

use crate::caller::{Caller, window_offset};
use crate::frame::Frame;
use crate::ring::RingMemory;
use crate::state::{Cause, LaneState, SenderState, State, add};
use crate::table::{GROUP_BIT, Learned};

/// Most frames of one lookup pass: as many as a list has bits.
pub const BATCH: u32 = u64::BITS;

/// A NIC's memory with a known geometry.
#[derive(Clone, Copy)]
pub struct Switch<'a> {
    base: *mut u8,
    geometry: Geometry,
    state: &'a State,
}

/// Serves one request: what each place's entry does.
///
/// # Safety
/// Whenever `caller` decodes to a [`Caller`], `base` must be aligned to a page and valid for reads and
/// writes of its [`Caller::memory_size`], and all of that memory may only be accessed atomically by
/// this program during the call. `caller` must come from the host, never from the guest.
#[inline(always)]
pub unsafe fn serve(base: *mut u8, caller: u64, op: u64, a: u64, b: u64) -> u64 {
    if op == OP_NOP {
        return 0;
    }
    // SAFETY: the caller's promise is the same.
    unsafe { serve_request(base, caller, op, a, b) }
}

/// All but [`OP_NOP`], out of line so that the empty request costs nothing but itself.
#[inline(never)]
unsafe fn serve_request(base: *mut u8, caller: u64, op: u64, a: u64, b: u64) -> u64 {
    let Some(caller) = Caller::decode(caller) else {
        return ERR_BAD_REQUEST;
    };
    // SAFETY: `serve`'s caller vouches for the memory size of every valid word.
    let switch = unsafe { Switch::from_base(base, caller.geometry) };
    switch.call(caller.port, caller.tenancy, op, a, b)
}

impl<'a> Switch<'a> {
    /// The switch whose memory starts at an address.
    ///
    /// # Safety
    /// `base` must be aligned to a page and valid for reads and writes of
    /// [`memory_size(geometry)`](crate::caller::memory_size) bytes for `'a`, and all of that memory
    /// may only be accessed atomically by this program meanwhile.
    #[inline]
    pub const unsafe fn from_base(base: *mut u8, geometry: Geometry) -> Switch<'a> {
        Switch {
            base,
            geometry,
            // SAFETY: the memory starts with the state; the caller vouches for it.
            state: unsafe { State::at(base) },
        }
    }

    /// The switch state.
    pub const fn state(&self) -> &'a State {
        self.state
    }

    /// Ports and slots.
    pub const fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// First byte of a port's window, or nothing if the port is not one of this NIC's.
    #[inline]
    pub fn window(&self, port: PortId) -> Option<*mut u8> {
        if port.number() >= self.geometry.ports() {
            return None;
        }
        let offset = window_offset(self.geometry, port) as usize;
        // SAFETY: the port is one of the geometry's, so its window lies in the memory that
        // `from_base`'s caller vouched for.
        Some(unsafe { self.base.add(offset) })
    }

    /// What a port sends, or nothing if the port is not one of this NIC's.
    #[inline]
    pub fn tx(&self, port: PortId) -> Option<RingMemory> {
        let window = self.window(port)?;
        // SAFETY: the window lies in memory that `from_base`'s caller vouched for.
        Some(unsafe { RingMemory::new(window, self.geometry, Ring::TX) })
    }

    /// The lane from one port to another, or nothing if one of them is not this NIC's.
    #[inline]
    pub fn lane(&self, from: PortId, to: PortId) -> Option<RingMemory> {
        if from.number() >= self.geometry.ports() {
            return None;
        }
        let window = self.window(to)?;
        // SAFETY: the window lies in memory that `from_base`'s caller vouched for, and the lane is
        // one of the geometry's.
        Some(unsafe { RingMemory::new(window, self.geometry, Ring::lane(from)) })
    }

    /// Serves a request of a port's tenant: see [`postern_abi::service`].
    #[inline]
    pub fn call(&self, port: PortId, tenancy: u32, op: u64, a: u64, b: u64) -> u64 {
        if op == OP_NOP {
            return 0;
        }
        if op != OP_TX || b & !TX_HOLD != 0 || tenancy == 0 {
            return ERR_BAD_REQUEST;
        }
        if self.state.tenancy(port) != tenancy {
            return ERR_BAD_REQUEST;
        }
        match self.tx(port) {
            Some(tx) => u64::from(self.transmit(port, tx, a, b & TX_HOLD != 0)),
            None => ERR_BAD_REQUEST,
        }
    }

    /// Takes up to `count` frames from the TX ring; returns how many.
    fn transmit(&self, port: PortId, tx: RingMemory, count: u64, hold: bool) -> u32 {
        #[cfg(feature = "attack-lock")]
        let _held = self.state.lock();
        let sender = self.state.sender(port);
        let mut next = sender.tx_next.load(Relaxed);
        let Some(filled) = self.geometry.filled(tx.producer(), next) else {
            sender.count(Cause::BadIndex, 1);
            // What the guest may have overwritten, so that it can find back.
            tx.publish_consumer(next);
            return 0;
        };
        let budget = u64::from(filled).min(count) as u32;
        if budget == 0 {
            // A call that was stopped may have left the published index behind.
            tx.publish_consumer(next);
            return 0;
        }
        let mut taken = 0;
        while taken < budget {
            let want = (budget - taken).min(BATCH);
            let mut batch = Batch::new();
            let got = self.look_up(&mut batch, port, sender, tx, next, want, hold);
            self.deliver(&batch, port, sender, tx, next);
            next = next.wrapping_add(got);
            taken += got;
            sender.tx_next.store(next, Release);
            tx.publish_consumer(next);
            if got < want {
                break;
            }
        }
        taken
    }

    /// The lookup pass: fills `batch` from the frames `next` and following, and returns how many of
    /// them are dealt with once the batch is delivered.
    #[expect(
        clippy::too_many_arguments,
        reason = "all of them are the call's context"
    )]
    fn look_up(
        &self,
        batch: &mut Batch,
        port: PortId,
        sender: &SenderState,
        tx: RingMemory,
        next: u32,
        want: u32,
        hold: bool,
    ) -> u32 {
        let everybody = self.state.attached.load(Relaxed)
            & ((1 << self.geometry.ports()) - 1)
            & !(1 << port.number());
        let key = [
            self.state.key[0].load(Relaxed),
            self.state.key[1].load(Relaxed),
        ];
        // Most neighbours in a batch go the same way: one lookup serves them.
        let mut known: Option<(u64, u64, u64)> = None;
        let mut bytes = 0u64;
        let mut done = 0;
        while done < want {
            let index = next.wrapping_add(done);
            let frame = match Frame::read(tx.descriptor(index), tx.buffer(index)) {
                Ok(frame) => frame,
                Err(cause) => {
                    sender.count(cause, 1);
                    done += 1;
                    continue;
                }
            };
            batch.set(done, frame);
            let (destination, source) = (frame.destination(), frame.source());
            let targets = match known {
                Some((d, s, targets)) if d == destination && s == source => targets,
                _ => {
                    self.learn(sender, key, source, port);
                    let targets = self.targets(key, destination, everybody);
                    known = Some((destination, source, targets));
                    targets
                }
            };
            if targets == 0 {
                sender.count(Cause::NoDestination, 1);
            }
            let only_one = targets & targets.wrapping_sub(1) == 0;
            let mut left = targets;
            while left != 0 {
                let Some(to) = PortId::new(left.trailing_zeros()) else {
                    break;
                };
                left &= left - 1;
                let room = self.room(batch, port, sender, to, want - done);
                if room.left > 0 {
                    room.left -= 1;
                    room.list |= 1 << (done & (BATCH - 1));
                } else if hold && only_one {
                    add(&sender.frames, u64::from(done));
                    add(&sender.bytes, bytes);
                    return done;
                } else {
                    sender.count(room.reason, 1);
                    add(&sender.lane(to).drops, 1);
                }
            }
            bytes += u64::from(frame.length());
            done += 1;
        }
        add(&sender.frames, u64::from(done));
        add(&sender.bytes, bytes);
        done
    }

    /// Learns where a station is, unless the port is one that does not tell. Group addresses are no
    /// stations.
    #[inline]
    fn learn(&self, sender: &SenderState, key: [u64; 2], source: u64, port: PortId) {
        let unlearned = self.state.unlearned.load(Relaxed) & 1 << port.number();
        if source & GROUP_BIT != 0 || unlearned != 0 {
            return;
        }
        match self.state.table.learn(key, source, port) {
            Learned::Known | Learned::Raced => {}
            Learned::New => add(&sender.learned, 1),
            Learned::Moved => add(&sender.moved, 1),
        }
    }

    /// The ports that a frame goes to, of those that it may go to.
    #[inline]
    fn targets(&self, key: [u64; 2], destination: u64, everybody: u64) -> u64 {
        if destination & GROUP_BIT != 0 {
            return everybody;
        }
        match self.state.table.find(key, destination) {
            Some(port) => everybody & 1 << (port & (MAX_PORTS - 1)),
            None => everybody,
        }
    }

    /// What a batch has for a destination; looks at its lane the first time.
    #[inline]
    fn room<'b>(
        &self,
        batch: &'b mut Batch,
        port: PortId,
        sender: &SenderState,
        to: PortId,
        want: u32,
    ) -> &'b mut Room {
        let bit = 1 << to.number();
        if batch.met & bit == 0 {
            batch.rooms[to.index()].write(self.measure(port, sender.lane(to), to, want));
            batch.met |= bit;
        }
        // SAFETY: the bit says that the element was written.
        unsafe { batch.rooms[to.index()].assume_init_mut() }
    }

    /// Free slots of a lane, at least `want` of them if there are so many. The receiver's index is
    /// only read when the last valid one does not promise enough.
    fn measure(&self, port: PortId, lane: &LaneState, to: PortId, want: u32) -> Room {
        let mut room = Room {
            tenancy: self.state.tenancy(to),
            left: 0,
            reason: Cause::Full,
            list: 0,
        };
        let producer = lane.producer.load(Relaxed);
        if let Some(filled) = self.geometry.filled(producer, lane.consumer.load(Relaxed)) {
            room.left = self.geometry.slots() - filled;
        }
        if room.left < want {
            let Some(ring) = self.lane(port, to) else {
                return room;
            };
            let consumer = ring.consumer();
            match self.geometry.filled(producer, consumer) {
                Some(filled) => {
                    room.left = self.geometry.slots() - filled;
                    lane.consumer.store(consumer, Relaxed);
                }
                None => {
                    room.left = 0;
                    room.reason = Cause::BadReceiver;
                }
            }
        }
        room
    }

    /// The delivery pass.
    fn deliver(
        &self,
        batch: &Batch,
        port: PortId,
        sender: &SenderState,
        tx: RingMemory,
        next: u32,
    ) {
        let mut left = batch.met;
        while left != 0 {
            let Some(to) = PortId::new(left.trailing_zeros()) else {
                break;
            };
            left &= left - 1;
            // SAFETY: the bit of `met` says that the element was written.
            let room = unsafe { batch.rooms[to.index()].assume_init_ref() };
            if room.list != 0
                && let Some(ring) = self.lane(port, to)
            {
                self.fill(batch, room, sender, ring, tx, next, to);
            }
        }
    }

    /// Copies a destination's list into its lane and publishes it.
    #[expect(
        clippy::too_many_arguments,
        reason = "all of them are the call's context"
    )]
    #[inline]
    fn fill(
        &self,
        batch: &Batch,
        room: &Room,
        sender: &SenderState,
        ring: RingMemory,
        tx: RingMemory,
        next: u32,
        to: PortId,
    ) {
        let lane = sender.lane(to);
        let first = lane.producer.load(Relaxed);
        let mut producer = first;
        let mut list = room.list;
        while list != 0 {
            let position = list.trailing_zeros();
            list &= list - 1;
            let frame = batch.get(position);
            let from = tx.buffer(next.wrapping_add(position));
            frame.copy(from, ring.buffer(producer));
            ring.set_descriptor(producer, frame.length());
            producer = producer.wrapping_add(1);
        }
        let frames = u64::from(producer.wrapping_sub(first));
        if self.state.tenancy(to) != room.tenancy {
            // What was filled is not published: it was meant for the former tenant.
            sender.count(Cause::Detached, frames);
            return;
        }
        lane.producer.store(producer, Release);
        ring.publish_producer(producer);
        add(&lane.frames, frames);
    }
}

/// What the lookup pass found, on the stack of the call.
struct Batch {
    /// Destinations whose lane was looked at: the valid elements of `rooms`.
    met: u64,
    rooms: [MaybeUninit<Room>; MAX_PORTS as usize],
    /// Valid where some list has the bit.
    frames: [MaybeUninit<Frame>; BATCH as usize],
}

/// A destination in a batch.
#[derive(Clone, Copy)]
struct Room {
    /// Bit `i`: frame `i` of the batch goes there.
    list: u64,
    /// Slots that are still free.
    left: u32,
    /// The tenant at the lookup.
    tenancy: u32,
    /// Why there are no (more) free slots.
    reason: Cause,
}

impl Batch {
    #[inline]
    fn new() -> Batch {
        Batch {
            met: 0,
            rooms: [const { MaybeUninit::uninit() }; MAX_PORTS as usize],
            frames: [const { MaybeUninit::uninit() }; BATCH as usize],
        }
    }

    #[inline]
    fn set(&mut self, position: u32, frame: Frame) {
        self.frames[position as usize & (BATCH as usize - 1)].write(frame);
    }

    #[inline]
    fn get(&self, position: u32) -> Frame {
        // SAFETY: the lookup pass writes a frame for every position that it puts on a list.
        unsafe { self.frames[position as usize & (BATCH as usize - 1)].assume_init_read() }
    }
}
