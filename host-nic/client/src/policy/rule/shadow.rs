//! Rules that never decide, because one before them matches all of their frames.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use postern_switch::policy::acl::Verdict;

use super::{MacMatch, PortRange, Prefix, RuleSpec};

impl RuleSpec {
    /// True if this rule surely matches each frame that `other` matches, so that `other` behind it
    /// never decides. A rule that denies also matches frames whose fields are hidden, and one that
    /// permits does not: a rule that permits shadows one that denies only if it names no field that
    /// can be hidden.
    pub fn shadows(&self, other: &RuleSpec) -> bool {
        let hidden_fields = self.names_hideable_field();
        if self.action == Verdict::Permit && other.action == Verdict::Deny && hidden_fields {
            return false;
        }
        fn any_or_equal<T: PartialEq>(own: Option<T>, other: Option<T>) -> bool {
            own.is_none() || own == other
        }
        fn any_or_within<T: Copy>(own: Option<T>, other: Option<T>, has: fn(T, T) -> bool) -> bool {
            match (own, other) {
                (None, _) => true,
                (Some(own), Some(other)) => has(own, other),
                (Some(_), None) => false,
            }
        }
        let version = |rule: &RuleSpec| rule.version().ok().flatten();
        any_or_equal(self.direction, other.direction)
            && any_or_within(self.from, other.from, mac_contains)
            && any_or_within(self.to, other.to, mac_contains)
            && any_or_equal(self.vlan, other.vlan)
            && any_or_equal(self.ethertype, other.ethertype)
            && any_or_equal(version(self), version(other))
            && any_or_within(self.source, other.source, prefix_contains)
            && any_or_within(self.destination, other.destination, prefix_contains)
            && any_or_equal(self.protocol, other.protocol)
            && any_or_within(self.source_ports, other.source_ports, range_contains)
            && any_or_within(
                self.destination_ports,
                other.destination_ports,
                range_contains,
            )
            && (!self.fragment || other.fragment)
    }

    /// True if the rule names a field that a frame can hide behind tags or extension headers.
    fn names_hideable_field(&self) -> bool {
        self.ethertype.is_some()
            || self.ip_version.is_some()
            || self.source.is_some()
            || self.destination.is_some()
            || self.protocol.is_some()
            || self.source_ports.is_some()
            || self.destination_ports.is_some()
            || self.fragment
    }
}

/// The first rule of a list that never decides, and the one before it that shadows it, both counted
/// from 1. Nothing if each rule can decide.
pub fn first_shadowed(rules: &[RuleSpec]) -> Option<(usize, usize)> {
    rules.iter().enumerate().find_map(|(index, rule)| {
        let before = rules[..index].iter();
        let by = before.enumerate().find(|(_, first)| first.shadows(rule));
        by.map(|(first, _)| (index + 1, first + 1))
    })
}

fn mac_contains(all: MacMatch, some: MacMatch) -> bool {
    let bytes = all.mask.iter().zip(all.address);
    let others = some.mask.iter().zip(some.address);
    bytes
        .zip(others)
        .all(|((mask, address), (other_mask, other_address))| {
            other_mask & mask == *mask && other_address & mask == address
        })
}

fn prefix_contains(all: Prefix, some: Prefix) -> bool {
    let begins_alike = match (all.address, some.address) {
        (IpAddr::V4(all_bits), IpAddr::V4(bits)) => {
            let mask = super::mask(32, all.length) as u32;
            bits.to_bits() & mask == all_bits.to_bits()
        }
        (IpAddr::V6(all_bits), IpAddr::V6(bits)) => {
            let mask = super::mask(128, all.length);
            bits.to_bits() & mask == all_bits.to_bits()
        }
        _ => false,
    };
    begins_alike && all.length <= some.length
}

fn range_contains(all: PortRange, some: PortRange) -> bool {
    all.low <= some.low && some.high <= all.high
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shadowed(rules: &[&str]) -> Option<(usize, usize)> {
        let rules: Vec<RuleSpec> = rules.iter().map(|rule| rule.parse().unwrap()).collect();
        first_shadowed(&rules)
    }

    #[test]
    fn rules_that_never_decide_are_found() {
        for rules in [
            ["permit in arp", "permit in arp"],
            ["deny", "permit in tcp dport 22"],
            ["permit", "deny"],
            [
                "deny ipv4 10.0.0.0/8",
                "permit in ipv4 10.1.0.0/16 tcp dport 22",
            ],
            ["permit tcp dport 1-1000", "permit tcp dport 22-80"],
            [
                "deny from 02:00:00:00:00:00/ff:ff:ff:00:00:00",
                "deny from 02:00:00:00:00:07 arp",
            ],
            ["deny ipv6", "permit src fd00::/8"],
        ] {
            assert_eq!(shadowed(&rules), Some((2, 1)), "{rules:?}");
        }
        assert_eq!(
            shadowed(&["permit arp", "deny ipv4", "permit arp"]),
            Some((3, 1))
        );
    }

    #[test]
    fn rules_that_can_decide_are_left_alone() {
        for rules in [
            ["permit in arp", "permit out arp"],
            ["permit in tcp dport 22", "permit tcp dport 22"],
            // A frame that hides its ports is denied by the second rule, and not permitted by the
            // first.
            ["permit tcp dport 22", "deny tcp dport 22"],
            ["deny ipv4 10.1.0.0/16", "deny ipv4 10.0.0.0/8"],
            ["deny vlan 7", "deny"],
            ["deny tcp dport 22", "deny udp dport 22"],
            ["deny ipv4 fragment", "deny ipv4"],
            ["deny src 10.0.0.0/8", "deny dst 10.0.0.0/8"],
        ] {
            assert_eq!(shadowed(&rules), None, "{rules:?}");
        }
    }
}
