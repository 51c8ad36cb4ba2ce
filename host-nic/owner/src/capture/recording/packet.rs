//! A packet of a file, before it is known whether it can be sent.
#![forbid(unsafe_code)]

/// Nanoseconds of a second.
pub(super) const SECOND: u128 = 1_000_000_000;

/// A packet as its record or block describes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet {
    /// Number of the link type.
    pub(super) link: u32,
    /// Time of the capture, in nanoseconds since the epoch.
    pub(super) time: u128,
    /// Length of the packet when it was captured, in bytes.
    pub(super) original: u32,
    /// Length of the frame check sequence at its end, in bytes.
    pub(super) fcs: u32,
    /// Offset in the file of its bytes.
    pub(super) offset: usize,
    /// Number of its bytes that are in the file.
    pub(super) captured: usize,
}
