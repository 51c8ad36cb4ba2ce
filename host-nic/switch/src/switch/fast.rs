//! The fast path: ordinary frames on a switch where no policy has to be minded.

use postern_abi::window::PortId;

use super::call::Call;
use super::lanes::Lanes;
use super::lookup::Route;
use super::progress::Progress;
use super::records::{Addresses, Records};
use crate::state::Cause;

/// Where the frames of a call come from and go to, as far as the call has found out.
pub struct CallRoute {
    /// Generation of the forwarding database in which the call began.
    generation: u64,
    /// The last frame's only destination, and its addresses.
    last: Option<(PortId, Addresses)>,
    /// The source address that was learned last.
    source: Option<u64>,
}

impl CallRoute {
    /// Nothing is known in the call yet, which began in that generation.
    pub const fn new(generation: u64) -> CallRoute {
        CallRoute {
            generation,
            last: None,
            source: None,
        }
    }
}

impl<'a> Call<'a> {
    /// Takes an ordinary frame and forwards it; nothing if there is none, false if it is held.
    #[inline]
    pub fn forward_fast(
        &self,
        records: &mut Records,
        progress: &mut Progress,
        lanes: &mut Lanes<'a>,
        route: &mut CallRoute,
    ) -> Option<bool> {
        // SAFETY: the stretch is that of the records.
        let frame = unsafe { records.stretch().read(self.caller.span) }?;
        let addresses = frame.addresses;
        let known = match route.last {
            Some((port, last)) if last.same_way(addresses) => Some(port),
            _ => self.look_up_cached(addresses.first, addresses.second as u32),
        };
        let port = match known {
            Some(port) => port,
            None => match self.learn_and_look_up(route, addresses) {
                Route::One(port) => {
                    // Once its lane is the present tenant's: frames with a cached route are not asked
                    // again for whom they are.
                    lanes.open(self, port, 0);
                    self.cache_route(route.generation, port, addresses);
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
            },
        };
        route.last = Some((port, addresses));
        let lane = lanes.open(self, port, 0);
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
        // SAFETY: the record has room, and was read just now.
        unsafe { lane.emit(self, &frame) };
        lane.pass(frame.length as u32);
        progress.copied = progress.copied.wrapping_add(frame.length as u64);
        progress.take(records, &frame);
        Some(true)
    }

    /// Learns where a frame comes from, and looks up where it goes.
    #[inline]
    fn learn_and_look_up(&self, route: &mut CallRoute, addresses: Addresses) -> Route {
        if route.source != Some(addresses.source()) {
            self.learn_source(addresses.source());
            route.source = Some(addresses.source());
            // What was found before may not hold any more.
            route.last = None;
        }
        self.look_up(addresses)
    }
}
