//! What the owner of a NIC and a VMM say to each other, over a Unix socket of type SOCK_SEQPACKET.
//!
//! One record each way, little endian, then silence: the connection stands for the port, which is
//! released when it closes. Descriptors come with the reply ([`CallPath`] decides which); where they are more
//! than Linux takes with one record, the reply is repeated with the rest of them.
//!
//! ```text
//!   request  0  magic        reply  0  magic
//!            8  ABI version         8  ABI version
//!           12  kind               12  status
//!           16  port               16  descriptors
//!           20  path               20  MAC address (6), zero (38)
//!           24  zero (8)           64  the caller's words (64), zero where there is none
//!                                 128  text: why not
//! ```
//!
//! Counters, and answers to [`crate::control::Control`], which may be longer than a record, come in a file: JSON. What is
//! asked of the control is JSON, too, and follows its request's 32 bytes.

use postern_abi::ABI_VERSION;
use postern_abi::platform::CallPath;

use postern_switch::credentials::{CredentialWords, Credentials};

const REQUEST_MAGIC: u64 = u64::from_le_bytes(*b"PSTNNICQ");
const REPLY_MAGIC: u64 = u64::from_le_bytes(*b"PSTNNICA");

/// Bytes of a request in front of its text.
pub const REQUEST_SIZE: usize = 32;
/// Most bytes of a request.
pub const MAX_REQUEST: usize = 64 << 10;
/// Bytes of a reply in front of its text.
pub const REPLY_SIZE: usize = 128;
/// Most bytes of a reply.
pub const MAX_REPLY: usize = 64 << 10;

/// What a VMM, or somebody curious, asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A port, until the connection closes.
    Attach {
        /// Number of the port.
        port: u32,
        /// How the guest's requests will reach the NIC.
        path: CallPath,
    },
    /// The counters of all ports.
    Counters,
    /// A [`crate::control::Control`], as JSON.
    Control(Vec<u8>),
}

/// Why a record is none of this protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// It is too short or too long.
    #[error("a record of {0} bytes is not one of the NIC's protocol")]
    Size(usize),
    /// It does not begin as it should.
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
        /// Which one.
        field: &'static str,
        /// What it holds.
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
    /// As a record.
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

    /// From a record.
    ///
    /// # Errors
    /// What is wrong with it.
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

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Status {
    /// As asked.
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
}

impl Status {
    const ALL: [Status; 8] = [
        Status::Granted,
        Status::BadRequest,
        Status::NoSuchPort,
        Status::PortTaken,
        Status::PathRefused,
        Status::NoViews,
        Status::Failed,
        Status::Disabled,
    ];
}

/// The NIC's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// How it ended.
    pub status: Status,
    /// The tenancy that was granted.
    pub grant: Option<Grant>,
    /// How many descriptors come with it.
    pub descriptors: u32,
    /// Why not, or the counters.
    pub text: String,
}

/// A port that a VMM has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Port, tenancy and geometry.
    pub caller: Credentials,
    /// MAC address that the NIC suggests.
    pub mac: [u8; 6],
}

impl Reply {
    /// As a record.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; REPLY_SIZE];
        put(&mut bytes, 0, &REPLY_MAGIC.to_le_bytes());
        put(&mut bytes, 8, &ABI_VERSION.to_le_bytes());
        put(&mut bytes, 12, &(self.status as u32).to_le_bytes());
        put(&mut bytes, 16, &self.descriptors.to_le_bytes());
        if let Some(Grant { caller, mac }) = self.grant {
            put(&mut bytes, 20, &mac);
            for (number, word) in caller.words().iter().enumerate() {
                put(&mut bytes, 64 + number * 8, &word.to_le_bytes());
            }
        }
        bytes.extend_from_slice(self.text.as_bytes());
        bytes
    }

    /// From a record.
    ///
    /// # Errors
    /// What is wrong with it.
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
            Some(caller) => Some(Grant {
                caller,
                mac: word(bytes, 20),
            }),
            None if words == [0; 8] => None,
            None => {
                let (field, value) = ("caller", words[0]);
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

#[cfg(test)]
mod tests {
    use super::*;
    use postern_abi::window::Geometry;
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
        let caller = Credentials::new(geometry, geometry.port(6).unwrap(), 9);
        for status in Status::ALL {
            let grant = (status == Status::Granted).then_some(Grant {
                caller,
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
        fn any_bytes_can_be_decoded(mut bytes in prop::collection::vec(any::<u8>(), 0..100), magic: u8) {
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
