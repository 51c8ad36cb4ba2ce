//! Reserved group addresses: destinations that a bridge filters, and sources that nobody has.
//!
//! IEEE 802.1Q ("Frame filtering", and the tables of reserved addresses of its components) gives
//! sixteen group addresses, 01-80-C2-00-00-00 to -0F, to protocols between a station and the bridge
//! that it is connected to: spanning trees (00), MAC control such as PAUSE (01), link aggregation
//! and other slow protocols (02), authentication (03), LLDP (0E) and others. No bridge forwards
//! frames to them, so that a guest cannot speak for the switch to the network behind an uplink, nor
//! to other guests. A port may be told to forward those to some of them, as Linux' `group_fwd_mask`
//! does: to all but 01, since MAC control is consumed below a bridge (IEEE 802.3 "MAC Control").
//!
//! A source is the address of one station (IEEE 802.3 "Source Address field": its I/G bit is 0), and
//! nobody's is zero.

use crate::fdb::{GROUP_BIT, MAC_MASK};
use crate::state::MODE_RESERVED_SHIFT;

/// The reserved address that ends in 0, first byte lowest.
const FIRST: u64 = u64::from_le_bytes([0x01, 0x80, 0xc2, 0, 0, 0, 0, 0]);
/// The bits in which reserved addresses differ.
const NUMBER: u64 = 0xf << 40;
/// Number of the reserved address of MAC control.
pub const MAC_CONTROL: u32 = 1;

/// Number of a reserved group address, 0 to 15, if the destination is one.
#[inline]
pub const fn reserved(destination: u64) -> Option<u32> {
    match (destination ^ FIRST) & MAC_MASK & !NUMBER {
        0 => Some((destination >> 40) as u32 & 0xf),
        _ => None,
    }
}

/// Whether the destination is that of MAC control, which is never looked at by a bridge.
#[inline]
pub const fn is_mac_control(destination: u64) -> bool {
    matches!(reserved(destination), Some(MAC_CONTROL))
}

/// Whether a port of this mode (`MODE_*` of [`crate::state`]) forwards frames to a destination.
#[inline]
pub const fn is_forwarded(destination: u64, mode: u32) -> bool {
    match reserved(destination) {
        None => true,
        Some(MAC_CONTROL) => false,
        Some(number) => mode >> MODE_RESERVED_SHIFT >> number & 1 != 0,
    }
}

/// Whether an address can be that of a station.
#[inline]
pub const fn is_station(address: u64) -> bool {
    address & GROUP_BIT == 0 && address & MAC_MASK != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant::mac_word;

    #[test]
    fn sixteen_addresses_are_reserved() {
        for last in 0..=0xff {
            let number = (last < 16).then_some(u32::from(last));
            let address = [0x01, 0x80, 0xc2, 0, 0, last];
            assert_eq!(reserved(mac_word(address)), number);
            // In no other byte.
            for byte in 0..5 {
                let mut other = address;
                other[byte] ^= 1;
                assert_eq!(reserved(mac_word(other)), None);
            }
        }
    }

    #[test]
    fn a_mode_forwards_those_that_it_names_and_never_mac_control() {
        for number in 0..16 {
            let address = mac_word([0x01, 0x80, 0xc2, 0, 0, number]);
            assert!(!is_forwarded(address, 0xffff & !(1 << number)));
            let mode = 1 << MODE_RESERVED_SHIFT << number;
            assert_eq!(is_forwarded(address, mode), number != 1);
            assert!(!is_forwarded(address, !mode));
        }
        assert!(is_forwarded(mac_word([0xff; 6]), 0));
        assert!(is_forwarded(mac_word([0x01, 0x80, 0xc2, 0, 0, 0x10]), 0));
    }

    #[test]
    fn stations_have_individual_addresses_that_are_not_zero() {
        assert!(is_station(mac_word([2, 0, 0, 0, 0, 0])));
        assert!(is_station(mac_word([0, 0, 0, 0, 0, 1])));
        assert!(!is_station(mac_word([3, 0, 0, 0, 0, 1])));
        assert!(!is_station(mac_word([0; 6])));
    }
}
