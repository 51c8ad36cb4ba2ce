//! The layout of a NIC's memory: offsets and sizes in bytes, which follow from the geometry alone.
//!
//! ```text
//!   offset                         content                             defined in
//!   0                              State                               state
//!   port_offset(p)                 PortState of port p                 state
//!   sender_offset(geometry, s)     SenderState of sender s, then a     state
//!                                  LaneState for each RX queue
//!   state_size(geometry)           window of port 0                    postern_abi::window
//!   window_offset(geometry, p)     window of port p                    postern_abi::window
//!   memory_size(geometry) - SLACK  slack
//! ```
#![forbid(unsafe_code)]

use postern_abi::PAGE_SIZE;
use postern_abi::window::{Geometry, MAX_FRAME, PortId, record_size};

use crate::state::{LaneState, PortState, SenderState, State};

/// Size in bytes of the slack, the part behind the last window that belongs to nobody. A call
/// writes a record in one go where a [`LaneState`] says that there is room. If that is wrong,
/// because somebody tampered with the state, the record ends in the slack at the latest.
pub const SLACK: u64 = 3 * PAGE_SIZE;

const _: () = assert!(SLACK >= record_size(MAX_FRAME));

/// Size in bytes of the state of a NIC, a multiple of the page size.
#[inline]
pub const fn state_size(geometry: Geometry) -> u64 {
    let end = sender_offset(geometry, geometry.senders());
    (end + PAGE_SIZE - 1) & !(PAGE_SIZE - 1)
}

/// Offset in bytes of a port's [`PortState`].
#[inline]
pub const fn port_offset(port: u32) -> u64 {
    size_of::<State>() as u64 + port as u64 * size_of::<PortState>() as u64
}

/// Distance in bytes from one [`SenderState`] to the next: itself and its [`LaneState`]s.
#[inline]
pub const fn sender_stride(geometry: Geometry) -> u64 {
    let lanes = geometry.senders() as u64 * size_of::<LaneState>() as u64;
    size_of::<SenderState>() as u64 + lanes
}

/// Offset in bytes of a [`SenderState`], which its [`LaneState`]s follow.
#[inline]
pub const fn sender_offset(geometry: Geometry, sender: u32) -> u64 {
    port_offset(geometry.ports()) + sender as u64 * sender_stride(geometry)
}

/// Offset in bytes of a port's window.
pub const fn window_offset(geometry: Geometry, port: PortId) -> u64 {
    state_size(geometry) + port.number() as u64 * geometry.window_size()
}

/// Size in bytes of a NIC's memory: switch state, then the windows of all ports, then [`SLACK`].
pub const fn memory_size(geometry: Geometry) -> u64 {
    state_size(geometry) + geometry.ports() as u64 * geometry.window_size() + SLACK
}
