//! Learn: which port a station is behind, from the source addresses of frames.
#![forbid(unsafe_code)]

use crate::sync::Ordering::{Relaxed, Release};

use super::call::Call;
use crate::fdb::{Key, Learned, Station};
use crate::state::{MODE_NO_LEARNING, add};

impl Call<'_> {
    /// Learns that a station on a switch without VLANs is behind the calling port, unless the
    /// port's mode forbids it.
    pub fn learn_source(&self, source: u64) {
        let mode = self.state().mode(self.caller.port());
        self.learn(self.key(), mode, 0, source);
    }

    /// Learns that a station of a VLAN is behind the calling port, unless the port's mode forbids
    /// it. The source must be [a station's address](crate::policy::reserved::is_station).
    #[inline]
    pub fn learn(&self, key: Key, mode: u32, vlan: u32, source: u64) {
        if mode & MODE_NO_LEARNING != 0 {
            return;
        }
        let state = self.state();
        let tick = state.clock.tick.load(Relaxed);
        let station = Station::new(vlan, source);
        // A static entry for all VLANs holds in this one, too (IEEE 802.1Q "Learning Process").
        if vlan != 0 && self.find_in_all_vlans(key, station).is_some() {
            return;
        }
        match state.fdb.learn(key, station, self.caller.port(), tick) {
            Learned::Known | Learned::Raced | Learned::Refused => {}
            Learned::New => {
                add(&self.sender().learned, 1);
                state.generation.fetch_add(1, Release);
            }
            Learned::Moved => {
                add(&self.sender().moved, 1);
                state.generation.fetch_add(1, Release);
            }
        }
    }
}
