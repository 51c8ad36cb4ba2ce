//! The text form of rules: reading and writing.
#![forbid(unsafe_code)]

use std::fmt;
use std::net::IpAddr;
use std::str::{FromStr, SplitWhitespace};

use postern_switch::policy::acl::{Direction, Verdict};

use super::{MacMatch, PortRange, Prefix, RuleError, RuleSpec};
use crate::mac::Mac;

const ACTION: &str = "permit or deny";
const CLAUSE: &str = "one of: in, out, from, to, vlan, ethertype, arp, ipv4, ipv6, src, dst, tcp, \
                      udp, icmp, icmpv6, sctp, dccp, udplite, proto, sport, dport, fragment";
const MAC: &str = "a MAC address like 02:00:00:00:00:01, with a mask like \
                   02:00:00:00:00:00/ff:ff:ff:00:00:00 if only some bits count";
const VLAN: &str = "a VLAN, 0 (none) to 4094";
const ETHERTYPE: &str = "an EtherType, 0x600 to 0xffff";
const PREFIX: &str = "an IP address or prefix like 10.0.0.0/8 or fd00::/8";
const PROTOCOL: &str = "a protocol number, 0 to 255";
const PORTS: &str = "a port or range like 22 or 1024-65535";

/// Names of protocols.
const PROTOCOLS: [(&str, u8); 7] = [
    ("icmp", 1),
    ("tcp", 6),
    ("udp", 17),
    ("dccp", 33),
    ("icmpv6", 58),
    ("sctp", 132),
    ("udplite", 136),
];

const ETHERTYPE_ARP: u16 = 0x0806;

fn wrong(token: &str, expected: &'static str) -> RuleError {
    RuleError::Token {
        token: token.to_owned(),
        expected,
    }
}

/// The next word, as something.
fn next<T>(
    words: &mut SplitWhitespace<'_>,
    expected: &'static str,
    parse: impl FnOnce(&str) -> Result<T, RuleError>,
) -> Result<T, RuleError> {
    parse(words.next().ok_or(RuleError::End { expected })?)
}

fn number<T: TryFrom<u32>>(token: &str, expected: &'static str) -> Result<T, RuleError> {
    let number = match token.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => token.parse(),
    };
    let number = number.ok().and_then(|number| T::try_from(number).ok());
    number.ok_or_else(|| wrong(token, expected))
}

/// Sets what may be given once.
fn once<T>(
    field: &mut Option<T>,
    value: T,
    token: &str,
    what: &'static str,
) -> Result<(), RuleError> {
    match field.replace(value) {
        None => Ok(()),
        Some(_) => Err(RuleError::Twice {
            token: token.to_owned(),
            what,
        }),
    }
}

impl FromStr for RuleSpec {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<RuleSpec, RuleError> {
        let mut words = text.split_whitespace();
        let action = next(&mut words, ACTION, |token| match token {
            "permit" => Ok(Verdict::Permit),
            "deny" => Ok(Verdict::Deny),
            _ => Err(wrong(token, ACTION)),
        })?;
        let mut rule = RuleSpec::any(action);
        while let Some(token) = words.next() {
            clause(&mut rule, token, &mut words)?;
        }
        rule.compile()?;
        Ok(rule)
    }
}

fn clause(
    rule: &mut RuleSpec,
    token: &str,
    words: &mut SplitWhitespace<'_>,
) -> Result<(), RuleError> {
    let known = PROTOCOLS.iter().find(|(name, _)| *name == token);
    if let Some((_, protocol)) = known {
        return once(&mut rule.protocol, *protocol, token, "protocol");
    }
    match token {
        "in" => once(&mut rule.direction, Direction::Ingress, token, "direction"),
        "out" => once(&mut rule.direction, Direction::Egress, token, "direction"),
        "from" => {
            let value = next(words, MAC, str::parse)?;
            once(&mut rule.from, value, token, "source MAC address")
        }
        "to" => {
            let value = next(words, MAC, str::parse)?;
            once(&mut rule.to, value, token, "destination MAC address")
        }
        "vlan" => {
            let value = next(words, VLAN, |token| number(token, VLAN))?;
            once(&mut rule.vlan, value, token, "VLAN")
        }
        "ethertype" => {
            let value = next(words, ETHERTYPE, |token| number(token, ETHERTYPE))?;
            once(&mut rule.ethertype, value, token, "EtherType")
        }
        "arp" => once(&mut rule.ethertype, ETHERTYPE_ARP, token, "EtherType"),
        "ipv4" | "ipv6" => {
            let version = if token == "ipv4" { 4 } else { 6 };
            once(&mut rule.ip_version, version, token, "IP version")?;
            // Up to two prefixes may follow without a name: source, then destination.
            for source in [true, false] {
                let mut ahead = words.clone();
                let Some(token) = ahead.next().filter(|token| is_address(token)) else {
                    break;
                };
                *words = ahead;
                if token == "any" {
                    continue;
                }
                let prefix = token.parse()?;
                if source {
                    once(&mut rule.source, prefix, token, "source prefix")?;
                } else {
                    once(&mut rule.destination, prefix, token, "destination prefix")?;
                }
            }
            Ok(())
        }
        "src" => {
            let value = next(words, PREFIX, str::parse)?;
            once(&mut rule.source, value, token, "source prefix")
        }
        "dst" => {
            let value = next(words, PREFIX, str::parse)?;
            once(&mut rule.destination, value, token, "destination prefix")
        }
        "proto" => {
            let value = next(words, PROTOCOL, |token| number(token, PROTOCOL))?;
            once(&mut rule.protocol, value, token, "protocol")
        }
        "sport" => {
            let value = next(words, PORTS, str::parse)?;
            once(
                &mut rule.source_ports,
                value,
                token,
                "range of source ports",
            )
        }
        "dport" => {
            let value = next(words, PORTS, str::parse)?;
            let what = "range of destination ports";
            once(&mut rule.destination_ports, value, token, what)
        }
        "fragment" => {
            rule.fragment = true;
            Ok(())
        }
        _ => Err(wrong(token, CLAUSE)),
    }
}

/// Whether a word is meant as an address: no clause has these characters.
fn is_address(token: &str) -> bool {
    token == "any" || token.contains(['.', ':', '/'])
}

impl FromStr for MacMatch {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<MacMatch, RuleError> {
        let address = |part: &str| Mac::parse_any(part).map(|mac| mac.0);
        let parsed = match text.split_once('/') {
            None => address(text).map(|address| (address, [0xff; 6])),
            Some((value, mask)) => address(value).zip(address(mask)),
        };
        let (address, mask) = parsed.ok_or_else(|| wrong(text, MAC))?;
        MacMatch::new(address, mask)
    }
}

impl FromStr for Prefix {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Prefix, RuleError> {
        let (address, length) = match text.split_once('/') {
            None => (text, None),
            Some((address, length)) => (address, Some(length)),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong(text, PREFIX))?;
        let length = match length {
            None if address.is_ipv4() => 32,
            None => 128,
            Some(length) => number(length, PREFIX).map_err(|_| wrong(text, PREFIX))?,
        };
        Prefix::new(address, length)
    }
}

impl FromStr for PortRange {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<PortRange, RuleError> {
        let port = |token| number(token, PORTS).map_err(|_| wrong(text, PORTS));
        match text.split_once('-') {
            None => port(text).and_then(|port| PortRange::new(port, port)),
            Some((low, high)) => PortRange::new(port(low)?, port(high)?),
        }
    }
}

crate::serde_as_text!(MacMatch, Prefix, PortRange);

impl fmt::Display for MacMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Mac(self.address).fmt(f)?;
        if self.mask != [0xff; 6] {
            write!(f, "/{}", Mac(self.mask))?;
        }
        Ok(())
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.low == self.high {
            write!(f, "{}", self.low)
        } else {
            write!(f, "{}-{}", self.low, self.high)
        }
    }
}

impl fmt::Display for RuleSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.action {
            Verdict::Permit => "permit",
            Verdict::Deny => "deny",
        })?;
        match self.direction {
            None => {}
            Some(Direction::Ingress) => f.write_str(" in")?,
            Some(Direction::Egress) => f.write_str(" out")?,
        }
        if let Some(from) = self.from {
            write!(f, " from {from}")?;
        }
        if let Some(to) = self.to {
            write!(f, " to {to}")?;
        }
        if let Some(vlan) = self.vlan {
            write!(f, " vlan {vlan}")?;
        }
        match self.ethertype {
            None => {}
            Some(ETHERTYPE_ARP) => f.write_str(" arp")?,
            Some(ethertype) => write!(f, " ethertype {ethertype:#06x}")?,
        }
        if let Some(version) = self.ip_version {
            write!(f, " ipv{version}")?;
        }
        if let Some(source) = self.source {
            write!(f, " src {source}")?;
        }
        if let Some(destination) = self.destination {
            write!(f, " dst {destination}")?;
        }
        if let Some(protocol) = self.protocol {
            match PROTOCOLS.iter().find(|(_, number)| *number == protocol) {
                Some((name, _)) => write!(f, " {name}")?,
                None => write!(f, " proto {protocol}")?,
            }
        }
        if let Some(ports) = self.source_ports {
            write!(f, " sport {ports}")?;
        }
        if let Some(ports) = self.destination_ports {
            write!(f, " dport {ports}")?;
        }
        if self.fragment {
            f.write_str(" fragment")?;
        }
        Ok(())
    }
}
