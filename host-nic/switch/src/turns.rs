//! Turns: how senders share the lanes of an RX queue, where they are more than the lanes.
//!
//! A sender that finds no lane says so ([`LaneState::wanted`](crate::state::LaneState::wanted)). At each turn the owner of the NIC then
//! takes one of the queue's lanes from its holder, and whoever sends next gets it. That takes several
//! turns, since a call of the holder may be going on, and write to the lane:
//!
//! | turn | what the host does | what is certain then |
//! | --- | --- | --- |
//! | first | marks the lane, voids all cached routes | calls that begin from now on leave the lane alone |
//! | second | notes how many calls the holder has begun | calls that may write to the lane are among them |
//! | later | frees the lane if the last one has ended, or another one has begun | no call writes to the lane |
//!
//! A processor may hold back the store by which a call says that it has begun, while the call reads
//! that the lane is its own. Between two turns lies so much time that it has reached the memory: a
//! store buffer is emptied within microseconds, and by any interrupt or exit.
//!
//! A call that was stopped for ever keeps its lane until the next call of that vCPU, or until the port
//! has another tenant. The other lanes have their turns meanwhile.

use crate::state::{LANE_FREE, LANE_LEAVING, LANE_NOTED};
use crate::switch::{Switch, look_again};
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed, Release};

impl Switch<'_> {
    /// Makes a turn of all RX queues: `turn` is one more each time. One thread of the owner makes
    /// turns, a millisecond or more apart.
    pub fn turn_lanes(&self, turn: u32) {
        let geometry = self.geometry();
        for queue in 0..geometry.senders() {
            let Some(first) = self.lane(queue, 0) else {
                continue;
            };
            // One look where nobody waits, as is usual. The word stays set while a lane is on its way.
            if first.wanted.load(Acquire) == 0 {
                continue;
            }
            let lanes = 0..geometry.lanes();
            if lanes.fold(false, |any, lane| self.let_go(queue, lane) | any) {
                continue;
            }
            first.wanted.store(0, Relaxed);
            if self.begin_turn(queue, turn % geometry.lanes()) {
                first.wanted.store(1, Relaxed);
            }
        }
    }

    /// Goes on with a lane that is taken from its holder. Returns whether no other lane needs to be
    /// taken before the next turn.
    fn let_go(&self, queue: u32, number: u32) -> bool {
        let Some(lane) = self.lane(queue, number) else {
            return false;
        };
        let word = lane.holder.load(Acquire);
        if word & LANE_LEAVING == 0 {
            return false;
        }
        let sender = (word & !(LANE_LEAVING | LANE_NOTED)).wrapping_sub(1);
        let Some(holder) = self.sender(sender) else {
            return false;
        };
        let ended = holder.ended.load(Acquire);
        let begun = holder.calls.load(Acquire);
        let noted = word & LANE_NOTED != 0;
        if ended == begun || noted && begun != lane.begun.load(Relaxed) {
            self.publish_again(queue, number);
            // Release: the next holder sees what this one wrote.
            lane.holder.store(LANE_FREE, Release);
            return false;
        }
        if !noted {
            lane.begun.store(begun, Relaxed);
            lane.holder.store(word | LANE_NOTED, Release);
        }
        // A call that goes on from one turn to the next has perhaps been stopped for ever: other lanes
        // have their turns.
        !noted
    }

    /// Publishes a lane whose holder makes no calls that may write to it, up to where the holder has:
    /// one that was stopped in the middle of that has left a lane that its receiver cannot read to the
    /// end, and that nobody else could have.
    pub(crate) fn publish_again(&self, queue: u32, lane: u32) {
        let geometry = self.geometry();
        let (Some(state), Some(port)) = (self.lane(queue, lane), geometry.port_of(queue)) else {
            return;
        };
        let number = queue - geometry.rx_queue(port, 0);
        let words = (
            self.published(port, number, lane),
            self.latest(port, number),
        );
        if let (Some(own), Some(latest)) = words {
            own.store(state.published.load(Relaxed), Release);
            // One that slept is overslept now, which the owner looks after.
            let _ = look_again(latest);
        }
    }

    /// Marks the lane of a queue whose turn it is, unless one is free. Returns whether it did.
    fn begin_turn(&self, queue: u32, turn: u32) -> bool {
        let lanes = self.geometry().lanes();
        let holder = |lane: u32| self.lane(queue, lane).map(|state| &state.holder);
        let all = || (0..lanes).filter_map(holder);
        // One whose frames have not been read is not to be had yet. Then its receiver has to read.
        if all().any(|word| word.load(Relaxed) & LANE_FREE != 0 || word.load(Relaxed) == 0) {
            return false;
        }
        let marked = holder(turn).is_some_and(|word| {
            let found = word.load(Relaxed);
            let marked = word.compare_exchange(found, found | LANE_LEAVING, AcqRel, Relaxed);
            found & LANE_LEAVING == 0 && marked.is_ok()
        });
        if marked {
            self.state().generation.fetch_add(1, AcqRel);
        }
        marked
    }
}
