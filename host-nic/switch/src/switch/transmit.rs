//! Transmit: take frames from a TX queue, one alone, or all that there are.
//!
//! ```text
//!   transmit_one    one frame that is alone in its ring and has a cached route
//!        | else
//!   transmit_few    few frames, that have cached routes
//!        | else, or what is left
//!   transmit_all    by forward_fast, or by forward_slow where more than addresses decides
//! ```

use crate::sync::Ordering::{Relaxed, Release};

use postern_abi::service::{MAX_TX_FRAMES, TX_HOLD, TX_MORE};

use super::call::Call;
use super::lane::Ends;
use super::lanes::Lanes;
use super::progress::{Note, Progress};
use super::records::{Frame, Records};
use crate::credentials::Credentials;
use crate::state::{MODE_POLICY, add};

/// Frames in a ring at most that are few: what [`Call::forward_fast`] saves with frames in a row, it
/// pays for before the first of them.
const FEW: u32 = 8;

impl<'a> Call<'a> {
    /// Takes the only frame in a TX queue's ring and sends it by its cached route. Says whether the
    /// receiver slept. Takes nothing if it is not alone, is no ordinary frame, has no cached route or no
    /// room; says then whether there are more frames, but few.
    /// With one frame a call, the work of a call besides the copy counts most.
    #[inline(always)]
    pub fn transmit_one(&self, queue: u32) -> Result<bool, bool> {
        let caller = self.caller;
        // Take. SAFETY: `serve` compared `queue` with the number of queues, or it is 0, which every
        // port has.
        let (tx, end, ring) = unsafe { self.tx_queue(queue) };
        let next = tx.next.load(Relaxed);
        let offset = next & caller.ring_mask;
        let size = end.wrapping_sub(next);
        // SAFETY: the offset is a multiple of 16 below the ring's size.
        let frame = unsafe { Frame::at(ring.add(offset as usize), caller.span) }.ok_or(false)?;
        if frame.size() as u32 != size {
            return Err(size <= frame.size() as u32 * FEW);
        }
        // A record that ends with the ring is left to `transmit_all`.
        if offset + size > caller.ring_mask {
            return Err(false);
        }
        // Look up. What is known of the lane comes in the order in which it is needed, so that it
        // needs few registers.
        let route = self.cached_route(frame.addresses).ok_or(false)?;
        let state = Ends::linked_state(self, &route.link).ok_or(false)?;
        let (published, next) = state.reserve(size).ok_or(false)?;
        let ends = Ends::linked_with(self, &route.link, state).ok_or(false)?;
        // Emit. SAFETY: `size` bytes may be written at the position; the frame was read just now, and
        // its record lies in the ring.
        unsafe { frame.write_alone(ends.at(self, published as u32)) };
        // Publish.
        ends.count(1, frame.length as u64);
        let slept = ends.publish(self, next);
        add(&self.sender().frames, 1);
        add(&self.sender().bytes, frame.length as u64);
        tx.complete(end);
        self.end();
        Ok(slept)
    }

    /// Takes at most `count` frames that have cached routes, with the fewest steps where they are few.
    /// Returns how many, and whether none is left. It ends at whatever is no ordinary frame, or has no
    /// cached route or no room.
    #[inline(always)]
    fn transmit_few(&self, queue: u32, count: u32) -> (u32, bool) {
        let (span, routes) = (self.caller.span, self.routes());
        let Some((tx, mut records)) = self.tx_records(queue) else {
            return (0, false);
        };
        let mut from = records.stretch();
        let all = from.left;
        let (mut taken, mut bytes) = (0, 0);
        // SAFETY: the stretch was made from the records just now.
        let mut frame = unsafe { from.read(span) };
        while taken < count
            && let Some(first) = frame
            && let Some(route) = self.route_among(routes, first.addresses)
            && let Some(state) = Ends::linked_state(self, &route.link)
            && let Some((mut published, mut next)) = state.reserve(first.size() as u32)
            && let Some(ends) = Ends::linked_with(self, &route.link, state)
        {
            // Frames of one way are published together.
            let mut this = first;
            let before = (taken, bytes);
            loop {
                // SAFETY: the record has room at the position; the frame was read just now, and its
                // record lies in the ring.
                unsafe { this.write_alone(ends.at(self, published as u32)) };
                from.pass(this.size());
                taken += 1;
                bytes += this.length as u64;
                published = next;
                // SAFETY: the stretch is what is left of the one that was made from the records.
                frame = unsafe { from.read(span) };
                match frame {
                    Some(frame) if taken < count && frame.addresses.same_way(first.addresses) => {
                        next = published.wrapping_add(frame.size() as u64);
                        this = frame;
                    }
                    _ => break,
                }
                if next > state.limit.load(Relaxed) {
                    break;
                }
            }
            ends.count((taken - before.0).into(), bytes - before.1);
            ends.publish(self, published);
        }
        if taken != 0 {
            add(&self.sender().frames, taken.into());
            add(&self.sender().bytes, bytes);
            records.advance((all - from.left) as u32);
            tx.complete(records.position());
        }
        (taken, taken != 0 && records.is_empty())
    }

    /// Takes at most `count` frames.
    #[inline(always)]
    fn transmit_all(&self, queue: u32, count: u64) -> u64 {
        let Some((tx, mut records)) = self.tx_records(queue) else {
            self.refuse_tx_position(queue);
            return 0;
        };
        let mut progress = Progress::new(queue, count.min(MAX_TX_FRAMES.into()) as u32);
        if self.needs_addresses_only() {
            self.forward_fast(&mut records, &mut progress);
        } else {
            self.forward_rest(&mut records, &mut progress, false);
        }
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

    /// Takes records by the slow path, all or those up to the next ordinary frame. Returns false if
    /// the call takes no more.
    #[inline(never)]
    pub fn forward_rest(
        &self,
        records: &mut Records,
        progress: &mut Progress,
        to_ordinary: bool,
    ) -> bool {
        let mut lanes = Lanes::default();
        let mut goes_on = true;
        while goes_on && progress.goes_on() {
            goes_on = self.forward_slow(records, progress, &mut lanes);
            // SAFETY: the stretch was made from the records just now.
            if to_ordinary && unsafe { records.stretch().read(self.caller.span) }.is_some() {
                break;
            }
        }
        lanes.publish(self);
        goes_on
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
    pub fn needs_addresses_only(&self) -> bool {
        if cfg!(feature = "without-policy") {
            return true;
        }
        let mode = self.state().mode(self.caller.port());
        mode & MODE_POLICY == 0 && self.caller.geometry().queues() == 1
    }
}

/// Takes frames from a TX queue's ring, at most `count`, as the `flags` of a request say. Returns how
/// many, with [`TX_MORE`] where that was as much as a call may do.
#[inline(always)]
pub fn transmit(
    base: *mut u8,
    caller: &Credentials,
    vcpu: u32,
    queue: u32,
    count: u64,
    flags: u64,
) -> u64 {
    let call = Call {
        base,
        caller,
        vcpu,
        hold: flags & TX_HOLD != 0,
    };
    call.begin();
    let one = match count {
        0 => Err(false),
        _ => call.transmit_one(queue),
    };
    match one {
        Ok(false) => 1,
        // SAFETY: `serve` compared `queue` with the number of queues, or it is 0, which every port has.
        Ok(true) => 1 | unsafe { call.hand_noted_bells(queue) },
        Err(false) => transmit_rest(base, caller, vcpu, queue, count, call.hold),
        Err(true) => match transmit_few(base, caller, vcpu, queue, count, call.hold) {
            (result, true) => result,
            // From here, so that the stack is not that of both.
            (few, false) => {
                let left = count.min(MAX_TX_FRAMES.into()) - few;
                few + transmit_rest(base, caller, vcpu, queue, left, call.hold)
            }
        },
    }
}

/// [`transmit_all`], which is called so that [`Call::transmit_one`] has the registers: it is cold beside
/// that, and else is not.
#[cold]
#[inline(never)]
fn transmit_rest(
    base: *mut u8,
    caller: &Credentials,
    vcpu: u32,
    queue: u32,
    count: u64,
    hold: bool,
) -> u64 {
    transmit_all(base, caller, vcpu, queue, count, hold)
}

/// [`Call::transmit_few`], out of line: cold like [`transmit_rest`]. Returns the request's result and true;
/// the number of frames and false, if the call goes on.
#[cold]
#[inline(never)]
fn transmit_few(
    base: *mut u8,
    caller: &Credentials,
    vcpu: u32,
    queue: u32,
    count: u64,
    hold: bool,
) -> (u64, bool) {
    let call = Call {
        base,
        caller,
        vcpu,
        hold,
    };
    let (few, are_all) = call.transmit_few(queue, count.min(FEW.into()) as u32);
    let few = u64::from(few);
    if !are_all {
        return (few, false);
    }
    call.end();
    // SAFETY: `serve` compared `queue` with the number of queues, or it is 0, which every port has.
    (few | unsafe { call.hand_bells(queue) }, true)
}

/// [`Call::transmit_all`], out of line and from arguments that fit into registers, so that the fast path
/// needs no memory for words that only this uses.
#[inline(never)]
fn transmit_all(
    base: *mut u8,
    caller: &Credentials,
    vcpu: u32,
    queue: u32,
    count: u64,
    hold: bool,
) -> u64 {
    let call = Call {
        base,
        caller,
        vcpu,
        hold,
    };
    let taken = call.transmit_all(queue, count);
    call.end();
    // SAFETY: `serve` compared `queue` with the number of queues, or it is 0, which every port has.
    taken | unsafe { call.hand_bells(queue) }
}
