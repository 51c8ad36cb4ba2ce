//! Turns: how senders share the lanes of an RX queue, where they are more than the lanes.
//!
//! A sender that finds no lane says so ([`LaneState::wanted`]). At each turn the owner of the NIC then
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
//! has another tenant.

use crate::state::{LANE_FREE, LANE_LEAVING, LANE_NOTED, LaneState};
use crate::switch::Switch;
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed, Release};

impl Switch<'_> {
    /// Makes a turn of all RX queues: `turn` is one more each time. One thread of the owner makes
    /// turns, a millisecond or more apart.
    pub fn turn_lanes(&self, turn: u32) {
        for queue in 0..self.geometry().senders() {
            let lanes = || (0..self.geometry().lanes()).filter_map(|lane| self.lane(queue, lane));
            let leaving = lanes().fold(false, |any, lane| self.let_go(lane) | any);
            let Some(first) = self.lane(queue, 0) else {
                continue;
            };
            if !leaving && first.wanted.swap(0, AcqRel) != 0 {
                self.begin_turn(queue, turn % self.geometry().lanes());
            }
        }
    }

    /// Goes on with a lane that is taken from its holder. Returns whether it still is.
    fn let_go(&self, lane: &LaneState) -> bool {
        let word = lane.holder.load(Acquire);
        if word & LANE_LEAVING == 0 {
            return false;
        }
        let number = (word & !(LANE_LEAVING | LANE_NOTED)).wrapping_sub(1);
        let Some(holder) = self.sender(number) else {
            return false;
        };
        let ended = holder.ended.load(Acquire);
        let begun = holder.calls.load(Acquire);
        let noted = word & LANE_NOTED != 0;
        if ended == begun || noted && begun != lane.begun.load(Relaxed) {
            // Release: the next holder sees what this one wrote.
            lane.holder.store(LANE_FREE, Release);
            return false;
        }
        if !noted {
            lane.begun.store(begun, Relaxed);
            lane.holder.store(word | LANE_NOTED, Release);
        }
        true
    }

    /// Marks the lane of a queue whose turn it is, unless one is free.
    fn begin_turn(&self, queue: u32, turn: u32) {
        let lanes = self.geometry().lanes();
        let holder = |lane: u32| self.lane(queue, lane).map(|state| &state.holder);
        let all = || (0..lanes).filter_map(holder);
        // One whose frames have not been read is not to be had yet. Then its receiver has to read.
        if all().any(|word| word.load(Relaxed) & LANE_FREE != 0 || word.load(Relaxed) == 0) {
            return;
        }
        if let Some(word) = holder(turn) {
            let found = word.load(Relaxed);
            let marked = word.compare_exchange(found, found | LANE_LEAVING, AcqRel, Relaxed);
            if marked.is_ok() {
                self.state().generation.fetch_add(1, AcqRel);
            }
        }
    }
}
