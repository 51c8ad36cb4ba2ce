//! Credentials: the words that say who calls, and the only ones that the switch believes.
#![deny(unsafe_code)]
use postern_abi::PAGE_SIZE;
use postern_abi::service::{OP_TX, Secret};
use postern_abi::window::{
    Geometry, MAX_LANES, MAX_PORTS, MAX_QUEUES, MAX_RING, MAX_SENDERS, MIN_FRAME, PortId,
    RECORD_ALIGN,
};

use crate::layout::{
    LARGE_PAGE, lane_offset, last_lane, memory_size, sender_offset, sender_stride, state_size,
    window_offset, window_stride,
};
use crate::state::{LaneState, Link, PortState, SenderState, State, StateError};

/// The credentials of a caller, 64 bytes: its port, its tenancy with the secret that its requests
/// must carry, and where things lie in the NIC's memory. A tenant's grant has them
/// ([`postern_abi::kvm::EptViewGrant::caller`]).
///
/// The words are owned by the host and immutable, wherever the switch runs. All offsets that a call
/// needs follow from them, and none is read from the NIC's memory, so that no content of state or
/// windows can lead the switch outside of it. Whoever vouches for the words need only see that
/// [`Credentials::check`] accepts them, and that the memory has [`Credentials::size`] bytes.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    tenancy: u32,
    port: u8,
    last_port: u8,
    queues: u8,
    ring_log: u8,
    lane_log: u8,
    last_lane: u8,
    /// Length in bytes of the longest frame, less that of the shortest.
    pub(crate) span: u16,
    /// Distance from one [`SenderState`] to the next, in bytes.
    pub(crate) sender_stride: u32,
    /// Offset in bytes of the first TX ring in a window.
    pub(crate) rings: u32,
    /// Offset in bytes of the first lane in a window.
    pub(crate) lanes: u32,
    /// Mask of the offset of a record in a TX ring: its size in bytes, less 16.
    pub(crate) ring_mask: u32,
    /// Mask of the offset of a record in a lane: its size in bytes, less 16.
    pub(crate) lane_mask: u32,
    /// Offset in bytes of the [`SenderState`] of the port's first
    /// sender.
    pub(crate) sender: u32,
    /// Offset in pages of the port's window.
    window_page: u32,
    /// Word of a request of [`OP_TX`] with the secret of the tenancy.
    tx_request: u64,
    /// Offset in bytes of the window of port 0.
    pub(crate) windows: u32,
    /// Offset in bytes of the first [`LaneState`].
    pub(crate) lane_states: u32,
    /// Distance in pages from one window to the next.
    pub(crate) window_pages: u32,
    /// Offset in pages of the last lane of the last window.
    pub(crate) last_page: u32,
}

/// [`Credentials`] as eight plain words, in the order of memory.
pub type CredentialWords = [u64; 8];

const _: () = assert!(size_of::<Credentials>() == size_of::<CredentialWords>());
// The state of any NIC has less than 4 GiB, and all windows fewer than 2^32 pages, so that offsets
// fit their fields.
const _: () = {
    let window = PAGE_SIZE * (1 + MAX_QUEUES as u64)
        + MAX_RING as u64 * (MAX_QUEUES + MAX_SENDERS * MAX_QUEUES) as u64;
    assert!(window / PAGE_SIZE * (MAX_PORTS as u64 + 1) <= u32::MAX as u64);
    let senders = MAX_SENDERS as u64;
    let lanes = size_of::<LaneState>() as u64 * MAX_LANES as u64;
    let most = size_of::<State>() as u64
        + size_of::<PortState>() as u64 * MAX_PORTS as u64
        + (size_of::<SenderState>() as u64 + senders * size_of::<Link>() as u64 + lanes) * senders;
    assert!(most + LARGE_PAGE <= u32::MAX as u64);
};

impl Credentials {
    /// The credentials of a tenant of a port. `tenancy` is the number of the tenant's tenancy,
    /// which is not 0, and `secret` a secret that was drawn for it.
    pub const fn new(
        geometry: Geometry,
        port: PortId,
        tenancy: u32,
        secret: Secret,
    ) -> Credentials {
        Credentials {
            tenancy,
            port: port.number() as u8,
            last_port: (geometry.ports() - 1) as u8,
            queues: geometry.queues() as u8,
            ring_log: geometry.ring_log() as u8,
            lane_log: geometry.lane_log() as u8,
            last_lane: (geometry.lanes() - 1) as u8,
            span: (geometry.max_frame() - MIN_FRAME) as u16,
            sender_stride: sender_stride(geometry) as u32,
            rings: geometry.tx_ring_offset(0) as u32,
            lanes: geometry.lane_offset(0, 0) as u32,
            ring_mask: geometry.ring() - RECORD_ALIGN,
            lane_mask: geometry.lane() - RECORD_ALIGN,
            sender: sender_offset(geometry, geometry.sender(port, 0)) as u32,
            window_page: (window_offset(geometry, port) / PAGE_SIZE) as u32,
            tx_request: secret.request(OP_TX),
            windows: state_size(geometry) as u32,
            lane_states: lane_offset(geometry, 0, 0) as u32,
            window_pages: (window_stride(geometry) / PAGE_SIZE) as u32,
            last_page: (last_lane(geometry) / PAGE_SIZE) as u32,
        }
    }

    /// The credentials of a port's present tenant, for a program that has the state mapped and is
    /// told only the number of the port (the `direct` path).
    ///
    /// # Errors
    ///
    /// [`StateError`]: the state is not a NIC's, or the port does not exist or has no tenant.
    pub fn of_tenant(state: &State, port: u32) -> Result<Credentials, StateError> {
        let geometry = state.check()?;
        let port = geometry.port(port).ok_or(StateError::Port(port))?;
        match state.tenancy(port) {
            0 => Err(StateError::Port(port.number())),
            tenancy => Ok(Credentials::new(
                geometry,
                port,
                tenancy,
                state.secret(port),
            )),
        }
    }

    /// The credentials as words, for a grant.
    #[allow(unsafe_code, reason = "the words are the structure's own memory")]
    pub const fn words(&self) -> CredentialWords {
        // SAFETY: both types have 64 bytes; no byte of the structure is padding, as the sizes of
        // its fields add up to 64 in the order of `repr(C)`.
        unsafe { core::mem::transmute(*self) }
    }

    /// The credentials that these words are, or nothing if [`Credentials::check`] does not accept
    /// them.
    #[allow(unsafe_code, reason = "the words are the structure's own memory")]
    pub fn from_words(words: CredentialWords) -> Option<Credentials> {
        // SAFETY: both types have 64 bytes, and all fields are integers, for which any content is
        // valid.
        let credentials: Credentials = unsafe { core::mem::transmute(words) };
        credentials.check().then_some(credentials)
    }

    /// Whether the words are those that [`Credentials::new`] gives for some port, geometry, tenancy
    /// and secret.
    pub fn check(&self) -> bool {
        let (ring, lane) = (
            1u32.checked_shl(self.ring_log.into()),
            1u32.checked_shl(self.lane_log.into()),
        );
        let (Some(ring), Some(lane)) = (ring, lane) else {
            return false;
        };
        let ports = u32::from(self.last_port) + 1;
        let lanes = u32::from(self.last_lane) + 1;
        let geometry = match Geometry::new(ports, self.queues.into(), ring, lane) {
            Ok(geometry) => geometry.with_lanes(lanes),
            Err(error) => Err(error),
        };
        match geometry {
            Ok(geometry) => {
                self.tenancy != 0
                    && self.secret().is_valid()
                    && self.port <= self.last_port
                    && self.is(&Credentials::new(
                        geometry,
                        self.port(),
                        self.tenancy,
                        self.secret(),
                    ))
            }
            Err(_) => false,
        }
    }

    /// Whether both have the same words. (The derived comparison may be a call of `memcmp`, which the
    /// freestanding builds do not have.)
    fn is(&self, other: &Credentials) -> bool {
        let pairs = self.words().into_iter().zip(other.words());
        pairs.fold(0, |differing, (one, two)| differing | (one ^ two)) == 0
    }

    /// Geometry of the NIC: its ports, queues and sizes.
    #[inline]
    #[allow(
        unsafe_code,
        reason = "a geometry that was checked needs no second check"
    )]
    pub const fn geometry(&self) -> Geometry {
        // SAFETY: the five numbers are those of a valid geometry. `new` takes them from one, and
        // `from_words` gives only credentials that `check` has compared with one.
        unsafe {
            let (ring, lane) = (self.ring_log, self.lane_log);
            Geometry::from_logs(self.last_port, self.queues, ring, lane, self.last_lane)
        }
    }

    /// The port that calls.
    #[inline]
    pub const fn port(&self) -> PortId {
        PortId::from_number(self.port)
    }

    /// Number of the tenancy for which the port calls. Calls of a former tenancy are refused.
    #[inline]
    pub const fn tenancy(&self) -> u32 {
        self.tenancy
    }

    /// The secret that the tenant's requests must carry.
    #[inline]
    pub const fn secret(&self) -> Secret {
        Secret::from_word(self.tx_request.wrapping_sub(OP_TX))
    }

    /// Whether this is the word of a request of [`OP_TX`] with the tenant's secret.
    #[inline(always)]
    pub(crate) const fn is_tx(&self, request: u64) -> bool {
        request == self.tx_request
    }

    /// Offset in bytes of the port's window.
    #[inline(always)]
    pub(crate) const fn window(&self) -> u64 {
        self.window_page as u64 * PAGE_SIZE
    }

    /// Size in bytes of the memory that a call with these credentials may touch: switch state, all
    /// windows, slack.
    pub const fn size(&self) -> u64 {
        memory_size(self.geometry())
    }
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
                let secret = Secret::from_word(0x5ec2_e700_dead_beef);
                let credentials = Credentials::new(geometry, port, 0xdead_beef, secret);
                let words = credentials.words();
                assert_eq!(Credentials::from_words(words), Some(credentials));
                assert_eq!(credentials.geometry(), geometry);
                assert_eq!(credentials.port(), port);
                // The low half of the first word is the tenancy: any but 0 will do. The sixth word
                // is the secret. Other numbers of lanes make the same windows, where these begin at
                // large pages.
                for bit in (32..72).chain(80..320).chain(384..512) {
                    let mut words = credentials.words();
                    words[bit / 64] ^= 1 << (bit % 64);
                    if let Some(other) = Credentials::from_words(words) {
                        panic!("bit {bit} makes {credentials:?} {other:?}");
                    }
                }
                for (tenancy, secret) in [(0, secret.word()), (1, 0), (1, 2), (1, u64::MAX)] {
                    let secret = Secret::from_word(secret);
                    let words = Credentials::new(geometry, port, tenancy, secret).words();
                    assert_eq!(Credentials::from_words(words), None);
                }
            }
        }
        assert_eq!(Credentials::from_words([0; 8]), None);
        assert_eq!(Credentials::from_words([u64::MAX; 8]), None);
    }
}
