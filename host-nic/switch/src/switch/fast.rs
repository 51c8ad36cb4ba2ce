//! Ordinary frames on a switch without policy: learn, look up, copy.

use crate::sync::{
    AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
};

use postern_abi::service::{TX_BYTES, TX_MOST};
use postern_abi::window::{LINE_SIZE, PortId, Published, RECORD_ALIGN};

use super::Call;
use super::lane::{Ends, Lane};
use super::records::{Addresses, Frame, Records};
use super::route::{PortSet, Route};
use super::run::{Stop, run};
use crate::credentials::Caller;
use crate::state::{Cause, MODE_POLICY, add};

/// What a call has taken so far.
pub struct Progress {
    /// Frames that may still be taken.
    pub budget: u32,
    /// Frames that were taken.
    pub taken: u32,
    /// Bytes of those that were frames.
    pub bytes: u64,
    /// Bytes that were copied, and bytes that may be before the call ends.
    pub copied: u64,
}

impl<'a> Call<'a> {
    /// Takes at most `count` frames from a TX queue's ring; returns how many.
    #[inline(always)]
    pub fn transmit(&self, queue: u32, count: u64) -> u64 {
        many(self.base, self.caller, self.vcpu, queue, self.hold, count)
    }

    /// Takes a frame that is the only one in the ring; nothing if it is not, or goes elsewhere than
    /// the last ones, or has to be looked at more closely. Then all else that a call does counts most.
    #[inline(always)]
    pub fn single(&self, queue: u32) -> Option<()> {
        let caller = self.caller;
        // SAFETY: `queue` is below the number of queues.
        let (tx, end, ring) = unsafe { self.tx(queue) };
        let next = tx.next.load(Relaxed) & !(RECORD_ALIGN - 1);
        let offset = next & caller.ring_mask;
        let size = end.wrapping_sub(next);
        // SAFETY: the offset lies in the ring.
        let frame = unsafe { Frame::only(ring.add(offset as usize), size, caller.span) }?;
        // One that ends with the ring is left to others.
        if offset + size > caller.ring_mask {
            return None;
        }
        let port = self.recall(frame.addresses.first, frame.addresses.second as u32)?;
        // SAFETY: the port was compared with the number of ports.
        let state = unsafe { Ends::state(self, port, 0) };
        let position = state.published.load(Relaxed) & !(RECORD_ALIGN - 1);
        // A call that was stopped may have left a limit below the position: that is no room, not a lot of it.
        let room = state.limit.load(Relaxed).wrapping_sub(position);
        if room.wrapping_sub(size) > caller.lane_mask {
            return None;
        }
        // SAFETY: as above; so many bytes may be written there, and the record was read just now.
        let ends = unsafe {
            let ends = Ends::with(self, state, port, 0);
            frame.write_alone(ends.at(self, position));
            ends
        };
        let position = position.wrapping_add(size);
        let tenancy = state.tenancy.load(Relaxed);
        add(&state.frames, 1);
        add(&state.bytes, frame.length as u64);
        state.published.store(position, Release);
        let word = Published { position, tenancy }.word();
        ends.published(self).store(word, Release);
        add(&self.context().frames, 1);
        add(&self.context().bytes, frame.length as u64);
        tx.take(end);
        Some(())
    }

    /// Takes at most `count` frames, of which most are thought to go where the last ones went.
    #[inline(always)]
    fn many(&self, queue: u32, count: u64) -> u64 {
        let budget = count.min(TX_MOST.into()) as u32;
        let mut taken = 0;
        if budget != 0
            && self.is_plain()
            && let Some((tx, mut records)) = self.records(queue)
            // SAFETY: the stretch is that of the records.
            && let Some(frame) = unsafe { records.stretch().read(self.caller.span) }
            && let Some(port) =
                self.recall(frame.addresses.first, frame.addresses.second as u32)
        {
            let addresses = frame.addresses;
            let mut lane = Lane::open(self, port, 0, false);
            let mut bytes = 0;
            // The ring and the lane may each end once or twice.
            for _ in 0..4 {
                let (from, to) = (records.stretch(), lane.room(self));
                // SAFETY: stretch and room are the call's.
                let run = unsafe { run(from, to, addresses, self.caller.span, budget - taken) };
                lane.advance(&run);
                records.advance(run.size as u32);
                taken += run.frames;
                bytes += run.bytes;
                if run.stop == Stop::Done || !self.turn(&mut records, &mut lane, addresses) {
                    break;
                }
            }
            lane.publish(self);
            add(&self.context().frames, taken.into());
            add(&self.context().bytes, bytes);
            tx.take(records.position());
            if taken == budget || records.is_empty() {
                return taken.into();
            }
        }
        let left = budget - taken;
        u64::from(taken) + any(self.base, self.caller, self.vcpu, queue, self.hold, left)
    }

    /// At the end of the ring or the lane: whether frames with these addresses can go on.
    #[inline(never)]
    fn turn(&self, records: &mut Records, lane: &mut Lane<'a>, addresses: Addresses) -> bool {
        let padded = records.pass_padding();
        // SAFETY: the stretch is that of the records.
        match unsafe { records.stretch().read(self.caller.span) } {
            Some(frame) if frame.addresses.same_way(addresses) => {
                let fits = frame.size() <= lane.room_left();
                // That there is no room is found out once more, and counted.
                padded && fits || !fits && lane.make_room(self, frame.size()).is_ok()
            }
            _ => false,
        }
    }

    /// The NIC's positions of a TX queue, the guest's, and the ring.
    ///
    /// # Safety
    /// `queue` is below the number of queues.
    #[inline(always)]
    unsafe fn tx(&self, queue: u32) -> (Tx<'a>, u32, *const u8) {
        let geometry = self.caller.geometry();
        let lines = self.caller.window + geometry.tx_producer_offset(queue);
        let rings = self.caller.window + u64::from(self.caller.rings);
        let offset = rings as usize + ((queue as usize) << (geometry.ring_log() & 31));
        // SAFETY: these are the port's.
        unsafe {
            let tx = Tx {
                next: &self.context_of(queue).tx_next,
                consumer: self.word(lines + LINE_SIZE),
            };
            // Acquire: the records below it were written before.
            (tx, self.word(lines).load(Acquire), self.base.add(offset))
        }
    }

    /// What a TX queue's ring holds, or nothing if the guest's position cannot be.
    #[inline(always)]
    fn records(&self, queue: u32) -> Option<(Tx<'a>, Records)> {
        // SAFETY: `serve` compared `queue` with the number of queues.
        let (tx, end, ring) = unsafe { self.tx(queue) };
        let next = tx.next.load(Relaxed) & !(RECORD_ALIGN - 1);
        // SAFETY: the ring has the geometry's size, in memory that `serve`'s caller vouched for, and a lane
        // follows it.
        let records = unsafe { Records::new(ring, self.caller.ring_mask, next, end) }?;
        Some((tx, records))
    }

    /// The general case, of at most `budget` frames.
    fn any(&self, queue: u32, budget: u32) -> u32 {
        let Some((tx, mut records)) = self.records(queue) else {
            self.context().count(Cause::BadIndex, 1);
            // What the guest may have overwritten, so that it can find back.
            // SAFETY: `queue` is below the number of queues.
            let next = unsafe { self.context_of(queue) }.tx_next.load(Relaxed);
            let lines = self.caller.window + self.caller.geometry().tx_consumer_offset(queue);
            // SAFETY: as above.
            unsafe { self.word(lines) }.store(next, Release);
            return 0;
        };
        let mut progress = Progress {
            budget,
            taken: 0,
            bytes: 0,
            copied: 0,
        };
        let mut way = Way {
            // Acquire: what is seen of modes and the table is not older.
            epoch: self.state().epoch.load(Acquire),
            ..Way::default()
        };
        let mut lanes = Lanes::default();
        let plain = self.is_plain();
        // Each frame takes one look, and so does padding; more only where the guest changes a frame between two
        // reads, and it is not to keep the call from ending.
        let mut looks = budget.wrapping_mul(2).wrapping_add(4);
        while progress.budget != 0 && progress.copied < TX_BYTES && looks != 0 {
            looks -= 1;
            let goes_on = plain
                && match self.ordinary(&mut records, &mut progress, &mut lanes, &mut way) {
                    Some(goes_on) => goes_on,
                    None => self.full(&mut records, &mut progress, &mut lanes),
                }
                || !plain && self.full(&mut records, &mut progress, &mut lanes);
            if !goes_on {
                break;
            }
        }
        lanes.publish(self);
        add(&self.context().frames, progress.taken.into());
        add(&self.context().bytes, progress.bytes);
        // Also without frames: a call that was stopped may have left the published position behind.
        tx.take(records.position());
        progress.taken
    }

    /// Takes an ordinary frame; nothing if there is none, false if it is held.
    #[inline]
    fn ordinary(
        &self,
        records: &mut Records,
        progress: &mut Progress,
        lanes: &mut Lanes<'a>,
        way: &mut Way,
    ) -> Option<bool> {
        // SAFETY: the stretch is that of the records.
        let frame = unsafe { records.stretch().read(self.caller.span) }?;
        let addresses = frame.addresses;
        let known = match way.one {
            Some((port, last)) if last.same_way(addresses) => Some(port),
            _ => self.recall(addresses.first, addresses.second as u32),
        };
        let port = match known {
            Some(port) => port,
            None => match self.find(way, addresses) {
                Route::One(port) => {
                    // Once its lane is the present tenant's: frames with a route are not asked again for whom
                    // they are.
                    lanes.open(self, port, 0);
                    self.remember(way.epoch, port, addresses);
                    port
                }
                Route::Many(ports) => {
                    self.flood(records, ports, addresses, progress, lanes);
                    return Some(true);
                }
                Route::Nobody => {
                    self.context().count(Cause::NoDestination, 1);
                    pass(records, &frame, progress);
                    return Some(true);
                }
            },
        };
        way.one = Some((port, addresses));
        let lane = lanes.open(self, port, 0);
        if frame.size() > lane.room_left()
            && let Err(cause) = lane.make_room(self, frame.size())
        {
            if self.hold {
                return Some(false);
            }
            lane.refuse(self, cause);
            pass(records, &frame, progress);
            return Some(true);
        }
        // SAFETY: so many bytes may be written there, and the record was read just now.
        unsafe { frame.write(lane.room(self).to) };
        lane.pass(frame.length as u32);
        progress.copied = progress.copied.wrapping_add(frame.length as u64);
        pass(records, &frame, progress);
        Some(true)
    }

    /// Where a frame goes; learns where it comes from.
    #[inline]
    fn find(&self, way: &mut Way, addresses: Addresses) -> Route {
        if way.source != Some(addresses.source()) {
            self.meet(addresses.source());
            way.source = Some(addresses.source());
            // What was found before may not hold any more.
            way.one = None;
        }
        self.route(addresses)
    }

    /// Whether nothing is to be minded but addresses.
    #[inline]
    fn is_plain(&self) -> bool {
        if cfg!(feature = "without-policy") {
            return true;
        }
        let mode = self.state().mode(self.caller.port());
        mode & MODE_POLICY == 0 && self.caller.geometry().queues() == 1
    }
}

// Each of the parts of a call begins from what fits into registers, so that none needs memory for what
// only the next one uses.

/// [`Call::many`], out of line.
#[inline(never)]
fn many(base: *mut u8, caller: &Caller, vcpu: u32, queue: u32, hold: bool, count: u64) -> u64 {
    let call = Call {
        base,
        caller,
        vcpu,
        hold,
    };
    call.many(queue, count)
}

/// [`Call::any`], out of line.
#[inline(never)]
fn any(base: *mut u8, caller: &Caller, vcpu: u32, queue: u32, hold: bool, budget: u32) -> u64 {
    let call = Call {
        base,
        caller,
        vcpu,
        hold,
    };
    call.any(queue, budget).into()
}

/// The NIC's positions of a TX queue.
struct Tx<'a> {
    next: &'a AtomicU32,
    consumer: &'a AtomicU32,
}

impl Tx<'_> {
    /// Notes up to where records were taken.
    #[inline(always)]
    fn take(&self, position: u32) {
        self.next.store(position, Release);
        self.consumer.store(position, Release);
    }
}

impl Progress {
    /// Adds a frame.
    pub fn pass_one(&mut self, length: u32) {
        self.budget = self.budget.wrapping_sub(1);
        self.taken = self.taken.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add(length.into());
    }
}

/// Passes a frame that goes nowhere.
fn pass(records: &mut Records, frame: &Frame, progress: &mut Progress) {
    records.advance(frame.size() as u32);
    progress.pass_one(frame.length as u32);
}

/// Where the frames of a call come from and go to, as far as it is known.
#[derive(Default)]
struct Way {
    /// The epoch in which the call began.
    epoch: u64,
    /// The last frame's only destination, and its addresses.
    one: Option<(PortId, Addresses)>,
    /// The last source that was learned.
    source: Option<u64>,
}

/// Lanes that a call keeps open.
const OPEN: usize = 16;

/// The lanes that a call fills.
#[derive(Default)]
pub struct Lanes<'a> {
    open: [Option<Lane<'a>>; OPEN],
    /// Whether the call has left any lane for another, and which: numbers of RX queues in the whole NIC.
    left_any: bool,
    left: PortSet,
}

impl<'a> Lanes<'a> {
    /// The lane to an RX queue of a port.
    #[inline]
    pub fn open(&mut self, call: &Call<'a>, port: PortId, queue: u32) -> &mut Lane<'a> {
        let number = call.caller.geometry().context(port, queue);
        let place = &mut self.open[number as usize & (OPEN - 1)];
        let mut begun = false;
        if let Some(lane) = place
            && lane.number() != number
        {
            lane.leave();
            self.left_any = true;
            self.left.add(PortId::from_number(lane.number() as u8));
            begun = self.left.has(PortId::from_number(number as u8));
            *place = None;
        }
        place.get_or_insert_with(|| Lane::open(call, port, queue, begun))
    }

    /// Publishes all of them.
    fn publish(&mut self, call: &Call<'a>) {
        for lane in self.open.iter().flatten() {
            lane.publish(call);
            self.left.remove(PortId::from_number(lane.number() as u8));
        }
        if self.left_any {
            self.publish_left(call);
        }
    }

    #[inline(never)]
    fn publish_left(&mut self, call: &Call<'a>) {
        let queues = call.caller.geometry().queues();
        // There is no division in the kernel's build of this; numbers come in order, so one walk over the ports
        // serves all of them.
        let (mut port, mut first) = (0, 0);
        while let Some(number) = self.left.pop() {
            let number = number.number();
            while number - first >= queues {
                (port, first) = (port + 1, first + queues);
            }
            let queue = number - first;
            Lane::open(call, PortId::from_number(port), queue, true).publish(call);
        }
    }
}
