//! Access lists: the frames that a port may send and receive, by their fields of layers 2 to 4.
//!
//! ```text
//!  Acl       +------------+----------------------+----------------------+
//!            | generation | bank 0               | bank 1               |
//!            +------------+----------------------+----------------------+
//!  Bank      | header: number of rules, default | hits x 32 | rules x 32 |
//!  Rule      | key, ports, MAC addresses        | IP addresses           |   two cache lines
//! ```
//!
//! The lowest bit of the generation names the bank that counts. The host writes a new list into the
//! other bank and then advances the generation, so a list changes as a whole, and a host that dies
//! in between has changed nothing. A call that finds the generation changed after its evaluation
//! may have seen parts of two lists. It evaluates again, and denies after [`MAX_TRIES`] such
//! changes. This is a sequence lock (Linux `seqcount_latch_t`) whose readers give up instead of
//! waiting.
//!
//! The first rule that matches decides; without one the list's default does. Calls only read rules.
//! Hits are counted elsewhere in the bank, so that counting takes no rule out of another
//! processor's cache.
//!
//! *Hidden fields.* A rule that permits matches only fields that are known. A rule that denies also
//! matches where a field that it names is hidden ([`Hidden`]), if everything else fits. So nobody
//! evades `deny ... dport 22` behind a long chain of extension headers. A later fragment has no
//! ports and hides none: rules on ports do not match it, as in RFC 1858 ("Filtering IP fragments").
//! Without its first fragment it is of no use to the receiver.

use crate::sync::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
    fence,
};

use super::headers::{Fragment, Headers, Hidden};

/// Most rules of a list.
pub const MAX_RULES: usize = 32;
/// Most evaluations of one frame, each spoiled by a change of the list.
pub const MAX_TRIES: usize = 3;
/// Number of 8-byte words of a rule.
pub const RULE_WORDS: usize = 16;

/// The bits of a key: fields of a frame, which a rule's value and mask have too, and flags of a
/// rule's value.
pub mod key {
    /// Lowest of the 12 bits of the VLAN.
    pub const VLAN_SHIFT: u32 = 0;
    /// Lowest of the 4 bits of the IP version: 4, 6 or 0.
    pub const IP_VERSION_SHIFT: u32 = 12;
    /// Lowest of the 16 bits of the EtherType.
    pub const ETHERTYPE_SHIFT: u32 = 16;
    /// Lowest of the 8 bits of the IP protocol.
    pub const PROTOCOL_SHIFT: u32 = 32;
    /// Bit: the protocol is known.
    pub const HAS_PROTOCOL: u64 = 1 << 40;
    /// Bit: the packet is a fragment.
    pub const FRAGMENT: u64 = 1 << 41;
    /// Bit: the frame comes from the port.
    pub const INGRESS: u64 = 1 << 42;
    /// Bit: the frame goes to the port.
    pub const EGRESS: u64 = 1 << 43;
    /// Bit: ports of layer 4 are known.
    pub const HAS_PORTS: u64 = 1 << 44;
    /// Bit: IP addresses are known.
    pub const HAS_ADDRESSES: u64 = 1 << 45;

    /// All bits of the VLAN.
    pub const VLAN: u64 = 0xfff << VLAN_SHIFT;
    /// All bits of the IP version.
    pub const IP_VERSION: u64 = 15 << IP_VERSION_SHIFT;
    /// All bits of the EtherType.
    pub const ETHERTYPE: u64 = 0xffff << ETHERTYPE_SHIFT;
    /// All bits of the protocol.
    pub const PROTOCOL: u64 = 0xff << PROTOCOL_SHIFT | HAS_PROTOCOL;

    /// Flag of a rule: its addresses of layer 2 count.
    pub const MACS: u64 = 1 << 60;
    /// Flag of a rule: its IP addresses count.
    pub const ADDRESSES: u64 = 1 << 61;
    /// Flag of a rule: its ranges of ports count.
    pub const PORTS: u64 = 1 << 62;
    /// Flag of a rule: it denies instead of permitting.
    pub const DENY: u64 = 1 << 63;
}

/// The key of a frame: the fields that most of a rule is compared with at once.
struct Key {
    /// The fields, as in [`key`].
    fields: u64,
    /// The fields that are hidden, which rules that deny do not look at.
    hidden: u64,
}

impl Key {
    /// The key of a frame with these headers.
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

/// The direction of a frame, as seen by the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the port into the switch.
    Ingress,
    /// From the switch to the port.
    Egress,
}

/// The verdict of a list on a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The frame passes.
    Permit,
    /// The frame is dropped.
    Deny,
}

/// The decision of a list on a frame.
#[must_use]
#[derive(Debug)]
pub struct Decision<'a> {
    /// The verdict.
    pub verdict: Verdict,
    /// The hit of the rule that decided.
    pub hit: Hit<'a>,
}

/// A hit of a rule that is not counted yet; of none, where a list's default decided.
#[must_use]
#[derive(Clone, Copy, Debug)]
pub struct Hit<'a>(Option<&'a AtomicU64>);

impl Hit<'_> {
    /// Counts the frame as a hit of the rule.
    #[inline]
    pub fn count(self) {
        if let Some(hits) = self.0 {
            hits.fetch_add(1, Relaxed);
        }
    }
}

/// One rule, written by the host. The fields that can be compared at once lie in one word.
/// Addresses and masks are as in [`Headers`]; a mask of zero matches anything.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub struct Rule {
    /// Fields and flags, as in [`key`].
    value: AtomicU64,
    /// Mask of the fields of a frame's key that must be as in `value`.
    mask: AtomicU64,
    /// Four numbers of 16 bits, lowest first: lowest and highest source port, lowest and highest
    /// destination port.
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
    /// Stores all words. Calls that evaluate the rule meanwhile see a mixture of old and new ones.
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

    /// The verdict of the rule, if it matches.
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
        // If ports or addresses are not known here, they are hidden and the rule denies: else the
        // comparison with the mask would have found that they are not there.
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

    /// Whether both IP addresses of a frame match.
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

/// Whether a field differs from a rule's value in the bits of the rule's mask.
#[inline]
fn differs(found: u64, value: &AtomicU64, mask: &AtomicU64) -> bool {
    (found ^ value.load(Relaxed)) & mask.load(Relaxed) != 0
}

/// Flag in a bank's header: the list's default is to deny. The bits below are the number of rules.
const DEFAULT_DENY: u64 = 1 << 63;

/// One list of rules.
#[repr(C, align(128))]
struct Bank {
    /// Number of rules, and [`DEFAULT_DENY`].
    header: AtomicU64,
    /// Number of frames that each rule decided on.
    hits: [AtomicU64; MAX_RULES],
    rules: [Rule; MAX_RULES],
}

/// The access list of a port. All zero is *off*: no rules, everything is permitted.
#[repr(C, align(128))]
pub struct Acl {
    generation: AtomicU64,
    banks: [Bank; 2],
}

impl core::fmt::Debug for Acl {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Acl")
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

impl Acl {
    /// Whether the list is off: it has no rules, and its default is to permit.
    #[inline]
    pub fn is_off(&self) -> bool {
        let generation = self.generation.load(Acquire);
        self.bank(generation).header.load(Relaxed) == 0
    }

    /// The bank that counts in a generation.
    #[inline]
    fn bank(&self, generation: u64) -> &Bank {
        &self.banks[generation as usize & 1]
    }

    /// Replaces the list as a whole by compiled rules, [`MAX_RULES`] at most. Only one thread of
    /// the host may do this at a time.
    pub fn install(&self, rules: &[RuleWords], default: Verdict) {
        let generation = self.generation.load(Relaxed);
        let next = generation.wrapping_add(1);
        // Release: a call that sees one of the stores below also sees the generation of the list
        // that this one follows.
        fence(Release);
        let bank = self.bank(next);
        for (rule, words) in bank.rules.iter().zip(rules) {
            rule.store(words);
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

    /// The verdict of the list on a frame. Counts a hit of the rule that decides.
    #[inline]
    pub fn verdict(&self, headers: &Headers, direction: Direction) -> Verdict {
        let decision = self.decide(headers, direction);
        decision.hit.count();
        decision.verdict
    }

    /// The decision of the list on a frame. A frame that waits for room is decided on each time that
    /// a call looks at it, and [counted](Hit::count) when a call takes it.
    #[inline]
    pub fn decide(&self, headers: &Headers, direction: Direction) -> Decision<'_> {
        let mut generation = self.generation.load(Acquire);
        for _ in 0..MAX_TRIES {
            let bank = self.bank(generation);
            let decision = bank.evaluate(headers, direction);
            // Acquire: a call that has seen a word of the next list in this bank also sees the
            // generation of the list in between.
            fence(Acquire);
            let now = self.generation.load(Acquire);
            if now == generation {
                return decision;
            }
            generation = now;
        }
        Decision {
            verdict: Verdict::Deny,
            hit: Hit(None),
        }
    }
}

impl Bank {
    /// The decision of the bank's list on a frame.
    #[inline]
    fn evaluate(&self, headers: &Headers, direction: Direction) -> Decision<'_> {
        let header = self.header.load(Relaxed);
        let count = header & !DEFAULT_DENY;
        let wanted = Key::new(headers, direction);
        for (number, (rule, hits)) in self.rules.iter().zip(&self.hits).enumerate() {
            if number as u64 >= count {
                break;
            }
            if let Some(verdict) = rule.verdict(headers, &wanted) {
                let hit = Hit(Some(hits));
                return Decision { verdict, hit };
            }
        }
        let verdict = if header & DEFAULT_DENY != 0 {
            Verdict::Deny
        } else {
            Verdict::Permit
        };
        Decision {
            verdict,
            hit: Hit(None),
        }
    }
}

#[cfg(test)]
mod tests;
