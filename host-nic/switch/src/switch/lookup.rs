//! Look up: find the ports that a frame goes to.
#![forbid(unsafe_code)]
use crate::sync::Ordering::{Relaxed, Release};

use postern_abi::window::PortId;

use super::call::Call;
use super::records::Addresses;
use super::sets::PortSet;
use crate::fdb::{Key, Station};
use crate::state::{CACHED_ROUTES, CachedRoute};

/// The route of a frame: the ports that it goes to.
#[derive(Clone, Copy)]
pub enum Route {
    /// One port.
    One(PortId),
    /// Several ports.
    Many(PortSet),
    /// No port.
    Nobody,
    /// No port, for a cause that has been counted.
    Refused,
}

impl Call<'_> {
    /// Key of the forwarding database.
    #[inline]
    pub fn key(&self) -> Key {
        let key = &self.state().key;
        Key::new([key[0].load(Relaxed), key[1].load(Relaxed)])
    }

    /// The element of the sender's cache of routes for frames that begin with these eight bytes.
    #[inline(always)]
    fn cached_route(&self, first: u64) -> &CachedRoute {
        &self.sender().routes[(first >> 40) as usize & (CACHED_ROUTES - 1)]
    }

    /// Looks up the port that frames with these addresses go to, and the sender's lane there, in the
    /// sender's cache of routes. `first` is bytes 0 to 7 of the frame, `second` bytes 8 to 11.
    /// Returns nothing if there is no such route or its generation is over. The source of a cached
    /// route has been learned.
    #[inline(always)]
    pub fn look_up_cached(&self, first: u64, second: u32) -> Option<(PortId, u32)> {
        let route = self.cached_route(first);
        let word = route.port_and_lane.load(Relaxed);
        let (port, lane) = (word as u8, (word >> 8) as u8);
        let holds = route.first.load(Relaxed) == first
            && route.second.load(Relaxed) == second
            && route.generation.load(Relaxed) == self.state().generation.load(Relaxed)
            && self.caller.has(port)
            && self.caller.has_lane(lane);
        holds.then_some((PortId::from_number(port), lane.into()))
    }

    /// Puts the port that frames with these addresses go to, as found in this generation of the
    /// forwarding database, and the sender's lane there into the sender's cache of routes.
    #[inline]
    pub fn cache_route(&self, generation: u64, port: PortId, lane: u32, addresses: Addresses) {
        let route = self.cached_route(addresses.first);
        // The element is void while its words belong to different routes, in case the call is
        // stopped here.
        route.generation.store(0, Relaxed);
        route.first.store(addresses.first, Release);
        route.second.store(addresses.second as u32, Release);
        let word = port.number() | lane << 8;
        route.port_and_lane.store(word, Release);
        route.generation.store(generation, Release);
    }

    /// Empties the sender's cache of routes.
    pub fn void_cached_routes(&self) {
        for route in &self.sender().routes {
            route.generation.store(0, Relaxed);
        }
    }

    /// Looks up which ports a frame to a station on a switch without VLANs goes to, in the forwarding
    /// database.
    #[inline]
    pub fn look_up(&self, destination: u64) -> Route {
        let key = self.key();
        let found = self.state().fdb.find(key, Station::new(0, destination));
        match found.and_then(PortId::new) {
            Some(port) if port == self.caller.port() || !self.attached(port) => Route::Nobody,
            Some(port) => Route::One(port),
            None => self.flood_route(),
        }
    }

    /// Looks up the port that a station of a VLAN, not 0, is behind. A static entry for the VLAN goes
    /// before one for all VLANs, and that one before what was learned.
    #[inline(never)]
    pub fn find_in_vlan(&self, key: Key, station: Station) -> Option<PortId> {
        let fdb = &self.state().fdb;
        if let Some(port) = fdb.find_static(key, station) {
            return PortId::new(port);
        }
        self.find_in_all_vlans(key, station)
            .or_else(|| fdb.find(key, station).and_then(PortId::new))
    }

    /// Looks up the port that a station of a VLAN, not 0, is behind by a static entry for all VLANs:
    /// one without a VLAN (IEEE 802.1Q "Static Filtering Entries"). It holds in the VLANs of that
    /// port: elsewhere the address is another station's.
    #[inline(never)]
    pub fn find_in_all_vlans(&self, key: Key, station: Station) -> Option<PortId> {
        let everywhere = Station::new(0, station.mac());
        let port = PortId::new(self.state().fdb.find_static(key, everywhere)?)?;
        let vlans = &self.port_state(port).vlan;
        vlans.is_member(station.vlan() as u16).then_some(port)
    }

    /// Whether a port of this NIC has a tenant.
    #[inline]
    pub fn attached(&self, port: PortId) -> bool {
        let word = &self.state().attached[port.index() >> 6];
        port.number() < self.caller.geometry().ports()
            && word.load(Relaxed) >> (port.number() & 63) & 1 != 0
    }

    /// The set of all ports with a tenant but the calling one: the ports that a broadcast reaches
    /// where no policy says otherwise.
    #[cold]
    #[inline(never)]
    pub fn other_ports(&self) -> PortSet {
        let ports = self.caller.geometry().ports();
        let mut words = [0; 4];
        let pairs = words.iter_mut().zip(&self.state().attached);
        for ((word, attached), base) in pairs.zip([0u32, 64, 128, 192]) {
            let count = ports.saturating_sub(base);
            let exist = match count {
                0 => 0,
                1..64 => (1u64 << count) - 1,
                _ => u64::MAX,
            };
            *word = attached.load(Relaxed) & exist;
        }
        let mut set = PortSet::from_words(words);
        set.remove(self.caller.port());
        set
    }

    /// The route of a frame that is flooded.
    #[cold]
    #[inline(never)]
    pub fn flood_route(&self) -> Route {
        let set = self.other_ports();
        let mut rest = set;
        match rest.pop() {
            None => Route::Nobody,
            Some(port) if rest.is_empty() => Route::One(port),
            Some(_) => Route::Many(set),
        }
    }
}
