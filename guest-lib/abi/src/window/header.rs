//! The header of a window: the facts that a guest checks before it uses the rings.
#![forbid(unsafe_code)]

use core::fmt;

use super::geometry::{Geometry, GeometryError, LINE_SIZE};
use super::port::PortId;
use super::record::FEATURES;
use crate::service::Secret;

/// [`WindowHeader::magic`]: "PSTNWIND", little endian.
pub const WINDOW_MAGIC: u64 = u64::from_le_bytes(*b"PSTNWIND");

/// The first bytes of a window. The host writes them when a guest attaches and does not read them
/// again: a guest that overwrites its secret has locked itself out of the NIC until the next
/// tenancy.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowHeader {
    /// [`WINDOW_MAGIC`].
    pub magic: u64,
    /// [`crate::ABI_VERSION`].
    pub abi_version: u32,
    /// Number of the NIC's ports.
    pub ports: u32,
    /// Number of TX queues of each port, which is also that of its RX queues.
    pub queues: u32,
    /// Size of each TX ring in bytes.
    pub ring: u32,
    /// Size of each lane in bytes.
    pub lane: u32,
    /// Number of the port that this window belongs to.
    pub port: u32,
    /// Number of the port's tenancy: one more for each guest that attaches.
    pub tenancy: u32,
    /// The features that the NIC offers, `FEATURE_*`.
    pub features: u32,
    /// Size of the window in bytes, [`Geometry::window_size`].
    pub size: u64,
    /// The secret of the tenancy, which requests carry.
    pub secret: Secret,
    /// The MAC address that the NIC suggests for the port.
    pub mac: [u8; 6],
    /// Number of lanes of each RX queue.
    pub lanes: u16,
}

const _: () = assert!(size_of::<WindowHeader>() == LINE_SIZE as usize);

impl WindowHeader {
    /// The header of a port's window.
    pub const fn new(
        geometry: Geometry,
        port: PortId,
        tenancy: u32,
        secret: Secret,
        mac: [u8; 6],
    ) -> WindowHeader {
        WindowHeader {
            magic: WINDOW_MAGIC,
            abi_version: crate::ABI_VERSION,
            ports: geometry.ports(),
            queues: geometry.queues(),
            ring: geometry.ring(),
            lane: geometry.lane(),
            port: port.number(),
            tenancy,
            features: FEATURES,
            size: geometry.window_size(),
            secret,
            mac,
            lanes: geometry.lanes() as u16,
        }
    }

    /// Gives geometry and port, if the header is valid and the window fits `available` bytes.
    ///
    /// # Errors
    ///
    /// The first field that is not valid, or that contradicts `available`.
    pub fn check(&self, available: u64) -> Result<(Geometry, PortId), HeaderError> {
        if self.magic != WINDOW_MAGIC {
            return Err(HeaderError::Magic(self.magic));
        }
        if self.abi_version != crate::ABI_VERSION {
            return Err(HeaderError::Version(self.abi_version));
        }
        let geometry = match Geometry::new(self.ports, self.queues, self.ring, self.lane) {
            Ok(geometry) => geometry.with_lanes(self.lanes.into()),
            Err(error) => Err(error),
        };
        let geometry = geometry.map_err(HeaderError::Geometry)?;
        let port = geometry
            .port(self.port)
            .ok_or(HeaderError::Port(self.port))?;
        if self.size != geometry.window_size() || self.size > available {
            return Err(HeaderError::Size {
                said: self.size,
                expected: geometry.window_size(),
                available,
            });
        }
        Ok((geometry, port))
    }
}

/// A header that [`WindowHeader::check`] refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// The window does not begin with [`WINDOW_MAGIC`].
    Magic(u64),
    /// The window was made for another [`crate::ABI_VERSION`].
    Version(u32),
    /// The numbers of ports and queues or the sizes of rings are not valid.
    Geometry(GeometryError),
    /// The window's own port does not exist.
    Port(u32),
    /// The window's size is not that of its geometry, or more than is mapped.
    Size {
        /// The size in the header, in bytes.
        said: u64,
        /// The size of a window of this geometry, in bytes.
        expected: u64,
        /// The size of the mapping, in bytes.
        available: u64,
    },
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HeaderError::Magic(magic) => {
                write!(
                    f,
                    "no window of a Postern NIC here (it begins with {magic:#x})"
                )
            }
            HeaderError::Version(version) => write!(
                f,
                "the window has ABI version {version}, this program {}: \
                 build both from one revision",
                crate::ABI_VERSION
            ),
            HeaderError::Geometry(error) => error.fmt(f),
            HeaderError::Port(port) => write!(f, "the window's own port {port} does not exist"),
            HeaderError::Size {
                said,
                expected,
                available,
            } => write!(
                f,
                "the window says it has {said} bytes, its rings need {expected}, \
                 and {available} are mapped"
            ),
        }
    }
}

impl core::error::Error for HeaderError {}

#[cfg(test)]
mod tests {
    use super::super::limits::{DEFAULT_RING, MIN_RING};
    use super::*;

    #[test]
    fn a_header_is_checked() {
        let geometry = Geometry::new(4, 2, DEFAULT_RING, MIN_RING).expect("valid");
        let port = geometry.port(3).expect("exists");
        let good = WindowHeader::new(geometry, port, 7, Secret::from_word(1 << 40), [2; 6]);
        let size = geometry.window_size();
        assert_eq!(good.check(size), Ok((geometry, port)));
        assert_eq!(
            good.check(size - 1),
            Err(HeaderError::Size {
                said: size,
                expected: size,
                available: size - 1
            })
        );
        type Change = fn(&mut WindowHeader);
        type Expected = fn(&HeaderError) -> bool;
        let changes: [(Change, Expected); 8] = [
            (|h| h.magic ^= 1, |e| matches!(e, HeaderError::Magic(_))),
            (
                |h| h.abi_version ^= 1,
                |e| matches!(e, HeaderError::Version(_)),
            ),
            (|h| h.ports = 300, |e| matches!(e, HeaderError::Geometry(_))),
            (|h| h.queues = 0, |e| matches!(e, HeaderError::Geometry(_))),
            (|h| h.lane = 5, |e| matches!(e, HeaderError::Geometry(_))),
            (|h| h.lanes = 9, |e| matches!(e, HeaderError::Geometry(_))),
            (|h| h.port = 4, |e| matches!(e, HeaderError::Port(4))),
            (|h| h.size += 1, |e| matches!(e, HeaderError::Size { .. })),
        ];
        for (change, expected) in changes {
            let mut header = good;
            change(&mut header);
            let error = header.check(u64::MAX).unwrap_err();
            assert!(expected(&error), "{error}");
        }
    }
}
