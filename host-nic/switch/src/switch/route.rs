//! Where a frame goes.

use crate::sync::Ordering::{Relaxed, Release};

use postern_abi::window::{MAX_PORTS, PortId};

use super::Call;
use super::records::Addresses;
use crate::fdb::{GROUP_BIT, Key, Learned, Station};
use crate::state::{LastRoute, MODE_UNLEARNED, ROUTES, add};

/// A set of ports.
#[derive(Clone, Copy, Debug, Default)]
pub struct PortSet(pub [u64; MAX_PORTS as usize / 64]);

impl PortSet {
    /// Whether a port is in it.
    #[inline]
    pub const fn has(&self, port: PortId) -> bool {
        self.0[port.index() >> 6] >> (port.number() & 63) & 1 != 0
    }

    /// Adds a port.
    #[inline]
    pub const fn add(&mut self, port: PortId) {
        self.0[port.index() >> 6] |= 1 << (port.number() & 63);
    }

    /// Takes a port out.
    #[inline]
    pub const fn remove(&mut self, port: PortId) {
        self.0[port.index() >> 6] &= !(1 << (port.number() & 63));
    }

    /// Whether no port is in it.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        let [a, b, c, d] = self.0;
        a | b | c | d == 0
    }

    /// How many ports are in it.
    #[inline]
    pub const fn count(&self) -> u32 {
        let [a, b, c, d] = self.0;
        a.count_ones() + b.count_ones() + c.count_ones() + d.count_ones()
    }

    /// Takes the port with the lowest number out, if there is any.
    #[inline]
    pub fn pop(&mut self) -> Option<PortId> {
        for (word, base) in self.0.iter_mut().zip([0, 64, 128, 192]) {
            if *word != 0 {
                let bit = word.trailing_zeros();
                *word &= word.wrapping_sub(1);
                return PortId::new(base + bit);
            }
        }
        None
    }
}

/// Where a frame goes.
#[derive(Clone, Copy)]
pub enum Route {
    /// To one port.
    One(PortId),
    /// To several.
    Many(PortSet),
    /// To none.
    Nobody,
}

impl Call<'_> {
    /// Key of the MAC table.
    #[inline]
    pub fn key(&self) -> Key {
        let key = &self.state().key;
        Key::new([key[0].load(Relaxed), key[1].load(Relaxed)])
    }

    #[inline(always)]
    fn remembered(&self, first: u64) -> &LastRoute {
        &self.context().routes[(first >> 40) as usize & (ROUTES - 1)]
    }

    /// Where frames with these addresses went, if that is remembered and still holds; their source is known then.
    #[inline(always)]
    pub fn recall(&self, first: u64, second: u32) -> Option<PortId> {
        let route = self.remembered(first);
        let port = route.port.load(Relaxed) as u8;
        let holds = route.first.load(Relaxed) == first
            && route.second.load(Relaxed) == second
            && route.epoch.load(Relaxed) == self.state().epoch.load(Relaxed)
            && self.caller.has(port);
        holds.then_some(PortId::from_number(port))
    }

    /// Keeps where frames go for later, as found in that epoch.
    #[inline]
    pub fn remember(&self, epoch: u64, port: PortId, addresses: Addresses) {
        let route = self.remembered(addresses.first);
        // Void while the words belong to different routes, in case the call is stopped here.
        route.epoch.store(0, Relaxed);
        route.first.store(addresses.first, Release);
        route.second.store(addresses.second as u32, Release);
        route.port.store(port.number(), Release);
        route.epoch.store(epoch, Release);
    }

    /// Forgets all that is remembered.
    pub fn forget_routes(&self) {
        for route in &self.context().routes {
            route.epoch.store(0, Relaxed);
        }
    }

    /// Learns where a frame on a switch without VLANs comes from.
    pub fn meet(&self, source: u64) {
        let mode = self.state().mode(self.caller.port());
        self.learn(self.key(), mode, 0, source);
    }

    /// Finds where a frame goes on a switch without VLANs.
    #[inline]
    pub fn route(&self, addresses: Addresses) -> Route {
        let key = self.key();
        let destination = addresses.destination();
        if destination & GROUP_BIT != 0 {
            return self.everybody();
        }
        let found = self.state().table.find(key, Station::new(0, destination));
        match found.and_then(PortId::new) {
            Some(port) if port == self.caller.port() || !self.attached(port) => Route::Nobody,
            Some(port) => Route::One(port),
            None => self.everybody(),
        }
    }

    /// Learns where a station is, unless the port is one that does not tell. Group addresses are no
    /// stations.
    #[inline]
    pub fn learn(&self, key: Key, mode: u32, vlan: u32, source: u64) {
        if source & GROUP_BIT != 0 || mode & MODE_UNLEARNED != 0 {
            return;
        }
        let state = self.state();
        let tick = state.clock.tick.load(Relaxed);
        let station = Station::new(vlan, source);
        match state.table.learn(key, station, self.caller.port(), tick) {
            Learned::Known | Learned::Raced | Learned::Refused => {}
            Learned::New => {
                add(&self.context().learned, 1);
                state.epoch.fetch_add(1, Release);
            }
            Learned::Moved => {
                add(&self.context().moved, 1);
                state.epoch.fetch_add(1, Release);
            }
        }
    }

    #[inline]
    pub fn attached(&self, port: PortId) -> bool {
        let word = &self.state().attached[port.index() >> 6];
        port.number() < self.caller.geometry().ports()
            && word.load(Relaxed) >> (port.number() & 63) & 1 != 0
    }

    /// All ports but the caller's.
    #[cold]
    #[inline(never)]
    pub fn others(&self) -> PortSet {
        let mut set = PortSet::default();
        let ports = self.caller.geometry().ports();
        let words = set.0.iter_mut().zip(&self.state().attached);
        for ((word, attached), base) in words.zip([0u32, 64, 128, 192]) {
            let count = ports.saturating_sub(base);
            let exist = match count {
                0 => 0,
                1..64 => (1u64 << count) - 1,
                _ => u64::MAX,
            };
            *word = attached.load(Relaxed) & exist;
        }
        set.remove(self.caller.port());
        set
    }

    #[cold]
    #[inline(never)]
    fn everybody(&self) -> Route {
        let set = self.others();
        let mut rest = set;
        match rest.pop() {
            None => Route::Nobody,
            Some(port) if rest.is_empty() => Route::One(port),
            Some(_) => Route::Many(set),
        }
    }
}
