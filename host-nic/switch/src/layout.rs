//! The layout of a NIC's memory: offsets and sizes in bytes, which follow from the geometry alone.
//!
//! ```text
//!   offset                         content                             defined in
//!   0                              State                               state
//!   port_offset(p)                 PortState of port p                 state
//!   sender_offset(geometry, s)     SenderState of sender s, then a     state
//!                                  Link for each RX queue
//!   lane_offset(geometry, q, l)    LaneState of lane l of RX queue q   state
//!   state_size(geometry)           window of port 0                    postern_abi::window
//!   window_offset(geometry, p)     window of port p                    postern_abi::window
//!   memory_size(geometry) - SLACK  slack
//! ```
//!
//! Windows of [`LARGE_PAGE`] or more begin at multiples of that, so that the host can have them on
//! large pages. The padding behind each is nobody's, and all of it may be the same memory.
#![forbid(unsafe_code)]

use postern_abi::PAGE_SIZE;
use postern_abi::window::{Geometry, LINE_SIZE, MAX_FRAME, PortId, record_size};

use crate::state::{LaneState, Link, PortState, SenderState, State};

/// Size in bytes of the slack, the part behind the last window that belongs to nobody. A call
/// writes a record in one go where a [`LaneState`] says that there is room. If that is wrong,
/// because somebody tampered with the state, the record ends in the slack at the latest.
pub const SLACK: u64 = 3 * PAGE_SIZE;

const _: () = assert!(SLACK >= record_size(MAX_FRAME));

/// Size in bytes of a large page of the processor.
pub const LARGE_PAGE: u64 = 2 << 20;

/// Size in bytes of the pages that windows begin at, as far as a window fills one.
const fn alignment(geometry: Geometry) -> u64 {
    if geometry.window_size() < LARGE_PAGE {
        PAGE_SIZE
    } else {
        LARGE_PAGE
    }
}

/// The next multiple of [`alignment`].
const fn align(size: u64, geometry: Geometry) -> u64 {
    let mask = alignment(geometry) - 1;
    (size + mask) & !mask
}

/// Size in bytes of the state of a NIC, a multiple of the page size.
#[inline]
pub const fn state_size(geometry: Geometry) -> u64 {
    align(lane_offset(geometry, geometry.senders(), 0), geometry)
}

/// Distance in bytes from one window to the next: itself and [`padding`].
#[inline]
pub const fn window_stride(geometry: Geometry) -> u64 {
    align(geometry.window_size(), geometry)
}

/// Size in bytes of the padding behind each window, which belongs to nobody.
pub const fn padding(geometry: Geometry) -> u64 {
    window_stride(geometry) - geometry.window_size()
}

/// Offset in bytes of a port's [`PortState`].
#[inline]
pub const fn port_offset(port: u32) -> u64 {
    size_of::<State>() as u64 + port as u64 * size_of::<PortState>() as u64
}

/// Distance in bytes from one [`SenderState`] to the next: itself and its links.
#[inline]
pub const fn sender_stride(geometry: Geometry) -> u64 {
    let links = geometry.senders() as u64 * size_of::<Link>() as u64;
    size_of::<SenderState>() as u64 + links.next_multiple_of(LINE_SIZE)
}

/// Offset in bytes of a [`SenderState`], which a [`Link`] for each RX queue follows.
#[inline]
pub const fn sender_offset(geometry: Geometry, sender: u32) -> u64 {
    port_offset(geometry.ports()) + sender as u64 * sender_stride(geometry)
}

/// Offset in bytes of the [`LaneState`] of a lane of an RX queue, numbered in the whole NIC.
#[inline]
pub const fn lane_offset(geometry: Geometry, queue: u32, lane: u32) -> u64 {
    let number = queue as u64 * geometry.lanes() as u64 + lane as u64;
    sender_offset(geometry, geometry.senders()) + number * size_of::<LaneState>() as u64
}

/// Offset in bytes of a port's window.
pub const fn window_offset(geometry: Geometry, port: PortId) -> u64 {
    state_size(geometry) + port.number() as u64 * window_stride(geometry)
}

/// Offset in bytes of the last lane of the last window.
pub const fn last_lane(geometry: Geometry) -> u64 {
    let windows = state_size(geometry) + geometry.ports() as u64 * window_stride(geometry);
    windows - padding(geometry) - geometry.lane() as u64
}

/// Size in bytes of a NIC's memory: switch state, then the windows of all ports with their padding,
/// then [`SLACK`].
pub const fn memory_size(geometry: Geometry) -> u64 {
    state_size(geometry) + geometry.ports() as u64 * window_stride(geometry) + SLACK
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_windows_begin_at_large_pages_and_small_ones_waste_nothing() {
        let large = Geometry::new(3, 1, 8 << 20, 1 << 20).unwrap();
        assert!(large.window_size() > LARGE_PAGE);
        for port in large.all_ports() {
            assert!(window_offset(large, port).is_multiple_of(LARGE_PAGE));
        }
        assert!(padding(large) < LARGE_PAGE);
        let small = Geometry::new(256, 1, 4096, 4096).unwrap();
        assert!(small.window_size() < LARGE_PAGE);
        assert_eq!(padding(small), 0);
        assert_eq!(window_stride(small), small.window_size());
        for geometry in [large, small] {
            let last = geometry.port(geometry.ports() - 1).unwrap();
            let end = window_offset(geometry, last) + window_stride(geometry) + SLACK;
            assert_eq!(memory_size(geometry), end);
        }
    }

    #[test]
    fn memory_is_linear_in_the_ports() {
        let memory = |ports| {
            let ring = Geometry::default_ring(ports, 1);
            let lane = Geometry::default_lane(ports, 1, ring);
            memory_size(Geometry::new(ports, 1, ring, lane).unwrap())
        };
        println!("256 ports: {} KiB", memory(256) >> 10);
        assert!(memory(256) <= 160 << 20);
        // Of what grows with the square there is a link for each pair of a sender and an RX queue.
        let links = 256 * 256 * size_of::<Link>() as u64;
        assert!(memory(256) - memory(128) <= memory(128) + links);
    }
}
