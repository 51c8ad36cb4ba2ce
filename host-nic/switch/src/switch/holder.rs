//! The lanes of an RX queue, and who holds them.
//!
//! A sender takes a lane when it first has a frame for the queue, and keeps it
//! ([`LaneState`](crate::state::LaneState)). All steps of taking one may be the last that a call makes:
//!
//! | a call that is stopped | leaves | and the sender's next call |
//! | --- | --- | --- |
//! | before the exchange | nothing | takes a lane |
//! | behind it | a lane that it holds, and no link to it | finds the lane by its holder, and introduces it |

use postern_abi::window::{PortId, Published};

use super::call::Call;
use super::lane::Ends;
use crate::state::{LANE_FREE, LANE_LEAVING, LANE_NOTED, Link};
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed, Release};

/// The lanes that the calling sender holds.
pub struct HeldLanes<'c, 'a> {
    call: &'c Call<'a>,
    /// The sender's link to its lane in RX queue 0 of the NIC, which those of all other queues follow.
    links: *const Link,
    /// The calling sender as the holder of a lane.
    holder: u32,
}

impl<'a> HeldLanes<'_, 'a> {
    /// The lane that the sender holds in an RX queue of a port, if it has one that is ready to be
    /// filled: started for the port's present tenant, or `begun` by the call. `number` is that of the
    /// queue in the whole NIC.
    ///
    /// # Safety
    ///
    /// The NIC has a queue of that number.
    #[inline(always)]
    pub unsafe fn ready(&self, to: PortId, number: u32, begun: bool) -> Option<Ends<'a>> {
        let call = self.call;
        // SAFETY: there is a link to each queue of the NIC, and every field of it is an atomic.
        let link = unsafe { &*self.links.add(number as usize) };
        let ends = Ends::linked(call, link)?;
        let mut holder = ends.state.holder.load(Relaxed);
        if begun {
            // The host waits for the call to end before it takes the lane.
            holder &= !(LANE_LEAVING | LANE_NOTED);
        }
        if holder != self.holder {
            return None;
        }
        if !begun {
            // Acquire: the positions that a new tenant begins with were written before its tenancy.
            let tenancy = call.state().tenancy[to.index()].load(Acquire);
            let published = Published::from_word(ends.state.published.load(Relaxed));
            if published.tenancy != tenancy {
                return None;
            }
        }
        Some(ends)
    }
}

impl<'a> Call<'a> {
    /// The lanes that the calling sender holds.
    #[inline(always)]
    pub fn held_lanes(&self) -> HeldLanes<'_, 'a> {
        HeldLanes {
            call: self,
            links: self.links(),
            holder: self.holder(),
        }
    }

    /// The lane that the calling sender holds in an RX queue of a port, taken if it has none, and started
    /// for the port's present tenant; or nothing if all are other senders'.
    ///
    /// # Safety
    ///
    /// The NIC has the port and the queue.
    #[cold]
    #[inline(never)]
    pub unsafe fn prepare_lane(&self, to: PortId, queue: u32) -> Option<Ends<'a>> {
        // SAFETY: the contract is that of `take_lane`.
        let ends = unsafe { self.take_lane(to, queue) }?;
        let tenancy = self.state().tenancy[to.index()].load(Acquire);
        let published = Published::from_word(ends.state.published.load(Relaxed));
        if published.tenancy != tenancy {
            ends.restart(self, tenancy);
        }
        Some(ends)
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
        let number = self.caller.geometry().rx_queue(to, queue);
        // SAFETY: the caller promises that the NIC has both, and every queue has a lane 0.
        let first = unsafe { Ends::of(self, to, queue, number, 0) };
        first.state.wanted.store(1, Relaxed);
    }

    /// Finds the lane that the calling sender holds in an RX queue, or takes one that nobody holds:
    /// the one that a former tenant of its port had, or else one whose frames have been read, first
    /// that of the sender's own number.
    ///
    /// # Safety
    ///
    /// The NIC has the port and the queue.
    unsafe fn take_lane(&self, to: PortId, queue: u32) -> Option<Ends<'a>> {
        let geometry = self.caller.geometry();
        let lanes = geometry.lanes();
        let home = match self.sender_number() & (lanes.next_power_of_two() - 1) {
            home if home < lanes => home,
            home => home - lanes,
        };
        let number = geometry.rx_queue(to, queue);
        // SAFETY: the caller promises that the NIC has port and queue, and all lanes are below the
        // number of lanes.
        let ends = |lane| unsafe { Ends::of(self, to, queue, number, lane) };
        // SAFETY: the caller promises that the NIC has the queue, and there is a link to each; every field
        // of it is an atomic.
        let link = unsafe { &*self.links().add(number as usize) };
        // Whatever comes below, a call that ends before the last step leaves no link.
        link.state.store(0, Release);
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
        ends.link(self, link);
        Some(ends)
    }
}
