//! The destinations of a frame of the slow path.
#![forbid(unsafe_code)]
use postern_abi::window::{MAX_PORTS, PortId};

use super::call::Call;
use super::egress::Tagging;
use super::progress::Progress;
use super::sets::PortSet;
use crate::fdb::{GROUP_BIT, Key, Station};
use crate::policy::headers::Headers;
use crate::policy::reserved::is_forwarded;
use crate::state::{Cause, PortState};

/// The destinations of a frame that are still to be served.
pub enum Destinations {
    /// The port that a known station is behind.
    Known(PortId),
    /// The ports that a frame is flooded to. Those that it may not reach are no destinations of it.
    Flooded(PortSet),
}

impl Destinations {
    /// Takes out the ports below this number, and adds them to a set, unless they are all.
    #[cold]
    #[inline(never)]
    pub fn pass(&mut self, first: u32, passed: &mut PortSet) {
        if let Destinations::Known(port) = *self {
            let mut one = PortSet::default();
            one.add(port);
            *self = Destinations::Flooded(one);
        }
        if let Destinations::Flooded(ports) = self {
            for port in (0..first).map_while(PortId::new) {
                if ports.has(port) && first < MAX_PORTS {
                    passed.add(port);
                }
                ports.remove(port);
            }
        }
    }
}

impl Call<'_> {
    /// Looks up the destinations of a frame of a VLAN, in the forwarding database. Returns also the
    /// cause that counts if there are none.
    pub fn destinations(
        &self,
        key: Key,
        mode: u32,
        vlan: u32,
        headers: &Headers,
    ) -> (Destinations, Cause) {
        let nowhere = Destinations::Flooded(PortSet::default());
        if headers.destination & GROUP_BIT != 0 {
            if !is_forwarded(headers.destination, mode) {
                return (nowhere, Cause::Reserved);
            }
        } else {
            let station = Station::new(vlan, headers.destination);
            let found = match vlan {
                0 => self.state().fdb.find(key, station).and_then(PortId::new),
                _ => self.find_in_vlan(key, station),
            };
            if let Some(port) = found {
                let known = match port != self.caller.port() && self.attached(port) {
                    true => Destinations::Known(port),
                    false => nowhere,
                };
                return (known, Cause::NoDestination);
            }
        }
        (
            Destinations::Flooded(self.other_ports()),
            Cause::NoDestination,
        )
    }

    /// Takes the next destination out of those that are left, and computes what happens to the
    /// frame's tag there, once for each destination.
    #[inline(never)]
    pub fn next_destination(
        &self,
        left: &mut Destinations,
        sender: &PortState,
        headers: &Headers,
        progress: &mut Progress,
    ) -> Option<(PortId, Result<Tagging, Cause>)> {
        let tagging = |to| self.tagging(sender, self.port_state(to), to, headers);
        match left {
            Destinations::Known(to) => {
                let to = *to;
                *left = Destinations::Flooded(PortSet::default());
                Some((to, tagging(to).ok_or(Cause::Policy)))
            }
            Destinations::Flooded(ports) => {
                while let Some(to) = ports.pop() {
                    progress.count_copies(1);
                    if let Some(tagging) = tagging(to) {
                        return Some((to, Ok(tagging)));
                    }
                }
                None
            }
        }
    }
}
