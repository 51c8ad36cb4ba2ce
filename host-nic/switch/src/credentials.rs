//! Who is calling: the words that the core believes.

use postern_abi::window::{Geometry, MIN_FRAME, PortId};

use crate::state;

/// A port, its tenancy, and where things lie in the NIC's memory: what a view is sealed with
/// (`abi::kvm::EptViewSeal::caller`).
///
/// The words are host-owned and immutable in every place. All offsets that a call needs follow from them, and
/// none is read from the NIC's memory, so that no content of state or windows can lead the core outside
/// of it: whoever vouches for the words need only see that [`Caller::check`] accepts them, and that the memory
/// has [`Caller::size`] bytes.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    tenancy: u32,
    port: u8,
    last_port: u8,
    queues: u8,
    ring_log: u8,
    lane_log: u8,
    /// Number of the port's first context.
    pub(crate) first: u8,
    /// By how much the longest frame is longer than the shortest.
    pub(crate) span: u16,
    /// Distance from one context to the next.
    pub(crate) context_stride: u32,
    /// Offset in a window of the first TX ring.
    pub(crate) rings: u32,
    /// Offset in a window of the lane of the port's first context to the first RX queue.
    pub(crate) lane: u32,
    /// Size of a TX ring, less one.
    pub(crate) ring_mask: u32,
    /// Size of a lane, less one.
    pub(crate) lane_mask: u32,
    /// Offset of the port's first context.
    pub(crate) context: u64,
    /// Offset of the port's window.
    pub(crate) window: u64,
    /// Offset of the window of port 0.
    pub(crate) windows: u64,
    /// Size of a window.
    pub(crate) window_size: u64,
}

/// The words of a [`Caller`].
pub type Words = [u64; 8];

const _: () = assert!(size_of::<Caller>() == size_of::<Words>());

impl Caller {
    /// The caller of a port; `tenancy` says which tenant of it, and is not 0.
    pub const fn new(geometry: Geometry, port: PortId, tenancy: u32) -> Caller {
        Caller {
            tenancy,
            port: port.number() as u8,
            last_port: (geometry.ports() - 1) as u8,
            queues: geometry.queues() as u8,
            ring_log: geometry.ring_log() as u8,
            lane_log: geometry.lane_log() as u8,
            first: geometry.context(port, 0) as u8,
            span: (geometry.max_frame() - MIN_FRAME) as u16,
            context_stride: state::context_stride(geometry) as u32,
            rings: geometry.tx_ring_offset(0) as u32,
            lane: geometry.lane_offset(0, geometry.context(port, 0)) as u32,
            ring_mask: geometry.ring() - 1,
            lane_mask: geometry.lane() - 1,
            context: state::context_offset(geometry, geometry.context(port, 0)),
            window: window_offset(geometry, port),
            windows: state::size(geometry),
            window_size: geometry.window_size(),
        }
    }

    /// As words, for a sealed view.
    pub const fn words(&self) -> Words {
        // SAFETY: both have 64 bytes, none of them padding.
        unsafe { core::mem::transmute(*self) }
    }

    /// From words, if they are those of a caller.
    pub fn from_words(words: Words) -> Option<Caller> {
        // SAFETY: both have 64 bytes, and any content is valid.
        let caller: Caller = unsafe { core::mem::transmute(words) };
        caller.check().then_some(caller)
    }

    /// Whether the words are those that [`Caller::new`] gives for some port, geometry and tenancy.
    pub fn check(&self) -> bool {
        let (ring, lane) = (
            1u32.checked_shl(self.ring_log.into()),
            1u32.checked_shl(self.lane_log.into()),
        );
        let (Some(ring), Some(lane)) = (ring, lane) else {
            return false;
        };
        let ports = u32::from(self.last_port) + 1;
        match Geometry::new(ports, self.queues.into(), ring, lane) {
            Ok(geometry) => {
                self.tenancy != 0
                    && self.port <= self.last_port
                    && *self == Caller::new(geometry, self.port(), self.tenancy)
            }
            Err(_) => false,
        }
    }

    /// Ports, queues and sizes of the NIC.
    #[inline]
    pub const fn geometry(&self) -> Geometry {
        // SAFETY: `new` has these numbers from a geometry, and `check` compares them with one.
        unsafe { Geometry::from_logs(self.last_port, self.queues, self.ring_log, self.lane_log) }
    }

    /// The calling port.
    #[inline]
    pub const fn port(&self) -> PortId {
        PortId::from_number(self.port)
    }

    /// Whether the NIC has a port of that number.
    #[inline(always)]
    pub(crate) const fn has(&self, port: u8) -> bool {
        port <= self.last_port
    }

    /// Which tenant of the port; a former tenant's calls are refused.
    #[inline]
    pub const fn tenancy(&self) -> u32 {
        self.tenancy
    }

    /// Bytes of memory that a call by this caller may touch: switch state, all windows, slack.
    pub const fn size(&self) -> u64 {
        memory_size(self.geometry())
    }
}

/// Size in bytes of a NIC's memory: switch state, then the windows of all ports, then [`state::SLACK`].
pub const fn memory_size(geometry: Geometry) -> u64 {
    state::size(geometry) + geometry.ports() as u64 * geometry.window_size() + state::SLACK
}

/// Offset in the NIC's memory of a port's window.
pub const fn window_offset(geometry: Geometry, port: PortId) -> u64 {
    state::size(geometry) + port.number() as u64 * geometry.window_size()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_a_round_trip_and_no_change() {
        for (ports, queues) in [(2, 1), (2, 8), (16, 1), (64, 4), (85, 3), (256, 1)] {
            for (ring, lane) in [(12, 12), (23, 12), (12, 23), (18, 16)] {
                let geometry = Geometry::new(ports, queues, 1 << ring, 1 << lane).unwrap();
                let port = geometry.port(ports - 1).unwrap();
                let caller = Caller::new(geometry, port, 0xdead_beef);
                assert_eq!(Caller::from_words(caller.words()), Some(caller));
                assert_eq!((caller.geometry(), caller.port()), (geometry, port));
                // The low half of the first word is the tenancy: any but 0 will do.
                for bit in 32..512 {
                    let mut words = caller.words();
                    words[bit / 64] ^= 1 << (bit % 64);
                    if let Some(other) = Caller::from_words(words) {
                        panic!("bit {bit} makes {caller:?} {other:?}");
                    }
                }
                assert_eq!(
                    Caller::from_words(Caller::new(geometry, port, 0).words()),
                    None
                );
            }
        }
        assert_eq!(Caller::from_words([0; 8]), None);
        assert_eq!(Caller::from_words([u64::MAX; 8]), None);
    }
}
