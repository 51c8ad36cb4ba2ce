//! Transmit: take frames from a TX queue, one alone, a run of them with one destination, or a
//! mixture.
//!
//! ```text
//!   transmit_one    one frame that is alone in its ring and has a cached route
//!        | else
//!   transmit_run    the frames that have the first one's addresses, a cached route: in one loop
//!        | other frames follow
//!   transmit_each   frame by frame: forward_fast, or forward_slow where more than addresses
//!                   decides
//! ```

use crate::sync::Ordering::{Acquire, Relaxed, Release};

use postern_abi::service::{MAX_TX_BYTES, MAX_TX_FRAMES, TX_MORE};
use postern_abi::window::{Published, RECORD_ALIGN};

use super::call::Call;
use super::fast::CallRoute;
use super::lane::{Ends, Lane};
use super::lanes::Lanes;
use super::progress::{Note, Progress};
use super::records::{Addresses, Frame, Records};
use super::run::{Stop, run};
use crate::credentials::Credentials;
use crate::state::{MODE_POLICY, add};

impl<'a> Call<'a> {
    /// Takes at most `count` frames from a TX queue's ring. Returns how many, with [`TX_MORE`] where
    /// that was as much as a call may do.
    #[inline(always)]
    pub fn transmit(&self, queue: u32, count: u64) -> u64 {
        transmit_run(self.base, self.caller, self.vcpu, queue, self.hold, count)
    }

    /// Takes the only frame in a TX queue's ring and sends it by its cached route. Returns nothing,
    /// and takes nothing, if it is not alone, is no ordinary frame, has no cached route or no room.
    /// With one frame a call, the work of a call besides the copy counts most.
    #[inline(always)]
    pub fn transmit_one(&self, queue: u32) -> Option<()> {
        let caller = self.caller;
        // Take. SAFETY: `serve` compared `queue` with the number of queues, or it is 0, which every
        // port has.
        let (tx, end, ring) = unsafe { self.tx_queue(queue) };
        let next = tx.next.load(Relaxed) & !(RECORD_ALIGN - 1);
        let offset = next & caller.ring_mask;
        let size = end.wrapping_sub(next);
        // SAFETY: the offset is a multiple of 16 below the ring's size.
        let frame = unsafe { Frame::only(ring.add(offset as usize), size, caller.span) }?;
        // A record that ends with the ring is left to `transmit_run`.
        if offset + size > caller.ring_mask {
            return None;
        }
        // Look up.
        let (first, second) = (frame.addresses.first, frame.addresses.second as u32);
        let (port, lane) = self.look_up_cached(first, second)?;
        // Emit.
        // SAFETY: `look_up_cached` compared port and lane with the numbers of them. Routes are cached
        // where each port has one queue; elsewhere the number of a port is that of some queue, too.
        let state = unsafe { Ends::state(self, port.number(), lane) };
        let position = state.published.load(Relaxed) & !(RECORD_ALIGN - 1);
        // A call that was stopped may have left a limit below the position, which is no room, and
        // not much of it.
        let room = state.limit.load(Relaxed).wrapping_sub(position);
        if room.wrapping_sub(size) > caller.lane_mask {
            return None;
        }
        // SAFETY: `look_up_cached` compared port and lane with the numbers of them, and every port has
        // a queue 0. `size` bytes may be written at the position, a multiple of 16; the frame was
        // read just now, and its record lies in the ring.
        let ends = unsafe {
            let ends = Ends::with(self, state, port, 0, lane);
            frame.write_alone(ends.at(self, position));
            ends
        };
        // Publish.
        let position = position.wrapping_add(size);
        let tenancy = state.tenancy.load(Relaxed);
        add(&state.frames, 1);
        add(&state.bytes, frame.length as u64);
        state.published.store(position, Release);
        ends.publish(self, Published { position, tenancy });
        add(&self.sender().frames, 1);
        add(&self.sender().bytes, frame.length as u64);
        tx.complete(end);
        Some(())
    }

    /// Takes at most `count` frames: first those that go where the first one goes, by its cached
    /// route, then the others, frame by frame.
    #[inline(always)]
    fn transmit_run(&self, queue: u32, count: u64) -> u64 {
        let budget = count.min(MAX_TX_FRAMES.into()) as u32;
        let (mut taken, mut bytes) = (0, 0);
        let mut left = MAX_TX_BYTES as usize;
        if budget != 0
            && self.needs_addresses_only()
            && let Some((tx, mut records)) = self.tx_records(queue)
            // SAFETY: the stretch was made from the records just now.
            && let Some(frame) = unsafe { records.stretch().read(self.caller.span) }
            && let Some((port, _)) =
                self.look_up_cached(frame.addresses.first, frame.addresses.second as u32)
            && let Some(mut lane) = Lane::open(self, port, 0, false)
        {
            let addresses = frame.addresses;
            // The ring and the lane may each end once or twice.
            for _ in 0..4 {
                let (from, mut to) = (records.stretch(), lane.room(self));
                // What is left of the call's bytes is made sure of by bounding the records.
                to.left = to.left.min(left);
                // SAFETY: the stretch was made from the records, and the room from the lane.
                let run = unsafe { run(from, to, addresses, self.caller.span, budget - taken) };
                lane.advance(&run);
                records.advance(run.size as u32);
                left -= run.size;
                taken += run.frames;
                bytes += run.bytes;
                if run.stop == Stop::Done || !self.wrap(&mut records, &mut lane, addresses) {
                    break;
                }
            }
            lane.publish(self);
            add(&self.sender().frames, taken.into());
            add(&self.sender().bytes, bytes);
            tx.complete(records.position());
            if taken == budget || records.is_empty() {
                return taken.into();
            }
        }
        // The frames that may still be taken, and the bytes that were copied.
        let left = u64::from(budget - taken) | bytes << 32;
        u64::from(taken) + transmit_each(self.base, self.caller, self.vcpu, queue, self.hold, left)
    }

    /// Goes on at the beginning of the ring or the lane where one of them has ended. Returns
    /// whether more frames with these addresses follow and have room.
    #[inline(never)]
    fn wrap(&self, records: &mut Records, lane: &mut Lane<'a>, addresses: Addresses) -> bool {
        let padded = records.pass_padding();
        // SAFETY: the stretch was made from the records just now.
        match unsafe { records.stretch().read(self.caller.span) } {
            Some(frame) if frame.addresses.same_way(addresses) => {
                let fits = frame.size() <= lane.room_left();
                // Where there is no room, `transmit_each` finds that out once more, and counts it.
                padded && fits || !fits && lane.make_room(self, frame.size()).is_ok()
            }
            _ => false,
        }
    }

    /// Takes at most `budget` frames, each by itself, after a run of `copied` bytes. Returns how
    /// many, with [`TX_MORE`] where that was as much as a call may do.
    fn transmit_each(&self, queue: u32, budget: u32, copied: u32) -> u64 {
        let Some((tx, mut records)) = self.tx_records(queue) else {
            self.refuse_tx_position(queue);
            return 0;
        };
        let mut progress = Progress::new(queue, budget, copied.into());
        // Acquire: the call sees modes and a forwarding database that are not older than this.
        let mut route = CallRoute::new(self.state().generation.load(Acquire));
        let mut lanes = Lanes::default();
        let fast = self.needs_addresses_only();
        // Each frame takes one look, and so does padding. More looks are needed only where the
        // guest changes a frame between two reads, which must not keep the call from ending.
        let mut looks = budget.wrapping_mul(2).wrapping_add(4);
        while progress.budget != 0 && !progress.is_spent() && looks != 0 {
            looks -= 1;
            let goes_on = fast
                && match self.forward_fast(&mut records, &mut progress, &mut lanes, &mut route) {
                    Some(goes_on) => goes_on,
                    None => self.forward_slow(&mut records, &mut progress, &mut lanes),
                }
                || !fast && self.forward_slow(&mut records, &mut progress, &mut lanes);
            if !goes_on {
                break;
            }
        }
        lanes.publish(self);
        add(&self.sender().frames, progress.taken.into());
        add(&self.sender().bytes, progress.bytes);
        if !matches!(progress.note, Note::Nothing) {
            self.note_pause(&progress, records.position());
        }
        // This is done without frames too: a call that was stopped may have left the position that
        // the guest sees behind.
        tx.complete(records.position());
        let more = match progress.is_spent() && !records.is_empty() {
            true => TX_MORE,
            false => 0,
        };
        u64::from(progress.taken) | more
    }

    /// Notes how far the frame at the head of the queue came, or that the one that was paused is
    /// gone. That comes after the copies were published: a call that is stopped before leads to
    /// copies sent twice, never to copies lost.
    #[cold]
    #[inline(never)]
    fn note_pause(&self, progress: &Progress, position: u32) {
        // SAFETY: `serve` compared the number of the queue with that of queues, or it is 0.
        let queue = unsafe { self.sender_of(progress.queue) };
        // The word is void while its parts belong to different frames, in case the call is stopped
        // here.
        queue.paused.store(0, Relaxed);
        if let Note::Paused(length, paused) = progress.note {
            for (to, word) in queue.paused_mirrors.iter().zip(paused.mirrors.words()) {
                to.store(word, Release);
            }
            queue.paused.store(paused.word(position, length), Release);
        }
    }

    /// Whether the addresses of the port's frames alone decide where they go: no policy applies,
    /// and each port has one RX queue.
    #[inline]
    fn needs_addresses_only(&self) -> bool {
        if cfg!(feature = "without-policy") {
            return true;
        }
        let mode = self.state().mode(self.caller.port());
        mode & MODE_POLICY == 0 && self.caller.geometry().queues() == 1
    }
}

// Each part of a call begins from arguments that fit into registers, so that none needs memory for
// words that only the next part uses.

/// [`Call::transmit_run`], out of line.
#[inline(never)]
fn transmit_run(
    base: *mut u8,
    caller: &Credentials,
    vcpu: u32,
    queue: u32,
    hold: bool,
    count: u64,
) -> u64 {
    let call = Call {
        base,
        caller,
        vcpu,
        hold,
    };
    call.transmit_run(queue, count)
}

/// [`Call::transmit_each`], out of line. `left` is its `budget` in the lower half, and `copied` in the
/// upper half.
#[inline(never)]
fn transmit_each(
    base: *mut u8,
    caller: &Credentials,
    vcpu: u32,
    queue: u32,
    hold: bool,
    left: u64,
) -> u64 {
    let call = Call {
        base,
        caller,
        vcpu,
        hold,
    };
    call.transmit_each(queue, left as u32, (left >> 32) as u32)
}
