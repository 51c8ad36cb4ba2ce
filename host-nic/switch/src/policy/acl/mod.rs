//! Access lists: which frames a port may send and receive, by the fields of layers 2 to 4.
//!
//! ```text
//!  Acl       +------------+----------------------+----------------------+
//!            | generation | bank 0               | bank 1               |
//!            +------------+----------------------+----------------------+
//!  Bank      | header: number of rules, default | hits x 32 | rules x 32 |
//!  Rule      | key, ports, MAC addresses        | IP addresses           |   two cache lines
//! ```
//!
//! The lowest bit of the generation names the bank that counts. The host writes a new list into the other
//! bank and then advances the generation, so a list changes as a whole, and a host that dies in between
//! has changed nothing. A caller that finds the generation changed behind its evaluation may have seen
//! parts of two lists; it evaluates again, and denies after [`TRIES`] such changes. This is a sequence lock
//! whose readers give up instead of waiting.
//!
//! The first rule that matches decides; without one the list's default does. Rules are read-only to
//! callers. Hits are counted elsewhere in the bank, so that counting takes no rule out of another's cache.
//!
//! *What cannot be read.* A rule that permits matches only what is known. A rule that denies also matches
//! where a field that it names is hidden ([`Hidden`]), if everything else fits: so nobody evades `deny ...
//! dport 22` behind a long chain of extension headers. A later fragment has no ports and
//! hides none: rules on ports do not match it, as in RFC 1858 ("Filtering IP fragments"); without its
//! first fragment it is of no use to the receiver.

use crate::sync::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
    fence,
};

use super::headers::{Fragment, Headers, Hidden};

/// Rules of a list.
pub const MAX_RULES: usize = 32;
/// Evaluations of one frame at most, each spoiled by a change of the list.
pub const TRIES: usize = 3;
/// Words of a rule.
pub const RULE_WORDS: usize = 16;

/// Fields of a frame's key and a rule's value and mask, and flags of a rule's value.
pub mod key {
    /// 12 bits: the VLAN.
    pub const VLAN_SHIFT: u32 = 0;
    /// 4 bits: 4, 6 or 0.
    pub const IP_VERSION_SHIFT: u32 = 12;
    /// 16 bits: the EtherType.
    pub const ETHERTYPE_SHIFT: u32 = 16;
    /// 8 bits: the protocol.
    pub const PROTOCOL_SHIFT: u32 = 32;
    /// The protocol is known.
    pub const HAS_PROTOCOL: u64 = 1 << 40;
    /// The packet is a fragment.
    pub const FRAGMENT: u64 = 1 << 41;
    /// The frame comes from the port.
    pub const INGRESS: u64 = 1 << 42;
    /// The frame goes to the port.
    pub const EGRESS: u64 = 1 << 43;
    /// Ports are known.
    pub const HAS_PORTS: u64 = 1 << 44;
    /// IP addresses are known.
    pub const HAS_ADDRESSES: u64 = 1 << 45;

    /// All of the VLAN.
    pub const VLAN: u64 = 0xfff << VLAN_SHIFT;
    /// All of the IP version.
    pub const IP_VERSION: u64 = 15 << IP_VERSION_SHIFT;
    /// All of the EtherType.
    pub const ETHERTYPE: u64 = 0xffff << ETHERTYPE_SHIFT;
    /// All of the protocol.
    pub const PROTOCOL: u64 = 0xff << PROTOCOL_SHIFT | HAS_PROTOCOL;

    /// Rule: its addresses of layer 2 count.
    pub const MACS: u64 = 1 << 60;
    /// Rule: its IP addresses count.
    pub const ADDRESSES: u64 = 1 << 61;
    /// Rule: its ranges of ports count.
    pub const PORTS: u64 = 1 << 62;
    /// Rule: deny instead of permit.
    pub const DENY: u64 = 1 << 63;
}

/// What most of a rule is compared with at once.
struct Key {
    /// The fields.
    fields: u64,
    /// Those that are hidden: rules that deny do not look at them.
    hidden: u64,
}

impl Key {
    #[inline]
    fn new(headers: &Headers, direction: Direction) -> Key {
        let mut fields = u64::from(headers.vlan & 0xfff) << key::VLAN_SHIFT
            | u64::from(headers.ip_version & 15) << key::IP_VERSION_SHIFT
            | u64::from(headers.ethertype) << key::ETHERTYPE_SHIFT;
        fields |= match direction {
            Direction::Ingress => key::INGRESS,
            Direction::Egress => key::EGRESS,
        };
        if let Some(protocol) = headers.protocol {
            fields |= u64::from(protocol) << key::PROTOCOL_SHIFT | key::HAS_PROTOCOL;
        }
        if headers.fragment != Fragment::Whole {
            fields |= key::FRAGMENT;
        }
        if headers.ports.is_some() {
            fields |= key::HAS_PORTS;
        }
        if headers.ip_version != 0 && headers.hidden < Hidden::Network {
            fields |= key::HAS_ADDRESSES;
        }
        let mut hidden = 0;
        if headers.hidden >= Hidden::Transport {
            hidden |= key::HAS_PORTS | key::FRAGMENT;
            if headers.protocol.is_none() {
                hidden |= key::PROTOCOL;
            }
        }
        if headers.hidden >= Hidden::Network {
            hidden |= key::HAS_ADDRESSES;
        }
        if headers.hidden >= Hidden::Everything {
            hidden |= key::ETHERTYPE | key::IP_VERSION;
        }
        Key { fields, hidden }
    }
}

/// Which way a frame goes, as seen by the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the port into the switch.
    Ingress,
    /// From the switch to the port.
    Egress,
}

/// What a list says of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Let it pass.
    Permit,
    /// Drop it.
    Deny,
}

/// One rule, written by the host. What can be compared at once lies in one word. Addresses and masks are as in [`Headers`]; a mask of zero matches
/// anything.
#[repr(C, align(128))]
#[derive(Default)]
pub struct Rule {
    /// See [`key`].
    value: AtomicU64,
    /// The fields of the key that must be as in `value`.
    mask: AtomicU64,
    /// Lowest 16 bits first: lowest and highest source port, lowest and highest destination port.
    ports: AtomicU64,
    source: AtomicU64,
    source_mask: AtomicU64,
    destination: AtomicU64,
    destination_mask: AtomicU64,
    reserved: AtomicU64,
    source_ip: [AtomicU64; 2],
    source_ip_mask: [AtomicU64; 2],
    destination_ip: [AtomicU64; 2],
    destination_ip_mask: [AtomicU64; 2],
}

/// A rule as plain words, in the order of [`Rule`].
pub type RuleWords = [u64; RULE_WORDS];

const _: () = assert!(size_of::<Rule>() == 8 * RULE_WORDS);

impl Rule {
    /// Takes over all words. Callers that evaluate the rule meanwhile see a mixture.
    fn store(&self, words: &RuleWords) {
        let [
            value,
            mask,
            ports,
            source,
            source_mask,
            destination,
            destination_mask,
            _,
            ip @ ..,
        ] = words;
        self.value.store(*value, Relaxed);
        self.mask.store(*mask, Relaxed);
        self.ports.store(*ports, Relaxed);
        self.source.store(*source, Relaxed);
        self.source_mask.store(*source_mask, Relaxed);
        self.destination.store(*destination, Relaxed);
        self.destination_mask.store(*destination_mask, Relaxed);
        let places = self.source_ip.iter().chain(&self.source_ip_mask);
        let places = places.chain(&self.destination_ip);
        for (place, value) in places.chain(&self.destination_ip_mask).zip(ip) {
            place.store(*value, Relaxed);
        }
    }

    /// The verdict of this rule, if it matches.
    #[inline]
    fn verdict(&self, headers: &Headers, wanted: &Key) -> Option<Verdict> {
        let value = self.value.load(Relaxed);
        let deny = value & key::DENY != 0;
        let mut mask = self.mask.load(Relaxed);
        if deny {
            mask &= !wanted.hidden;
        }
        if (value ^ wanted.fields) & mask != 0 {
            return None;
        }
        // Ports and addresses that are not known here are hidden, and the rule denies: else the mask
        // would have told that they are not.
        if value & key::PORTS != 0
            && let Some(ports) = headers.ports
        {
            let ranges = self.ports.load(Relaxed);
            let [low, high] = [ranges as u16, (ranges >> 16) as u16];
            if ports.source < low || ports.source > high {
                return None;
            }
            let [low, high] = [(ranges >> 32) as u16, (ranges >> 48) as u16];
            if ports.destination < low || ports.destination > high {
                return None;
            }
        }
        if value & key::MACS != 0
            && (differs(headers.source, &self.source, &self.source_mask)
                || differs(
                    headers.destination,
                    &self.destination,
                    &self.destination_mask,
                ))
        {
            return None;
        }
        if value & key::ADDRESSES != 0
            && wanted.fields & key::HAS_ADDRESSES != 0
            && !self.addresses_match(headers)
        {
            return None;
        }
        Some(if deny { Verdict::Deny } else { Verdict::Permit })
    }

    #[inline]
    fn addresses_match(&self, headers: &Headers) -> bool {
        let [high, low] = &headers.source_ip;
        let [value_high, value_low] = &self.source_ip;
        let [mask_high, mask_low] = &self.source_ip_mask;
        if differs(*high, value_high, mask_high) || differs(*low, value_low, mask_low) {
            return false;
        }
        let [high, low] = &headers.destination_ip;
        let [value_high, value_low] = &self.destination_ip;
        let [mask_high, mask_low] = &self.destination_ip_mask;
        !differs(*high, value_high, mask_high) && !differs(*low, value_low, mask_low)
    }
}

#[inline]
fn differs(found: u64, value: &AtomicU64, mask: &AtomicU64) -> bool {
    (found ^ value.load(Relaxed)) & mask.load(Relaxed) != 0
}

/// The default action in a bank's header; the number of rules is below.
const DEFAULT_DENY: u64 = 1 << 63;

/// One list of rules.
#[repr(C, align(128))]
struct Bank {
    /// Number of rules, and [`DEFAULT_DENY`].
    header: AtomicU64,
    /// Frames that each rule decided on.
    hits: [AtomicU64; MAX_RULES],
    rules: [Rule; MAX_RULES],
}

/// The access list of a port. All zero is *off*: no rules, everything is permitted.
#[repr(C, align(128))]
pub struct Acl {
    generation: AtomicU64,
    banks: [Bank; 2],
}

impl Acl {
    /// Whether there is nothing to evaluate: no rules, and what matches none is permitted.
    #[inline]
    pub fn is_off(&self) -> bool {
        let generation = self.generation.load(Acquire);
        self.bank(generation).header.load(Relaxed) == 0
    }

    #[inline]
    fn bank(&self, generation: u64) -> &Bank {
        &self.banks[generation as usize & 1]
    }

    /// Replaces the list as a whole by compiled rules, [`MAX_RULES`] at most. Only one thread of the host may do
    /// this at a time.
    pub fn install(&self, rules: &[RuleWords], default: Verdict) {
        let generation = self.generation.load(Relaxed);
        let next = generation.wrapping_add(1);
        // Whoever sees one of the stores below, sees the generation of the list before.
        fence(Release);
        let bank = self.bank(next);
        for (place, words) in bank.rules.iter().zip(rules) {
            place.store(words);
        }
        for hits in &bank.hits {
            hits.store(0, Relaxed);
        }
        let default = match default {
            Verdict::Permit => 0,
            Verdict::Deny => DEFAULT_DENY,
        };
        bank.header
            .store(rules.len().min(MAX_RULES) as u64 | default, Relaxed);
        self.generation.store(next, Release);
    }

    /// Number of frames that each rule of the list decided on, in the order of the rules.
    pub fn hits(&self) -> impl Iterator<Item = u64> {
        let bank = self.bank(self.generation.load(Acquire));
        let count = bank.header.load(Relaxed) & !DEFAULT_DENY;
        let hits = bank.hits.iter().take(count as usize);
        hits.map(|hits| hits.load(Relaxed))
    }

    /// What the list says of a frame; counts the hit of the rule that decides.
    #[inline]
    pub fn verdict(&self, headers: &Headers, direction: Direction) -> Verdict {
        let mut generation = self.generation.load(Acquire);
        for _ in 0..TRIES {
            let bank = self.bank(generation);
            let (verdict, hits) = bank.evaluate(headers, direction);
            // Whoever has seen a word of the list after next, sees the generation that came before it.
            fence(Acquire);
            let now = self.generation.load(Acquire);
            if now == generation {
                if let Some(hits) = hits {
                    hits.fetch_add(1, Relaxed);
                }
                return verdict;
            }
            generation = now;
        }
        Verdict::Deny
    }
}

impl Bank {
    #[inline]
    fn evaluate(&self, headers: &Headers, direction: Direction) -> (Verdict, Option<&AtomicU64>) {
        let header = self.header.load(Relaxed);
        let count = header & !DEFAULT_DENY;
        let wanted = Key::new(headers, direction);
        for (number, (rule, hits)) in self.rules.iter().zip(&self.hits).enumerate() {
            if number as u64 >= count {
                break;
            }
            if let Some(verdict) = rule.verdict(headers, &wanted) {
                return (verdict, Some(hits));
            }
        }
        let default = if header & DEFAULT_DENY != 0 {
            Verdict::Deny
        } else {
            Verdict::Permit
        };
        (default, None)
    }
}

#[cfg(test)]
mod tests;
