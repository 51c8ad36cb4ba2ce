//! The lanes of an RX queue, and who holds them.
//!
//! A sender takes a lane when it first has a frame for the queue, and keeps it
//! ([`LaneState`](crate::state::LaneState)). All steps of taking one may be the last that a call makes:
//!
//! | a call that is stopped | leaves | and the sender's next call |
//! | --- | --- | --- |
//! | before the exchange | nothing | takes a lane |
//! | behind it | a lane that it holds, and no byte that says so | finds the lane by its holder, and introduces it |

use postern_abi::window::PortId;

use super::call::Call;
use super::lane::Ends;
use crate::state::LANE_FREE;
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed, Release};

impl<'a> Call<'a> {
    /// The lane that the calling sender holds in an RX queue of a port, taken if it has none; or
    /// nothing if all are other senders'.
    ///
    /// # Safety
    ///
    /// The NIC has the port and the queue.
    #[inline(always)]
    pub unsafe fn held_lane(&self, to: PortId, queue: u32) -> Option<Ends<'a>> {
        let number = self.caller.geometry().rx_queue(to, queue);
        // SAFETY: the caller promises that the NIC has the queue. The lane is compared with the
        // number of lanes.
        unsafe {
            let lane = self.lane_byte(number).load(Relaxed).wrapping_sub(1);
            if self.caller.has_lane(lane) {
                let ends = Ends::of(self, to, queue, lane.into());
                if ends.state.holder.load(Relaxed) == self.holder() {
                    return Some(ends);
                }
            }
            self.take_lane(to, queue)
        }
    }

    /// The calling sender as the holder of a lane.
    #[inline(always)]
    fn holder(&self) -> u32 {
        self.sender_number() + 1
    }

    /// Tells the host that a sender waits for a lane of an RX queue.
    ///
    /// # Safety
    ///
    /// The NIC has the port and the queue.
    unsafe fn want_lane(&self, to: PortId, queue: u32) {
        // SAFETY: the caller promises that the NIC has both, and every queue has a lane 0.
        let first = unsafe { Ends::of(self, to, queue, 0) };
        first.state.wanted.store(1, Relaxed);
    }

    /// Finds the lane that the calling sender holds in an RX queue, or takes one that nobody holds:
    /// the one that a former tenant of its port had, or else one whose frames have been read, first
    /// that of the sender's own number.
    ///
    /// # Safety
    ///
    /// The NIC has the port and the queue.
    #[cold]
    #[inline(never)]
    unsafe fn take_lane(&self, to: PortId, queue: u32) -> Option<Ends<'a>> {
        let geometry = self.caller.geometry();
        let lanes = geometry.lanes();
        let home = match self.sender_number() & (lanes.next_power_of_two() - 1) {
            home if home < lanes => home,
            home => home - lanes,
        };
        // SAFETY: the caller promises that the NIC has port and queue, and all lanes are below the
        // number of lanes.
        let ends = |lane| unsafe { Ends::of(self, to, queue, lane) };
        // SAFETY: the caller promises that the NIC has the queue.
        let byte = unsafe { self.lane_byte(geometry.rx_queue(to, queue)) };
        // Whatever comes below, a call that ends before the last step leaves no lane noted.
        byte.store(0, Release);
        let all = || (home..lanes).chain(0..home).map(ends);
        let holder = self.holder();
        let own = |ends: &Ends<'a>| ends.state.holder.load(Relaxed) & !LANE_FREE == holder;
        let tenancy = self.state().tenancy[to.index()].load(Acquire);
        let take = |ends: &Ends<'a>, found: u32| {
            let word = &ends.state.holder;
            word.compare_exchange(found, holder, AcqRel, Relaxed)
                .is_ok()
        };
        // Another sender may take the lane first, if its frames have been read.
        let former = all().find(|ends| {
            own(ends)
                && (ends.state.holder.load(Relaxed) == holder || take(ends, LANE_FREE | holder))
        });
        let free = || {
            all().find(|ends| {
                let found = ends.state.holder.load(Acquire);
                let is_free = found == 0 || found & LANE_FREE != 0;
                is_free && ends.is_drained(self, tenancy) && take(ends, found)
            })
        };
        let Some(ends) = former.or_else(free) else {
            // SAFETY: the contract is that of `take_lane`.
            unsafe { self.want_lane(to, queue) };
            return None;
        };
        ends.introduce(self);
        byte.store(ends.lane as u8 + 1, Release);
        Some(ends)
    }
}
