//! The fast path: ordinary frames whose addresses alone decide where they go.

use postern_abi::service::MAX_TX_BYTES;

use super::call::Call;
use super::lane::{Ends, Lane};
use super::lookup::Route;
use super::progress::Progress;
use super::records::{Addresses, Frame, Records};
use super::run::{Room, run};
use super::sets::PortSet;
use crate::fdb::{GROUP_BIT, Station};
use crate::policy::reserved::{is_forwarded, is_mac_control, is_station, reserved};
use crate::state::Cause;
use crate::sync::Ordering::{Acquire, Relaxed};

/// What a call has found out about the sources of its frames.
struct Learned {
    /// Generation of the forwarding database before the call looked something up there; 0, which is
    /// none, if it has not.
    generation: u64,
    /// The source address that was learned last, first byte lowest.
    source: Option<u64>,
}

/// What is to be done with a frame without a cached route.
enum Found<'a> {
    /// It goes into this lane.
    Lane(Ends<'a>),
    /// It goes to several ports.
    Many(PortSet),
    /// It goes nowhere, which has been counted.
    Nowhere,
    /// It stays in its ring until there is a lane for it.
    Held,
}

impl<'a> Call<'a> {
    /// Takes records and forwards their frames, as many as the call may.
    #[inline]
    pub fn forward_fast(&self, records: &mut Records, progress: &mut Progress) {
        let mut learned = Learned {
            generation: 0,
            source: None,
        };
        while progress.goes_on() && !records.is_empty() {
            // SAFETY: the stretch was made from the records just now.
            let goes_on = match unsafe { records.stretch().read(self.caller.span) } {
                Some(frame) => {
                    self.forward_cached(&frame, records, progress)
                        || self.find_and_send(&mut learned, frame, records, progress)
                }
                None => records.pass_padding() || self.forward_rest(records, progress, true),
            };
            if !goes_on {
                break;
            }
        }
    }

    /// Forwards frames in a row that have cached routes, as long as their lanes have room without a look
    /// at what the receivers have read. `frame` is the first of them. Returns whether there was any.
    #[inline(always)]
    fn forward_cached(
        &self,
        frame: &Frame,
        records: &mut Records,
        progress: &mut Progress,
    ) -> bool {
        let cached = self.cached_route(frame.addresses);
        cached.is_some_and(|route| route.link.state.load(Relaxed) != 0)
            && self.forward_run(frame, records, progress)
    }

    /// [`Call::forward_cached`], where the first frame has a cached route: up to the ring's end.
    #[inline(never)]
    fn forward_run(&self, frame: &Frame, records: &mut Records, progress: &mut Progress) -> bool {
        // Values of their own, which stay in registers.
        let call = *self;
        let span = call.caller.span;
        let routes = call.routes();
        let budget = progress.budget;
        let most = MAX_TX_BYTES.wrapping_sub(progress.copied);
        let mut from = records.stretch();
        let all = from.left;
        let (mut taken, mut copied) = (0u32, 0u64);
        let mut frame = Some(*frame);
        while let Some(first) = frame
            && let Some(route) = call.route_among(routes, first.addresses)
            && let Some(ends) = Ends::linked(&call, &route.link)
            && let Some((published, mut position)) = ends.state.reserve(first.size() as u32)
        {
            // The frame begins the stretch, so that there is one address to keep.
            let first = Frame {
                record: from.record,
                ..first
            };
            // SAFETY: the frame's record may be written at the position; the frame was read just now,
            // and its record lies in the ring.
            unsafe { first.write_alone(ends.at(&call, published as u32)) };
            from.pass(first.size());
            let (mut frames, mut bytes) = (1, first.length as u64);
            // SAFETY: the stretch is what is left of the one that was made from the records.
            frame = unsafe { from.read(span) };
            if let Some(next) = frame
                && next.addresses.same_way(first.addresses)
            {
                let budget = budget - taken - frames;
                if budget != 0 {
                    let left = ends.state.limit.load(Relaxed).wrapping_sub(position);
                    // Whatever the limit says, a run stays in the lane: a record that ends with it
                    // goes alone. What is left of the call's bytes, which the run's first frame may
                    // exceed, is made sure of by bounding the records.
                    let mask = call.caller.lane_mask;
                    let in_lane = u64::from((position as u32 & mask) ^ mask);
                    let bounded = left.min(in_lane).min(most.wrapping_sub(copied));
                    let room = Room {
                        to: ends.at(&call, position as u32),
                        left: bounded as usize,
                    };
                    // SAFETY: the stretch is what is left of the one that was made from the records.
                    // The room lies in the lane, in front of its last 16 bytes.
                    let run = unsafe { run(from, room, first.addresses, span, budget) };
                    position = position.wrapping_add(run.size as u64);
                    frames += run.frames;
                    bytes += run.bytes;
                    from.pass(run.size);
                    // SAFETY: likewise.
                    frame = unsafe { from.read(span) };
                }
            }
            ends.count(frames.into(), bytes);
            ends.publish(&call, position);
            taken += frames;
            copied += bytes;
            if taken == budget || copied >= most {
                break;
            }
        }
        records.advance((all - from.left) as u32);
        progress.budget = budget - taken;
        progress.taken = progress.taken.wrapping_add(taken);
        progress.bytes = progress.bytes.wrapping_add(copied);
        progress.copied = progress.copied.wrapping_add(copied);
        taken != 0
    }

    /// Sends a frame without a cached route, or for which its lane may have no room without a look at
    /// what the receiver has read. Frames in a row with its addresses are sent with it if these have
    /// several destinations. Returns false if it is held.
    #[inline(never)]
    fn find_and_send(
        &self,
        learned: &mut Learned,
        frame: Frame,
        records: &mut Records,
        progress: &mut Progress,
    ) -> bool {
        let found = match self.find_cached(frame.addresses) {
            Some(found) => found,
            None => {
                self.prefetch_next(&frame, records);
                self.find(learned, frame.addresses)
            }
        };
        match found {
            Found::Lane(ends) => {
                let mut lane = Lane::resume(self, ends, 0);
                let has_room = match frame.size() <= lane.room_left() {
                    true => Ok(()),
                    false => lane.make_room(self, frame.size()),
                };
                if has_room.is_ok() {
                    // SAFETY: the lane has room for the frame's record, and the frame was read just now
                    // from a ring that stays readable during the call.
                    unsafe { lane.emit(self, &frame) };
                    lane.pass(frame.length as u32);
                    progress.copied = progress.copied.wrapping_add(frame.length as u64);
                }
                // Padding may have moved the lane's position even where the room is too small: a frame
                // that is as long as the lane waits until the receiver has passed that.
                lane.publish(self);
                match has_room {
                    Err(_) if self.hold => return false,
                    Err(cause) => lane.refuse(self, cause),
                    Ok(()) => {}
                }
                progress.take(records, &frame);
            }
            // SAFETY: they are among those of `other_ports`, which the NIC has.
            Found::Many(ports) => unsafe {
                self.fan_out(records, ports, frame.addresses, progress);
            },
            Found::Nowhere => progress.take(records, &frame),
            Found::Held => return false,
        }
        true
    }

    /// Has the processor fetch the bucket of the forwarding database in which the frame behind this one
    /// is looked up, if it has no cached route either. Nothing is concluded from what is read of it.
    #[inline(always)]
    fn prefetch_next(&self, frame: &Frame, records: &Records) {
        // The accesses are none of the protocol's, whose orderings the models explore.
        if cfg!(loom) {
            return;
        }
        let mut next = records.stretch();
        next.pass(frame.size());
        // SAFETY: the frame was read at the beginning of the stretch, which was made from the records
        // just now, so this is what is left of it.
        if let Some(next) = unsafe { next.read(self.caller.span) } {
            let station = Station::new(0, next.addresses.destination());
            self.state().fdb.prefetch(self.key(), station);
        }
    }

    /// Finds where a frame goes, in the sender's cache of routes.
    #[inline]
    fn find_cached(&self, addresses: Addresses) -> Option<Found<'a>> {
        let route = self.cached_route(addresses)?;
        Some(match Ends::linked(self, &route.link) {
            Some(ends) => Found::Lane(ends),
            None => Found::Many(self.other_ports()),
        })
    }

    /// Finds where a frame goes, and caches that.
    #[inline]
    fn find(&self, learned: &mut Learned, addresses: Addresses) -> Found<'a> {
        if learned.generation == 0 {
            // Acquire: the call sees modes and a forwarding database that are not older than this.
            learned.generation = self.state().generation.load(Acquire);
            // A policy that the call did not see when it began: what it finds out is for itself alone.
            if !self.needs_addresses_only() {
                learned.generation = 0;
            }
        }
        let port = match self.learn_and_look_up(learned, addresses) {
            Route::One(port) => port,
            Route::Many(ports) => {
                self.cache_route(learned.generation, addresses, None);
                return Found::Many(ports);
            }
            Route::Nobody => {
                self.sender().count(Cause::NoDestination, 1);
                return Found::Nowhere;
            }
            Route::Refused => return Found::Nowhere,
        };
        // The lane is opened first, so that it is the present tenant's: frames with a cached route
        // are sent without another look at the tenancy.
        match Lane::open(self, port, 0, false) {
            Some(lane) => {
                let ends = lane.ends();
                self.cache_route(learned.generation, addresses, Some(&ends));
                Found::Lane(ends)
            }
            None if self.hold => Found::Held,
            None => {
                self.sender().count(Cause::NoLane, 1);
                Found::Nowhere
            }
        }
    }

    /// Learns which port a frame's source is behind, and looks up which ports the frame goes to.
    #[inline]
    fn learn_and_look_up(&self, learned: &mut Learned, addresses: Addresses) -> Route {
        let (source, destination) = (addresses.source(), addresses.destination());
        let is_group = destination & GROUP_BIT != 0;
        if is_group && reserved(destination).is_some() {
            return self.look_up_reserved(learned, source, destination);
        }
        if !self.learn_once(learned, source) {
            return self.refused(Cause::BadSource);
        }
        match is_group {
            true => self.flood_route(),
            false => self.look_up(destination),
        }
    }

    /// [`Call::learn_and_look_up`] for frames to a reserved group address. Routes of those that are
    /// filtered are never cached.
    #[cold]
    #[inline(never)]
    fn look_up_reserved(&self, learned: &mut Learned, source: u64, destination: u64) -> Route {
        let mode = self.state().mode(self.caller.port());
        if is_mac_control(destination) {
            return self.refused(Cause::Reserved);
        }
        if !self.learn_once(learned, source) {
            return self.refused(Cause::BadSource);
        }
        match is_forwarded(destination, mode) {
            true => self.flood_route(),
            false => self.refused(Cause::Reserved),
        }
    }

    /// Learns a frame's source, if it is not that of the last frame. Returns false if it is no
    /// station's.
    #[inline(always)]
    fn learn_once(&self, learned: &mut Learned, source: u64) -> bool {
        if learned.source != Some(source) {
            if !is_station(source) {
                return false;
            }
            self.learn_source(source);
            learned.source = Some(source);
        }
        true
    }

    /// Counts a frame that is refused.
    #[cold]
    #[inline(never)]
    fn refused(&self, cause: Cause) -> Route {
        self.sender().count(cause, 1);
        Route::Refused
    }
}
