//! Who is calling: the one word that the core believes.

use postern_abi::window::{Geometry, PortId};

use crate::state::STATE_SIZE;

/// A port, its tenancy, and the geometry of the NIC, packed into the word that a view is sealed with
/// (`abi::kvm::EptViewSeal::caller`).
///
/// The word is host-owned and immutable in every place. Geometry travels in it, and is not read from
/// memory during a call, so that no content of state or windows can lead the core outside of them:
/// whoever vouches for the word need only compare [`Caller::memory_size`] with the size of the memory.
///
/// | bits | |
/// | --- | --- |
/// | 0 to 7 | port |
/// | 8 to 15 | number of ports |
/// | 16 to 23 | binary logarithm of the number of slots |
/// | 24 to 31 | zero |
/// | 32 to 63 | tenancy, not zero |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Ports and slots of the NIC.
    pub geometry: Geometry,
    /// The calling port.
    pub port: PortId,
    /// Which tenant of the port; a former tenant's calls are refused.
    pub tenancy: u32,
}

impl Caller {
    /// Unpacks a word, or says that no host made it.
    #[inline]
    pub const fn decode(word: u64) -> Option<Caller> {
        if word & 0xff00_0000 != 0 {
            return None;
        }
        let log_slots = (word >> 16) as u32 & 0xff;
        let Some(slots) = 1u32.checked_shl(log_slots) else {
            return None;
        };
        let Ok(geometry) = Geometry::new((word >> 8) as u32 & 0xff, slots) else {
            return None;
        };
        let Some(port) = geometry.port(word as u32 & 0xff) else {
            return None;
        };
        let tenancy = (word >> 32) as u32;
        if tenancy == 0 {
            return None;
        }
        Some(Caller {
            geometry,
            port,
            tenancy,
        })
    }

    /// The word.
    pub const fn encode(self) -> u64 {
        self.port.number() as u64
            | (self.geometry.ports() as u64) << 8
            | (self.geometry.slots().trailing_zeros() as u64) << 16
            | (self.tenancy as u64) << 32
    }

    /// Bytes of memory that a call by this caller may touch: switch state, then all windows.
    pub const fn memory_size(self) -> u64 {
        memory_size(self.geometry)
    }
}

/// Size in bytes of a NIC's memory: switch state, then the windows of all ports.
pub const fn memory_size(geometry: Geometry) -> u64 {
    STATE_SIZE + geometry.ports() as u64 * geometry.window_size()
}

/// Offset in the NIC's memory of a port's window.
pub const fn window_offset(geometry: Geometry, port: PortId) -> u64 {
    STATE_SIZE + port.number() as u64 * geometry.window_size()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_a_round_trip() {
        for ports in 2..=16 {
            for bits in 4..=12 {
                let geometry = Geometry::new(ports, 1 << bits).unwrap();
                for port in geometry.all_ports() {
                    let caller = Caller {
                        geometry,
                        port,
                        tenancy: 0xdead_beef,
                    };
                    assert_eq!(Caller::decode(caller.encode()), Some(caller));
                }
            }
        }
    }

    #[test]
    fn malformed_words_are_refused() {
        let good = 1 | 4 << 8 | 8 << 16 | 1 << 32;
        assert!(Caller::decode(good).is_some());
        for bad in [
            0,
            u64::MAX,
            good & 0xffff_ffff,                 // no tenancy
            good | 1 << 24,                     // reserved bit
            (good & !0xff) | 4,                 // port out of range
            (good & !0xff00) | 1 << 8,          // one port
            (good & !0xff00) | 17 << 8,         // too many ports
            (good & !0x00ff_0000) | 3 << 16,    // too few slots
            (good & !0x00ff_0000) | 13 << 16,   // too many slots
            (good & !0x00ff_0000) | 0xff << 16, // shift out of range
        ] {
            assert_eq!(Caller::decode(bad), None, "{bad:#x}");
        }
    }
}
