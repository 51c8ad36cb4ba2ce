//! The fast path: ordinary frames whose addresses alone decide where they go.

use postern_abi::window::PortId;

use super::call::Call;
use super::lanes::Lanes;
use super::lookup::Route;
use super::progress::Progress;
use super::records::{Addresses, Records};
use crate::fdb::GROUP_BIT;
use crate::policy::reserved::{is_forwarded, is_mac_control, is_station, reserved};
use crate::state::Cause;

/// The source and the destination of the frames of a call, as far as the call has found them out.
pub struct CallRoute {
    /// Generation of the forwarding database in which the call began.
    generation: u64,
    /// The only destination of the last frame, and the frame's addresses.
    last: Option<(PortId, Addresses)>,
    /// The source address that was learned last, first byte lowest.
    source: Option<u64>,
}

impl CallRoute {
    /// The route of a call that has begun in this generation and found out nothing yet.
    pub const fn new(generation: u64) -> CallRoute {
        CallRoute {
            generation,
            last: None,
            source: None,
        }
    }
}

impl<'a> Call<'a> {
    /// Takes an ordinary frame and forwards it. Returns nothing if the next record holds no
    /// ordinary frame, false if the frame is held, true else.
    #[inline]
    pub fn forward_fast(
        &self,
        records: &mut Records,
        progress: &mut Progress,
        lanes: &mut Lanes<'a>,
        route: &mut CallRoute,
    ) -> Option<bool> {
        // SAFETY: the stretch was made from the records just now.
        let frame = unsafe { records.stretch().read(self.caller.span) }?;
        let addresses = frame.addresses;
        let known = match route.last {
            Some((port, last)) if last.same_way(addresses) => Some(port),
            _ => self
                .look_up_cached(addresses.first, addresses.second as u32)
                .map(|(port, _)| port),
        };
        let port = match known {
            Some(port) => port,
            None => match self.learn_and_look_up(route, addresses) {
                Route::One(port) => {
                    // The lane is opened first, so that it is the present tenant's: frames with a
                    // cached route are sent without another look at the tenancy.
                    if let Ok(lane) = lanes.open(self, port, 0) {
                        self.cache_route(route.generation, port, lane.lane(), addresses);
                    }
                    port
                }
                Route::Many(ports) => {
                    self.fan_out(records, ports, addresses, progress, lanes);
                    return Some(true);
                }
                Route::Nobody => {
                    self.sender().count(Cause::NoDestination, 1);
                    progress.take(records, &frame);
                    return Some(true);
                }
                Route::Refused => {
                    progress.take(records, &frame);
                    return Some(true);
                }
            },
        };
        route.last = Some((port, addresses));
        let lane = match lanes.open(self, port, 0) {
            Ok(lane) => lane,
            Err(_) if self.hold => return Some(false),
            Err(cause) => {
                self.sender().count(cause, 1);
                progress.take(records, &frame);
                return Some(true);
            }
        };
        if frame.size() > lane.room_left()
            && let Err(cause) = lane.make_room(self, frame.size())
        {
            if self.hold {
                return Some(false);
            }
            lane.refuse(self, cause);
            progress.take(records, &frame);
            return Some(true);
        }
        // SAFETY: the lane has room for the frame's record, and the frame was read just now from a
        // ring that stays readable during the call.
        unsafe { lane.emit(self, &frame) };
        lane.pass(frame.length as u32);
        progress.copied = progress.copied.wrapping_add(frame.length as u64);
        progress.take(records, &frame);
        Some(true)
    }

    /// Learns which port a frame's source is behind, and looks up which ports the frame goes to.
    #[inline]
    fn learn_and_look_up(&self, route: &mut CallRoute, addresses: Addresses) -> Route {
        let (source, destination) = (addresses.source(), addresses.destination());
        let is_group = destination & GROUP_BIT != 0;
        if is_group && reserved(destination).is_some() {
            return self.look_up_reserved(route, source, destination);
        }
        if !self.learn_once(route, source) {
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
    fn look_up_reserved(&self, route: &mut CallRoute, source: u64, destination: u64) -> Route {
        let mode = self.state().mode(self.caller.port());
        if is_mac_control(destination) {
            return self.refused(Cause::Reserved);
        }
        if !self.learn_once(route, source) {
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
    fn learn_once(&self, route: &mut CallRoute, source: u64) -> bool {
        if route.source != Some(source) {
            if !is_station(source) {
                return false;
            }
            self.learn_source(source);
            route.source = Some(source);
            // The route of the last frame may not hold any more.
            route.last = None;
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
