//! Learn: which port a station is behind, from the source addresses of frames.
#![forbid(unsafe_code)]

use crate::sync::Ordering::{Relaxed, Release};

use super::call::Call;
use crate::fdb::{GROUP_BIT, Key, Learned, Station};
use crate::state::{MODE_NO_LEARNING, add};

impl Call<'_> {
    /// Learns that a station on a switch without VLANs is behind the calling port, unless the
    /// port's mode forbids it.
    pub fn learn_source(&self, source: u64) {
        let mode = self.state().mode(self.caller.port());
        self.learn(self.key(), mode, 0, source);
    }

    /// Learns that a station of a VLAN is behind the calling port, unless the port's mode forbids
    /// it. Group addresses are not learned.
    #[inline]
    pub fn learn(&self, key: Key, mode: u32, vlan: u32, source: u64) {
        if source & GROUP_BIT != 0 || mode & MODE_NO_LEARNING != 0 {
            return;
        }
        let state = self.state();
        let tick = state.clock.tick.load(Relaxed);
        let station = Station::new(vlan, source);
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
