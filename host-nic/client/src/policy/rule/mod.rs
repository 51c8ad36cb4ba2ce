//! Rules of access lists as people and programs write them, and how they get into a list.
//!
//! As text, a rule is `permit` or `deny` and then what a frame must have, in any order, each at
//! most once:
//!
//! | clause | matches |
//! | --- | --- |
//! | `in` or `out` | only what the port sends, only what it receives |
//! | `from MAC[/MASK]`, `to MAC[/MASK]` | source and destination address of layer 2 |
//! | `vlan N` | the VLAN, 0 for none |
//! | `ethertype 0xN` or `arp` | the EtherType behind the tags |
//! | `ipv4 [SRC [DST]]`, `ipv6 [SRC [DST]]` | the IP version, and prefixes or `any` |
//! | `src PREFIX`, `dst PREFIX` | one prefix, of either version |
//! | `tcp`, `udp`, `icmp`, `icmpv6`, `sctp`, `dccp`, `udplite`, `proto N` | the IP protocol |
//! | `sport N[-M]`, `dport N[-M]` | source and destination port |
//! | `fragment` | any fragment of an IP packet |
//!
//! ```
//! # use postern_nic_client::policy::rule::RuleSpec;
//! let rule: RuleSpec = "deny in ipv4 10.0.0.0/8 tcp dport 22".parse()?;
//! assert_eq!(rule.to_string(), "deny in ipv4 src 10.0.0.0/8 tcp dport 22");
//! # Ok::<(), postern_nic_client::policy::rule::RuleError>(())
//! ```
#![forbid(unsafe_code)]

pub mod shadow;
mod text;

use std::net::IpAddr;

use postern_switch::policy::acl::{Direction, MAX_RULES, RuleWords, Verdict, key};
use postern_switch::policy::headers::has_ports;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A rule, or a list of rules, that is refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum RuleError {
    /// A word that means nothing where it stands.
    #[error("'{token}' is not {expected}")]
    Token {
        /// The word.
        token: String,
        /// The words that may stand there.
        expected: &'static str,
    },
    /// The rule ends too early.
    #[error("the rule ends where {expected} should follow")]
    End {
        /// The missing words.
        expected: &'static str,
    },
    /// Two clauses of a kind.
    #[error("'{token}' says a second time what was said before: give one {what}")]
    Twice {
        /// The second one.
        token: String,
        /// The kind of clause that there may be one of.
        what: &'static str,
    },
    /// Bits that the mask or prefix length does not cover are set.
    #[error("'{token}' has bits set outside its mask; write '{instead}'")]
    Outside {
        /// Address and mask.
        token: String,
        /// Address and mask with these bits cleared.
        instead: String,
    },
    /// Two fields that no frame has together.
    #[error("{first} and {second} cannot both match: remove one")]
    Contradiction {
        /// One field.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
    /// Ports without a protocol that has any.
    #[error("ports need a protocol that has them: add tcp, udp, sctp, dccp or udplite")]
    PortsWithoutProtocol,
    /// A number out of its range.
    #[error("{what} {value} is out of range: {allowed}")]
    Range {
        /// The meaning of the number.
        what: &'static str,
        /// The number.
        value: u32,
        /// The range of such numbers.
        allowed: &'static str,
    },
    /// More rules than a list holds.
    #[error("{count} rules are too many: a list holds {MAX_RULES}")]
    TooMany {
        /// The number of rules.
        count: usize,
    },
    /// A rule of a list.
    #[error("rule {number}, '{rule}': {reason}")]
    InList {
        /// Number of the rule in its list, from 1.
        number: usize,
        /// Text of the rule.
        rule: String,
        /// The fault of the rule.
        reason: Box<RuleError>,
    },
}

/// Addresses of layer 2: a value and the bits of it that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacMatch {
    address: [u8; 6],
    mask: [u8; 6],
}

impl MacMatch {
    /// Addresses that equal `address` where `mask` has ones.
    ///
    /// # Errors
    ///
    /// [`RuleError::Outside`] if the address has ones where the mask has none.
    pub fn new(address: [u8; 6], mask: [u8; 6]) -> Result<MacMatch, RuleError> {
        let inside = std::array::from_fn(|byte| address[byte] & mask[byte]);
        let fixed = MacMatch {
            address: inside,
            mask,
        };
        if inside != address {
            let token = MacMatch { address, mask }.to_string();
            let instead = fixed.to_string();
            return Err(RuleError::Outside { token, instead });
        }
        Ok(fixed)
    }

    /// Value and mask as words.
    fn words(matches: Option<MacMatch>) -> [u64; 2] {
        let word = |[a, b, c, d, e, f]: [u8; 6]| u64::from_le_bytes([a, b, c, d, e, f, 0, 0]);
        matches.map_or([0; 2], |matches| [matches.address, matches.mask].map(word))
    }

    /// Exactly this address.
    pub const fn exactly(address: [u8; 6]) -> MacMatch {
        let mask = [0xff; 6];
        MacMatch { address, mask }
    }
}

/// IP addresses that begin alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// Addresses whose first `length` bits are those of `address`.
    ///
    /// # Errors
    ///
    /// [`RuleError::Range`] if the address has fewer bits, [`RuleError::Outside`] if others are
    /// set.
    pub fn new(address: IpAddr, length: u8) -> Result<Prefix, RuleError> {
        let (bits, allowed) = match address {
            IpAddr::V4(_) => (32, "an IPv4 prefix has 0 to 32 bits"),
            IpAddr::V6(_) => (128, "an IPv6 prefix has 0 to 128 bits"),
        };
        if length > bits {
            return Err(RuleError::Range {
                what: "prefix length",
                value: length.into(),
                allowed,
            });
        }
        let inside = match address {
            IpAddr::V4(four) => IpAddr::V4((four.to_bits() & mask(32, length) as u32).into()),
            IpAddr::V6(six) => IpAddr::V6((six.to_bits() & mask(128, length)).into()),
        };
        let fixed = Prefix {
            address: inside,
            length,
        };
        if inside != address {
            return Err(RuleError::Outside {
                token: format!("{address}/{length}"),
                instead: fixed.to_string(),
            });
        }
        Ok(fixed)
    }

    /// 4 or 6.
    pub const fn version(&self) -> u8 {
        if self.address.is_ipv4() { 4 } else { 6 }
    }

    /// Value and mask, as [`postern_switch::policy::headers::Headers`] has addresses.
    fn words(prefix: Option<Prefix>) -> [u64; 4] {
        let Some(Prefix { address, length }) = prefix else {
            return [0; 4];
        };
        match address {
            IpAddr::V4(four) => [four.to_bits().into(), 0, mask(32, length) as u64, 0],
            IpAddr::V6(six) => {
                let (value, mask) = (six.to_bits(), mask(128, length));
                let halves = |number: u128| [(number >> 64) as u64, number as u64];
                let ([a, b], [c, d]) = (halves(value), halves(mask));
                [a, b, c, d]
            }
        }
    }
}

/// The mask of a prefix, in the lowest `bits` bits.
fn mask(bits: u32, length: u8) -> u128 {
    let all = u128::MAX >> (128 - bits);
    let rest = bits - u32::from(length);
    all & u128::MAX.checked_shl(rest).unwrap_or(0)
}

/// Ports from a lowest to a highest one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortRange {
    low: u16,
    high: u16,
}

impl PortRange {
    /// Any port.
    pub const ANY: PortRange = PortRange {
        low: 0,
        high: u16::MAX,
    };

    /// Ports from `low` to `high`, both included.
    ///
    /// # Errors
    ///
    /// [`RuleError::Range`] if that is none.
    pub fn new(low: u16, high: u16) -> Result<PortRange, RuleError> {
        if low > high {
            return Err(RuleError::Range {
                what: "first port",
                value: low.into(),
                allowed: "it must not be above the last one",
            });
        }
        Ok(PortRange { low, high })
    }
}

/// A rule. What is `None` matches anything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleSpec {
    /// The verdict on frames that match.
    #[serde(with = "verdict")]
    pub action: Verdict,
    /// The way that the frame goes; both without.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "direction")]
    pub direction: Option<Direction>,
    /// Source address of layer 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<MacMatch>,
    /// Destination address of layer 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<MacMatch>,
    /// VLAN, 0 to 4094; 0 is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// EtherType, from 0x600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ethertype: Option<u16>,
    /// IP version, 4 or 6. The prefixes imply it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_version: Option<u8>,
    /// Source address of layer 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Prefix>,
    /// Destination address of layer 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<Prefix>,
    /// IP protocol number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u8>,
    /// Source ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_ports: Option<PortRange>,
    /// Destination ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_ports: Option<PortRange>,
    /// Whether only fragments match.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fragment: bool,
}

impl RuleSpec {
    /// A rule that matches every frame.
    pub const fn any(action: Verdict) -> RuleSpec {
        RuleSpec {
            action,
            direction: None,
            from: None,
            to: None,
            vlan: None,
            ethertype: None,
            ip_version: None,
            source: None,
            destination: None,
            protocol: None,
            source_ports: None,
            destination_ports: None,
            fragment: false,
        }
    }

    /// The IP version that must match, given or implied.
    ///
    /// # Errors
    ///
    /// [`RuleError::Contradiction`] and [`RuleError::Range`].
    fn version(&self) -> Result<Option<u8>, RuleError> {
        let contradiction = |first, second| Err(RuleError::Contradiction { first, second });
        let source = self.source.map(|prefix| prefix.version());
        let destination = self.destination.map(|prefix| prefix.version());
        if source.is_some() && destination.is_some() && source != destination {
            return contradiction("an IPv4 prefix", "an IPv6 prefix");
        }
        let implied = source.or(destination);
        match (self.ip_version, implied) {
            (Some(4 | 6), None) => Ok(self.ip_version),
            (Some(4), Some(6)) => contradiction("ipv4", "an IPv6 prefix"),
            (Some(6), Some(4)) => contradiction("ipv6", "an IPv4 prefix"),
            (Some(4 | 6) | None, implied) => Ok(implied),
            (Some(value), _) => Err(RuleError::Range {
                what: "IP version",
                value: value.into(),
                allowed: "4 or 6",
            }),
        }
    }

    /// The rule as it lies in a list.
    ///
    /// # Errors
    ///
    /// A [`RuleError`] that says which fields are out of range or contradict each other.
    pub fn compile(&self) -> Result<RuleWords, RuleError> {
        let range = |what, value: u16, allowed| {
            let value = value.into();
            Err(RuleError::Range {
                what,
                value,
                allowed,
            })
        };
        let mut value = match self.action {
            Verdict::Permit => 0,
            Verdict::Deny => key::DENY,
        };
        let mut mask = 0;
        let mut demand = |field: u64, bits: u64| {
            value |= bits;
            mask |= field;
        };
        match self.direction {
            None => {}
            Some(Direction::Ingress) => demand(key::INGRESS, key::INGRESS),
            Some(Direction::Egress) => demand(key::EGRESS, key::EGRESS),
        }
        if let Some(vlan) = self.vlan {
            if vlan > 4094 {
                return range("VLAN", vlan, "0 (none) to 4094");
            }
            demand(key::VLAN, u64::from(vlan) << key::VLAN_SHIFT);
        }
        let version = self.version()?;
        if let Some(version) = version {
            demand(key::IP_VERSION, u64::from(version) << key::IP_VERSION_SHIFT);
        }
        if let Some(ethertype) = self.ethertype {
            if ethertype < 0x600 {
                return range("EtherType", ethertype, "1536 (0x600) to 65535");
            }
            if version.is_some() || self.protocol.is_some() || self.fragment {
                return Err(RuleError::Contradiction {
                    first: "an EtherType",
                    second: "a field of IP",
                });
            }
            demand(key::ETHERTYPE, u64::from(ethertype) << key::ETHERTYPE_SHIFT);
        }
        if let Some(protocol) = self.protocol {
            let bits = u64::from(protocol) << key::PROTOCOL_SHIFT;
            demand(key::PROTOCOL, bits | key::HAS_PROTOCOL);
        }
        if self.fragment {
            demand(key::FRAGMENT, key::FRAGMENT);
        }
        let mut ports = 0;
        if self.source_ports.is_some() || self.destination_ports.is_some() {
            if !self.protocol.is_some_and(has_ports) {
                return Err(RuleError::PortsWithoutProtocol);
            }
            demand(key::HAS_PORTS, key::HAS_PORTS | key::PORTS);
            let word = |ports: Option<PortRange>| {
                let PortRange { low, high } = ports.unwrap_or(PortRange::ANY);
                u64::from(low) | u64::from(high) << 16
            };
            ports = word(self.source_ports) | word(self.destination_ports) << 32;
        }
        if self.source.is_some() || self.destination.is_some() {
            demand(key::HAS_ADDRESSES, key::HAS_ADDRESSES | key::ADDRESSES);
        }
        if self.from.is_some() || self.to.is_some() {
            demand(0, key::MACS);
        }
        let [source, source_mask] = MacMatch::words(self.from);
        let [destination, destination_mask] = MacMatch::words(self.to);
        let [s0, s1, s2, s3] = Prefix::words(self.source);
        let [d0, d1, d2, d3] = Prefix::words(self.destination);
        #[rustfmt::skip]
        let words = [
            value, mask, ports, source, source_mask, destination, destination_mask, 0,
            s0, s1, s2, s3, d0, d1, d2, d3,
        ];
        Ok(words)
    }
}

/// A verdict as a word: `permit` or `deny`.
pub(super) mod verdict {
    use postern_switch::policy::acl::Verdict;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(remote = "Verdict", rename_all = "lowercase")]
    enum Word {
        Permit,
        Deny,
    }

    pub fn serialize<S: Serializer>(verdict: &Verdict, to: S) -> Result<S::Ok, S::Error> {
        Word::serialize(verdict, to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Verdict, D::Error> {
        Word::deserialize(from)
    }
}

/// A direction as a word, `ingress` or `egress`, or nothing.
mod direction {
    use postern_switch::policy::acl::Direction;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(remote = "Direction", rename_all = "lowercase")]
    enum Word {
        Ingress,
        Egress,
    }

    #[derive(Serialize, Deserialize)]
    struct Wrapped(#[serde(with = "Word")] Direction);

    pub fn serialize<S: Serializer>(value: &Option<Direction>, to: S) -> Result<S::Ok, S::Error> {
        value.map(Wrapped).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Direction>, D::Error> {
        let value = Option::<Wrapped>::deserialize(from)?;
        Ok(value.map(|Wrapped(direction)| direction))
    }
}

#[cfg(test)]
mod tests;
