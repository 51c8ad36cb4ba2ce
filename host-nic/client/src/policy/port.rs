//! The policy of a port as people and programs write it.
#![forbid(unsafe_code)]

use std::fmt;
use std::str::FromStr;

use postern_switch::policy::reserved::MAC_CONTROL;
use serde::{Deserialize, Serialize};

use super::acl::AclSpec;
use super::rate::RateLimit;
use super::vlan::VlanSpec;
use crate::mac::Mac;

/// The source addresses that a port may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Source {
    /// Any address.
    #[default]
    Any,
    /// The address that its tenant was given, whoever that is; none as long as there is no tenant.
    Own,
    /// This address.
    Address(Mac),
}

/// A text that is no [`Source`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no source address: give any, own, or six bytes such as 02:00:00:00:00:01")]
pub struct SourceError(String);

impl FromStr for Source {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Source, SourceError> {
        match text {
            "any" => return Ok(Source::Any),
            "own" => return Ok(Source::Own),
            _ => {}
        }
        let mac = text.parse().map_err(|_| SourceError(text.to_owned()))?;
        Ok(Source::Address(mac))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Any => f.write_str("any"),
            Source::Own => f.write_str("own"),
            Source::Address(mac) => mac.fmt(f),
        }
    }
}

crate::serde_as_text!(Source, ReservedAddress);

/// The other ports that a port talks to, whatever their VLAN (the roles of RFC 5517, "Private
/// VLANs").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// All ports.
    #[default]
    Promiscuous,
    /// Ports of the community of the same number, and promiscuous ones.
    Community(u16),
    /// Promiscuous ports.
    Isolated,
}

impl Isolation {
    /// Whether frames go from one port to the other.
    pub const fn reaches(self, other: Isolation) -> bool {
        match (self, other) {
            (Isolation::Promiscuous, _) | (_, Isolation::Promiscuous) => true,
            (Isolation::Community(a), Isolation::Community(b)) => a == b,
            _ => false,
        }
    }
}

/// A reserved group address, 01:80:c2:00:00:00 to 0f, that a port may be told to forward frames to.
/// As text it is the last byte, two hexadecimal digits, as the tables of IEEE 802.1Q list it: `0e` is
/// that of LLDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ReservedAddress(u8);

/// A text that is no [`ReservedAddress`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReservedAddressError {
    /// The text is not the last byte of a reserved address.
    #[error(
        "'{0}' is no reserved group address: give the last byte of 01:80:c2:00:00:00 to 0f, such as 0e"
    )]
    Text(String),
    /// The address is that of MAC control.
    #[error(
        "frames to 01:80:c2:00:00:01 (MAC control, such as PAUSE) are never forwarded: leave 01 out"
    )]
    MacControl,
}

impl ReservedAddress {
    /// Last byte of the address, 0 to 15.
    pub const fn number(self) -> u8 {
        self.0
    }
}

impl FromStr for ReservedAddress {
    type Err = ReservedAddressError;

    fn from_str(text: &str) -> Result<ReservedAddress, ReservedAddressError> {
        let number = match text.as_bytes() {
            [b'0', _] => u8::from_str_radix(text, 16).ok(),
            _ => None,
        };
        match number.map(u32::from) {
            None => Err(ReservedAddressError::Text(text.to_owned())),
            Some(MAC_CONTROL) => Err(ReservedAddressError::MacControl),
            Some(number) => Ok(ReservedAddress(number as u8)),
        }
    }
}

impl fmt::Display for ReservedAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}", self.0)
    }
}

/// The policy of a port: the frames that it may send and receive. The default is all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PortPolicy {
    /// The source addresses that it may use.
    pub source: Source,
    /// The port's VLANs. As soon as one port of the NIC has any, the others are access ports of
    /// [`postern_switch::policy::vlan::DEFAULT_PVID`] unless they have some, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan: Option<VlanSpec>,
    /// The limit of what it may send.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<RateLimit>,
    /// The limit of what it may receive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<RateLimit>,
    /// The frames that it may send and receive.
    pub acl: AclSpec,
    /// Number of the port that gets a copy of all that this one sends and receives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror: Option<u32>,
    /// The other ports that it talks to.
    pub isolation: Isolation,
    /// Numbers of further ports that its frames do not reach.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub blocked: Vec<u32>,
    /// The reserved group addresses to which frames that it sends are forwarded; those to others are
    /// filtered, as by any bridge.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reserved: Vec<ReservedAddress>,
    /// Whether it takes part in the bridge at all. If not, it reaches no other port and gets
    /// nothing but copies as another's mirror.
    pub bridging: bool,
}

impl Default for PortPolicy {
    fn default() -> PortPolicy {
        PortPolicy {
            source: Source::Any,
            vlan: None,
            ingress: None,
            egress: None,
            acl: AclSpec::default(),
            mirror: None,
            isolation: Isolation::Promiscuous,
            blocked: Vec::new(),
            reserved: Vec::new(),
            bridging: true,
        }
    }
}

impl PortPolicy {
    /// Whether frames from here may go to another port, as far as bridging and isolation say so.
    pub fn reaches(&self, other: &PortPolicy, number: u32) -> bool {
        self.bridging
            && other.bridging
            && self.isolation.reaches(other.isolation)
            && !self.blocked.contains(&number)
    }

    /// Whether frames that the port sends meet a policy of its own, blocked ports apart.
    pub fn affects_ingress(&self) -> bool {
        self.source != Source::Any
            || self.ingress.is_some()
            || self.acl != AclSpec::default()
            || self.mirror.is_some()
    }

    /// Whether frames that the port receives meet a policy of its own, VLANs apart.
    pub fn affects_egress(&self) -> bool {
        self.egress.is_some() || self.mirror.is_some() || self.acl.affects_egress()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use super::*;

    #[test]
    fn reserved_addresses_are_read_and_written() {
        for number in 0..16u8 {
            let text = format!("{number:02x}");
            let address = text.parse::<ReservedAddress>();
            if number == 1 {
                assert_eq!(address, Err(ReservedAddressError::MacControl));
                continue;
            }
            let address = address.unwrap();
            assert_eq!((address.number(), address.to_string()), (number, text));
        }
        for text in ["", "e", "10", "0g", "+e", "00e", "0e ", "-1"] {
            let error = text.parse::<ReservedAddress>().unwrap_err();
            assert!(error.to_string().contains(&format!("'{text}'")), "{error}");
        }
        let policy = PortPolicy {
            reserved: vec!["03".parse().unwrap(), "0e".parse().unwrap()],
            ..PortPolicy::default()
        };
        let json = serde_json::to_string(&policy).unwrap();
        assert!(json.contains(r#""reserved":["03","0e"]"#), "{json}");
        assert_eq!(serde_json::from_str::<PortPolicy>(&json).unwrap(), policy);
    }
}
