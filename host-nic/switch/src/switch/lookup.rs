//! Look up: find the ports that a frame goes to.
#![forbid(unsafe_code)]
use crate::sync::Ordering::{Relaxed, Release};

use postern_abi::window::PortId;

use super::call::Call;
use super::lane::Ends;
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

/// The element of a cache of routes for frames with these addresses: the last byte of the destination
/// chooses it.
#[inline(always)]
fn element(routes: &[CachedRoute; CACHED_ROUTES], addresses: Addresses) -> &CachedRoute {
    &routes[(addresses.first >> 40) as usize & (CACHED_ROUTES - 1)]
}

impl<'a> Call<'a> {
    /// Key of the forwarding database.
    #[inline]
    pub fn key(&self) -> Key {
        let key = &self.state().key;
        Key::new([key[0].load(Relaxed), key[1].load(Relaxed)])
    }

    /// The sender's cache of routes.
    #[inline(always)]
    pub fn routes(&self) -> &'a [CachedRoute; CACHED_ROUTES] {
        &self.sender().routes
    }

    /// Looks up the route of frames with these addresses in the sender's cache of routes. Returns
    /// nothing if there is no such route or its generation is over. The source of a cached route has
    /// been learned.
    #[inline(always)]
    pub fn cached_route(&self, addresses: Addresses) -> Option<&'a CachedRoute> {
        self.route_among(self.routes(), addresses)
    }

    /// [`Call::cached_route`], where the cache is known.
    #[inline(always)]
    pub fn route_among(
        &self,
        routes: &'a [CachedRoute; CACHED_ROUTES],
        addresses: Addresses,
    ) -> Option<&'a CachedRoute> {
        let route = element(routes, addresses);
        let holds = route.first.load(Relaxed) == addresses.first
            && route.second.load(Relaxed) == addresses.second as u32
            && route.generation.load(Relaxed) == self.state().generation.load(Relaxed);
        match holds {
            true => Some(route),
            false => None,
        }
    }

    /// Puts a route of frames with these addresses, as found in this generation of the forwarding
    /// database, into the sender's cache of routes: the sender's lane in which they go, or none if they
    /// go to all other ports.
    #[inline]
    pub fn cache_route(&self, generation: u64, addresses: Addresses, ends: Option<&Ends<'a>>) {
        let route = element(self.routes(), addresses);
        // The element is void while its words belong to different routes, in case the call is
        // stopped here.
        route.generation.store(0, Relaxed);
        route.first.store(addresses.first, Release);
        route.second.store(addresses.second as u32, Release);
        match ends {
            Some(ends) => ends.link(self, &route.link),
            None => route.link.state.store(0, Release),
        }
        route.generation.store(generation, Release);
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

    /// The set of all ports of this NIC with a tenant but the calling one: the ports that a broadcast
    /// reaches where no policy says otherwise.
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
