//! The geometry of a NIC as people ask for it: numbers of ports and queues, sizes of rings.
#![deny(unsafe_code)]

use postern_abi::window::{Geometry, GeometryError, MAX_RING, MIN_RING};

use crate::size::Bytes;

/// Queues of a port where nobody asks for more.
pub const DEFAULT_QUEUES: u32 = 1;

/// A geometry that is asked for, parts of which may be left open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeometryRequest {
    /// Ports.
    pub ports: u32,
    /// TX queues of each port, and RX queues.
    pub queues: u32,
    /// Size of each TX ring; [`Geometry::default_ring`] if nobody asks for another.
    pub ring: Option<Bytes>,
    /// Lanes of each RX queue; [`Geometry::default_lanes`] if nobody asks for others.
    pub lanes: Option<u32>,
    /// Size of each lane; [`Geometry::default_lane`] if nobody asks for another.
    pub lane: Option<Bytes>,
}

/// Why no NIC can be like that.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The numbers do not do.
    #[error(transparent)]
    Numbers(#[from] GeometryError),
    /// The size of TX rings does not do.
    #[error("no NIC has a TX ring of {0}: choose a power of two {RANGE}")]
    Ring(Bytes),
    /// The size of lanes does not do.
    #[error("no NIC has a lane of {0}: choose a power of two {RANGE}")]
    Lane(Bytes),
    /// The number of lanes does not do.
    #[error(transparent)]
    Lanes(GeometryError),
}

/// The sizes that rings and lanes can have.
const RANGE: &str = "from 4 KiB to 8 MiB";

const _: () = assert!(MIN_RING == 4 << 10 && MAX_RING == 8 << 20);

impl GeometryRequest {
    /// The geometry of such a NIC.
    ///
    /// # Errors
    ///
    /// The first number or size that no NIC has.
    pub fn geometry(self) -> Result<Geometry, Error> {
        let GeometryRequest { ports, queues, .. } = self;
        // What is more than 32 bits hold is no size either.
        let bytes = |size: Bytes| u32::try_from(size.0).unwrap_or(u32::MAX);
        let default = || Geometry::default_ring(ports, queues);
        let ring = self.ring.map_or_else(default, bytes);
        let chosen = || Geometry::default_lane(ports, queues, ring);
        let lane = self.lane.map_or_else(chosen, bytes);
        let geometry = Geometry::new(ports, queues, ring, lane);
        let geometry = match self.lanes {
            Some(lanes) => geometry.and_then(|geometry| geometry.with_lanes(lanes)),
            None => geometry,
        };
        geometry.map_err(|error| match error {
            GeometryError::Ring(found) => Error::Ring(self.ring.unwrap_or(Bytes(found.into()))),
            GeometryError::Lane(found) => Error::Lane(self.lane.unwrap_or(Bytes(found.into()))),
            GeometryError::Lanes { .. } => Error::Lanes(error),
            GeometryError::Ports(_) | GeometryError::Queues { .. } => Error::Numbers(error),
        })
    }
}

/// A NIC in words, for people.
pub fn describe(geometry: Geometry) -> String {
    let queues = geometry.queues();
    format!(
        "{} ports with {queues} queue{} each, TX rings of {}, {} lanes of {}",
        geometry.ports(),
        if queues == 1 { "" } else { "s" },
        Bytes(geometry.ring().into()),
        geometry.lanes(),
        Bytes(geometry.lane().into()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: GeometryRequest = GeometryRequest {
        ports: 2,
        queues: 1,
        ring: None,
        lanes: None,
        lane: None,
    };

    #[test]
    fn what_is_left_open_is_chosen() {
        let geometry = PLAIN.geometry().unwrap();
        assert_eq!(
            describe(geometry),
            "2 ports with 1 queue each, TX rings of 256 KiB, 2 lanes of 256 KiB"
        );
        let many = GeometryRequest {
            ports: 64,
            queues: 4,
            ring: Some(Bytes(1 << 20)),
            ..PLAIN
        };
        assert_eq!(
            describe(many.geometry().unwrap()),
            "64 ports with 4 queues each, TX rings of 1 MiB, 12 lanes of 32 KiB"
        );
        let lane = Some(Bytes(2 << 20));
        let geometry = GeometryRequest { lane, ..PLAIN }.geometry().unwrap();
        assert_eq!((geometry.ring(), geometry.lane()), (256 << 10, 2 << 20));
    }

    #[test]
    fn errors_say_what_was_asked_for_and_what_can_be() {
        let ring = |size| GeometryRequest {
            ring: Some(Bytes(size)),
            ..PLAIN
        };
        let lane = |size| GeometryRequest {
            lane: Some(Bytes(size)),
            ..PLAIN
        };
        let lanes = |lanes| GeometryRequest {
            lanes: Some(lanes),
            ..PLAIN
        };
        let cases = [
            (GeometryRequest { ports: 1, ..PLAIN }, "2 to 256 ports"),
            (GeometryRequest { queues: 9, ..PLAIN }, "1 to 8 queues"),
            (ring(100), "a TX ring of 100 bytes"),
            (ring(3 << 20), "from 4 KiB to 8 MiB"),
            (ring((1 << 32) + (1 << 20)), "a TX ring of 4097 MiB"),
            (lane(32 << 20), "a lane of 32 MiB"),
            (lane(1 << 40), "a lane of 1024 GiB"),
            (lane(0), "a lane of 0 bytes"),
            (lanes(0), "has 1 to 2 lanes"),
            (lanes(3), "not 3"),
        ];
        for (request, part) in cases {
            let message = request.geometry().unwrap_err().to_string();
            assert!(message.contains(part), "{request:?}: {message}");
        }
    }
}
