//! The protocol between the owner of a NIC and VM monitors or tools: records over a Unix socket of
//! type SOCK_SEQPACKET.
//!
//! A client sends a request and gets a reply, both little endian. After a request for a port the
//! connection stands for the port's tenancy, which ends when it closes.
//!
//! ```text
//!   request  0  magic        reply  0  magic
//!            8  ABI version         8  ABI version
//!           12  kind               12  status
//!           16  port               16  number of descriptors
//!           20  path               20  MAC address (6), zero (38)
//!           24  zero (8)           64  the tenant's credentials (64), zero without a tenant
//!           32  text               128  text: the reason of a refusal
//! ```
//!
//! Descriptors come with the reply, in the order of [`TenancyFds::into_wire`]. Where they are more
//! than Linux takes with one record ([`MAX_DESCRIPTORS`](crate::socket::MAX_DESCRIPTORS)), the
//! reply is repeated with the rest of them.
//!
//! The text of a request is a [`Control`](crate::control::Control) as JSON. Its answer, and
//! counters, may be longer than a record. They come as JSON in a file, whose descriptor comes with
//! the reply.
#![forbid(unsafe_code)]

use postern_abi::ABI_VERSION;
use postern_abi::platform::CallPath;
use postern_abi::window::Geometry;
use postern_switch::credentials::{CredentialWords, Credentials};

use crate::bells::Bells;

const REQUEST_MAGIC: u64 = u64::from_le_bytes(*b"PSTNNICQ");
const REPLY_MAGIC: u64 = u64::from_le_bytes(*b"PSTNNICA");

/// Size of a request without its text, in bytes.
pub const REQUEST_SIZE: usize = 32;
/// Size of the largest request, in bytes.
pub const MAX_REQUEST: usize = 64 << 10;
/// Size of a reply without its text, in bytes.
pub const REPLY_SIZE: usize = 128;
/// Size of the largest reply, in bytes.
pub const MAX_REPLY: usize = 64 << 10;

/// A request of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A port, until the connection closes.
    Attach {
        /// Number of the port.
        port: u32,
        /// The way of the guest's requests to the NIC.
        path: CallPath,
    },
    /// The counters of all ports.
    Counters,
    /// A [`crate::control::Control`], as JSON.
    Control(Vec<u8>),
}

/// A record that is none of this protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The record is too short or too long.
    #[error("a record of {0} bytes is not one of the NIC's protocol")]
    Size(usize),
    /// The record does not begin with the magic number.
    #[error("the record is not one of the NIC's protocol")]
    Magic,
    /// The other side was built from another revision.
    #[error(
        "the other side has ABI version {0}, this one {ABI_VERSION}: build both from one revision"
    )]
    Version(u32),
    /// A field has no meaning.
    #[error("field {field} of the record has the unknown value {value:#x}")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// Content of the field.
        value: u64,
    },
}

fn word<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    bytes[offset..offset + N]
        .try_into()
        .expect("the record's size was checked")
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(word(bytes, offset))
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(word(bytes, offset))
}

fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    bytes[offset..offset + value.len()].copy_from_slice(value);
}

fn check(bytes: &[u8], size: usize, magic: u64) -> Result<(), ProtocolError> {
    if bytes.len() < size {
        return Err(ProtocolError::Size(bytes.len()));
    }
    if u64_at(bytes, 0) != magic {
        return Err(ProtocolError::Magic);
    }
    match u32_at(bytes, 8) {
        ABI_VERSION => Ok(()),
        version => Err(ProtocolError::Version(version)),
    }
}

impl Request {
    /// The record of this value.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, port, path, text) = match self {
            Request::Attach { port, path } => {
                let path = CallPath::ALL.iter().position(|known| known == path);
                (
                    1u32,
                    *port,
                    path.expect("ALL has all paths") as u32,
                    &[][..],
                )
            }
            Request::Counters => (2, 0, 0, &[][..]),
            Request::Control(text) => (3, 0, 0, &text[..]),
        };
        let mut bytes = vec![0; REQUEST_SIZE];
        put(&mut bytes, 0, &REQUEST_MAGIC.to_le_bytes());
        put(&mut bytes, 8, &ABI_VERSION.to_le_bytes());
        put(&mut bytes, 12, &kind.to_le_bytes());
        put(&mut bytes, 16, &port.to_le_bytes());
        put(&mut bytes, 20, &path.to_le_bytes());
        bytes.extend_from_slice(text);
        bytes
    }

    /// The value that a record holds.
    ///
    /// # Errors
    ///
    /// The first field of the record that is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Request, ProtocolError> {
        if bytes.len() > MAX_REQUEST {
            return Err(ProtocolError::Size(bytes.len()));
        }
        check(bytes, REQUEST_SIZE, REQUEST_MAGIC)?;
        let (kind, port, path) = (u32_at(bytes, 12), u32_at(bytes, 16), u32_at(bytes, 20));
        let unknown = |field, value| Err(ProtocolError::Field { field, value });
        match u64_at(bytes, 24) {
            0 => {}
            value => return unknown("reserved", value),
        }
        if kind != 3 && bytes.len() != REQUEST_SIZE {
            return Err(ProtocolError::Size(bytes.len()));
        }
        match kind {
            1 => match CallPath::ALL.get(path as usize) {
                Some(path) => Ok(Request::Attach { port, path: *path }),
                None => unknown("path", path.into()),
            },
            2 => Ok(Request::Counters),
            3 => Ok(Request::Control(bytes[REQUEST_SIZE..].to_vec())),
            _ => unknown("kind", kind.into()),
        }
    }
}

/// The outcome of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Status {
    /// The request is fulfilled.
    Granted = 0,
    /// The NIC does not understand the request, or was built from another revision.
    BadRequest = 1,
    /// The NIC has no such port.
    NoSuchPort = 2,
    /// The port has a tenant.
    PortTaken = 3,
    /// The NIC does not offer the path, or not to this user.
    PathRefused = 4,
    /// The path needs views, and the NIC has none.
    NoViews = 5,
    /// The NIC tried and failed.
    Failed = 6,
    /// The port is disabled.
    Disabled = 7,
    /// The NIC cannot see when the process ends that asks.
    PeerUnknown = 8,
    /// The NIC has taken back the port of this connection. Nobody has asked: it comes before the
    /// connection ends.
    Revoked = 9,
    /// The NIC is kept and has no owner. Its keeper says so.
    NoOwner = 10,
}

impl Status {
    const ALL: [Status; 11] = [
        Status::Granted,
        Status::BadRequest,
        Status::NoSuchPort,
        Status::PortTaken,
        Status::PathRefused,
        Status::NoViews,
        Status::Failed,
        Status::Disabled,
        Status::PeerUnknown,
        Status::Revoked,
        Status::NoOwner,
    ];
}

/// The NIC's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The outcome of the request.
    pub status: Status,
    /// The tenancy that was granted.
    pub grant: Option<Grant>,
    /// Number of descriptors that come with the reply.
    pub descriptors: u32,
    /// The reason of a refusal.
    pub text: String,
}

/// The tenancy of a port that was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Port, tenancy and geometry.
    pub credentials: Credentials,
    /// The MAC address that the NIC suggests to the guest.
    pub mac: [u8; 6],
}

impl Reply {
    /// The record of this value.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; REPLY_SIZE];
        put(&mut bytes, 0, &REPLY_MAGIC.to_le_bytes());
        put(&mut bytes, 8, &ABI_VERSION.to_le_bytes());
        put(&mut bytes, 12, &(self.status as u32).to_le_bytes());
        put(&mut bytes, 16, &self.descriptors.to_le_bytes());
        if let Some(Grant { credentials, mac }) = self.grant {
            put(&mut bytes, 20, &mac);
            for (number, word) in credentials.words().iter().enumerate() {
                put(&mut bytes, 64 + number * 8, &word.to_le_bytes());
            }
        }
        bytes.extend_from_slice(self.text.as_bytes());
        bytes
    }

    /// The value that a record holds.
    ///
    /// # Errors
    ///
    /// The first field of the record that is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Reply, ProtocolError> {
        if bytes.len() > MAX_REPLY {
            return Err(ProtocolError::Size(bytes.len()));
        }
        check(bytes, REPLY_SIZE, REPLY_MAGIC)?;
        let number = u32_at(bytes, 12);
        let status = Status::ALL
            .into_iter()
            .find(|known| *known as u32 == number);
        let status = status.ok_or(ProtocolError::Field {
            field: "status",
            value: number.into(),
        })?;
        let words: CredentialWords = std::array::from_fn(|number| u64_at(bytes, 64 + number * 8));
        let grant = match Credentials::from_words(words) {
            Some(credentials) => Some(Grant {
                credentials,
                mac: word(bytes, 20),
            }),
            None if words == [0; 8] => None,
            None => {
                let (field, value) = ("credentials", words[0]);
                return Err(ProtocolError::Field { field, value });
            }
        };
        Ok(Reply {
            status,
            grant,
            descriptors: u32_at(bytes, 16),
            text: String::from_utf8_lossy(&bytes[REPLY_SIZE..]).into_owned(),
        })
    }
}

/// The descriptors that a tenant gets, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenancyFds<F> {
    /// What the tenant's requests work with.
    pub access: AccessFds<F>,
    /// The bells of all RX queues of the NIC, in the order of the queues' numbers: eventfds, see
    /// [`Bells`].
    pub bells: Vec<F>,
}

/// The descriptors that a tenant's requests work with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessFds<F> {
    /// The descriptors of the paths `elisa`, `elisa-strict` and `exit-kernel`.
    View {
        /// A grant of the NIC's template, of which each vCPU is attached as a member.
        grant: F,
        /// The port's own window, a memfd of [`Geometry::window_size`] bytes.
        window: F,
    },
    /// The descriptors of the paths `exit-user` and `direct`, for
    /// [`Memory::open`](crate::memory::Memory::open).
    Memory {
        /// The switch state, a memfd of [`postern_switch::layout::state_size`] bytes and the slack
        /// that follows the windows.
        state: F,
        /// The windows of all ports, in the order of the ports, memfds of [`Geometry::window_size`]
        /// bytes.
        windows: Vec<F>,
    },
}

impl<F> TenancyFds<F> {
    /// The number of descriptors that a tenant on a path gets.
    pub const fn count(path: CallPath, geometry: Geometry) -> usize {
        let access = match path.needs_view() {
            true => 2,
            false => 1 + geometry.ports() as usize,
        };
        access + Bells::count(geometry)
    }

    /// The descriptors in the order in which they come with a reply: grant and window, or state and
    /// windows; then the bells.
    pub fn into_wire(self) -> Vec<F> {
        let mut fds = match self.access {
            AccessFds::View { grant, window } => vec![grant, window],
            AccessFds::Memory { state, windows } => {
                let mut fds = vec![state];
                fds.extend(windows);
                fds
            }
        };
        fds.extend(self.bells);
        fds
    }

    /// The descriptors that came with a reply, by name; `None` if their number is not
    /// [`TenancyFds::count`].
    pub fn from_wire(path: CallPath, geometry: Geometry, fds: Vec<F>) -> Option<TenancyFds<F>> {
        if fds.len() != TenancyFds::<F>::count(path, geometry) {
            return None;
        }
        let mut fds = fds.into_iter();
        let access = if path.needs_view() {
            let (grant, window) = (fds.next()?, fds.next()?);
            AccessFds::View { grant, window }
        } else {
            let state = fds.next()?;
            let windows = fds.by_ref().take(geometry.ports() as usize).collect();
            AccessFds::Memory { state, windows }
        };
        let bells = fds.collect();
        Some(TenancyFds { access, bells })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn requests_survive_a_round_trip() {
        let attach = |path| Request::Attach { port: 11, path };
        let all = CallPath::ALL.map(attach);
        let others = [Request::Counters, Request::Control(b"{}".to_vec())];
        for request in all.into_iter().chain(others) {
            assert_eq!(Request::decode(&request.encode()), Ok(request));
        }
    }

    #[test]
    fn replies_survive_a_round_trip() {
        let geometry = Geometry::new(7, 2, 1 << 16, 1 << 14).unwrap();
        let credentials = Credentials::new(
            geometry,
            geometry.port(6).unwrap(),
            9,
            crate::memory::draw_secret().unwrap(),
        );
        for status in Status::ALL {
            let grant = (status == Status::Granted).then_some(Grant {
                credentials,
                mac: [2, 3, 4, 5, 6, 7],
            });
            let reply = Reply {
                status,
                grant,
                descriptors: 2,
                text: "why".to_owned(),
            };
            assert_eq!(Reply::decode(&reply.encode()), Ok(reply));
        }
    }

    #[test]
    fn descriptors_keep_their_names_on_the_wire() {
        let geometry = Geometry::new(3, 2, 1 << 16, 1 << 14).unwrap();
        let bells: Vec<String> = (0..6).map(|queue| format!("bell {queue}")).collect();
        let name = |name: &str| name.to_owned();
        let view = AccessFds::View {
            grant: name("grant"),
            window: name("window"),
        };
        let memory = AccessFds::Memory {
            state: name("state"),
            windows: (0..3).map(|port| format!("window {port}")).collect(),
        };
        for path in CallPath::ALL {
            let access = if path.needs_view() { &view } else { &memory };
            let fds = TenancyFds {
                access: access.clone(),
                bells: bells.clone(),
            };
            let mut wire = fds.clone().into_wire();
            assert_eq!(wire.len(), TenancyFds::<String>::count(path, geometry));
            assert_eq!(wire[wire.len() - 6..], bells, "behind the others");
            let again = TenancyFds::from_wire(path, geometry, wire.clone());
            assert_eq!(again, Some(fds));
            wire.pop();
            assert_eq!(TenancyFds::from_wire(path, geometry, wire), None);
        }
    }

    #[test]
    fn other_versions_and_sizes_are_named() {
        let mut bytes = Request::Counters.encode();
        bytes[8] ^= 0xff;
        let version = ABI_VERSION ^ 0xff;
        assert_eq!(
            Request::decode(&bytes),
            Err(ProtocolError::Version(version))
        );
        assert_eq!(Request::decode(&bytes[..31]), Err(ProtocolError::Size(31)));
        assert_eq!(Request::decode(&[]), Err(ProtocolError::Size(0)));
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_decoded(
            mut bytes in prop::collection::vec(any::<u8>(), 0..100),
            magic: u8,
        ) {
            // Half of the time with a right beginning, so that the rest is looked at.
            if magic & 1 != 0 && bytes.len() >= 12 {
                let magic = if magic & 2 != 0 { REQUEST_MAGIC } else { REPLY_MAGIC };
                put(&mut bytes, 0, &magic.to_le_bytes());
                put(&mut bytes, 8, &ABI_VERSION.to_le_bytes());
            }
            if let Ok(request) = Request::decode(&bytes) {
                prop_assert_eq!(Request::decode(&request.encode()), Ok(request));
            }
            let _ = Reply::decode(&bytes);
        }
    }
}
