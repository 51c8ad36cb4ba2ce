use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use proptest::prelude::*;

use postern_switch::policy::headers::{
    Fragment, Headers, Hidden, PROTOCOL_TCP, PROTOCOL_UDP, Ports,
};

use super::*;
use crate::policy::rule::{MacMatch, PortRange, Prefix, RuleSpec};

/// A list that is off.
pub fn off() -> Box<Acl> {
    // SAFETY: an `Acl` is all atomic integers, of which zero is a valid value.
    unsafe { Box::<Acl>::new_zeroed().assume_init() }
}

/// Puts a list in the place of the one that is there.
pub fn replace(acl: &Acl, rules: &[RuleSpec], default: Verdict) -> Result<(), RuleError> {
    let rules = rules.to_vec();
    AclSpec { rules, default }.install(acl)
}

/// Frames that each rule decided on.
pub fn hit_counts(acl: &Acl) -> Vec<u64> {
    acl.hits().collect()
}

fn acl(default: Verdict, rules: &[&str]) -> Box<Acl> {
    let rules: Vec<RuleSpec> = rules.iter().map(|rule| rule.parse().unwrap()).collect();
    let acl = off();
    replace(&acl, &rules, default).unwrap();
    acl
}

fn tcp(destination: u16) -> Headers {
    Headers {
        destination: 0x0600_0000_0002,
        source: 0x0100_0000_0002,
        source_ip: [0x0a00_0001, 0],
        destination_ip: [0xc0a8_0001, 0],
        ethertype: 0x800,
        ip_version: 4,
        protocol: Some(PROTOCOL_TCP),
        ports: Some(Ports {
            source: 40000,
            destination,
        }),
        ..Headers::default()
    }
}

use Direction::{Egress, Ingress};
use Verdict::{Deny, Permit};

#[test]
fn zero_is_off_and_the_first_match_decides() {
    let list = off();
    assert!(list.is_off());
    assert_eq!(list.verdict(&tcp(22), Ingress), Permit);
    let list = acl(
        Permit,
        &[
            "permit src 10.0.0.1 tcp dport 22",
            "deny in tcp dport 20-22",
            "deny udp",
        ],
    );
    assert!(!list.is_off());
    assert_eq!(list.verdict(&tcp(22), Ingress), Permit);
    assert_eq!(list.verdict(&tcp(21), Ingress), Deny);
    assert_eq!(list.verdict(&tcp(21), Ingress), Deny);
    assert_eq!(list.verdict(&tcp(21), Egress), Permit);
    assert_eq!(list.verdict(&tcp(23), Ingress), Permit);
    assert_eq!(hit_counts(&list), [1, 2, 0]);
    replace(&list, &[], Deny).unwrap();
    assert!(!list.is_off());
    assert_eq!(list.verdict(&tcp(22), Ingress), Deny);
    assert_eq!(hit_counts(&list), [0; 0]);
    replace(&list, &[], Permit).unwrap();
    assert!(list.is_off());
}

#[test]
fn nobody_evades_a_rule_by_hiding_a_field() {
    let deny = acl(Permit, &["deny ipv4 10.0.0.0/8 tcp dport 22"]);
    let permit = acl(Deny, &["permit ipv4 10.0.0.0/8 tcp dport 22"]);
    let both = |headers: &Headers| {
        [
            deny.verdict(headers, Ingress),
            permit.verdict(headers, Ingress),
        ]
    };
    assert_eq!(both(&tcp(22)), [Deny, Permit]);
    assert_eq!(both(&tcp(23)), [Permit, Deny]);
    let mut headers = tcp(22);
    headers.ports = None;
    headers.hidden = Hidden::Transport;
    assert_eq!(both(&headers), [Deny, Deny], "ports");
    headers.protocol = None;
    assert_eq!(both(&headers), [Deny, Deny], "protocol");
    headers.source_ip = [0, 0];
    assert_eq!(
        both(&headers),
        [Permit, Deny],
        "another network is known not to match"
    );
    headers.hidden = Hidden::Network;
    assert_eq!(both(&headers), [Deny, Deny], "addresses");
    headers.ip_version = 6;
    assert_eq!(both(&headers), [Permit, Deny], "another version");
    headers.ip_version = 0;
    headers.hidden = Hidden::Everything;
    assert_eq!(both(&headers), [Deny, Deny], "everything");
    // A later fragment hides nothing.
    let mut headers = tcp(22);
    headers.ports = None;
    headers.fragment = Fragment::Later;
    assert_eq!(both(&headers), [Permit, Deny]);
    let fragments = acl(Permit, &["deny fragment"]);
    assert_eq!(fragments.verdict(&headers, Egress), Deny);
    assert_eq!(fragments.verdict(&tcp(22), Egress), Permit);
}

/// Two lists, both of which deny, replaced all the time. The third rule of one with the last rule
/// of the other would permit; nobody ever gets that. (A caller that gives up denies too.)
#[test]
fn a_list_changes_as_a_whole() {
    let list = |third: &str, last: &str| -> Vec<RuleSpec> {
        let mut rules = vec!["permit udp sport 1".parse().unwrap(); MAX_RULES];
        rules[2] = third.parse().unwrap();
        rules[MAX_RULES - 1] = last.parse().unwrap();
        rules
    };
    let lists = [list("deny tcp", "permit tcp"), list("deny udp", "deny tcp")];
    let acl = off();
    replace(&acl, &lists[0], Deny).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut permitted = 0u32;
            while !done.load(Relaxed) {
                permitted += u32::from(acl.verdict(&tcp(1), Ingress) == Permit);
            }
            permitted
        });
        // Each twice, so that each bank gets both.
        for turn in 0..20_000 {
            replace(&acl, &lists[turn / 2 % 2], Deny).unwrap();
        }
        done.store(true, Relaxed);
        assert_eq!(reader.join().unwrap(), 0);
    });
    assert_eq!(acl.verdict(&tcp(1), Ingress), Deny);
}

fn small<T: fmt::Debug + Clone + 'static>(values: &[T]) -> impl Strategy<Value = T> + use<T> {
    prop::sample::select(values.to_vec())
}

fn prefix(six: bool) -> impl Strategy<Value = Prefix> {
    (small(&[0u8, 8, 9, 31, 32, 64, 65, 127, 128]), address()).prop_map(move |(length, address)| {
        let [high, low] = address;
        if six {
            let bits = u128::from(high) << 64 | u128::from(low);
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            Prefix::new(IpAddr::V6((bits & mask).into()), length).unwrap()
        } else {
            let length = length.min(32);
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            Prefix::new(IpAddr::V4((high as u32 & mask).into()), length).unwrap()
        }
    })
}

/// Few values, which differ in single bits.
fn address() -> impl Strategy<Value = [u64; 2]> {
    let halves = [
        0u64,
        1,
        0x0a00_0000,
        0x0a80_0001,
        1 << 63,
        (1 << 63) | 0x0a00_0000,
        u64::MAX,
    ];
    (small(&halves), small(&halves)).prop_map(<[u64; 2]>::from)
}

fn mac_match() -> impl Strategy<Value = MacMatch> {
    let mask = small(&[[0xff; 6], [1, 0, 0, 0, 0, 0], [0xff, 0xff, 0xff, 0, 0, 0]]);
    (small(&MACS), mask).prop_map(|(address, mask)| {
        let inside = std::array::from_fn(|byte| address[byte] & mask[byte]);
        MacMatch::new(inside, mask).unwrap()
    })
}

const MACS: [[u8; 6]; 4] = [
    [2, 0, 0, 0, 0, 1],
    [2, 0, 0, 0, 0, 2],
    [2, 0, 1, 0, 0, 1],
    [0xff; 6],
];

fn ports() -> impl Strategy<Value = PortRange> {
    (small(&[0u16, 21, 22, 23, 65535]), small(&[0u16, 1, 65535]))
        .prop_map(|(low, more)| PortRange::new(low, low.saturating_add(more)).unwrap())
}

/// Any rule that is in order.
pub(crate) fn rule() -> impl Strategy<Value = RuleSpec> {
    use prop::option::of;
    let layer2 = (
        small(&[Permit, Deny]),
        of(small(&[Ingress, Egress])),
        of(mac_match()),
        of(mac_match()),
        of(small(&[0u16, 5, 4094])),
    );
    let layer3 = prop_oneof![
        of(small(&[0x806u16, 0x800, 0x8100])).prop_map(|ethertype| (ethertype, None, None, None)),
        (any::<bool>(), any::<bool>()).prop_flat_map(|(six, given)| {
            let version = given.then_some(if six { 6 } else { 4 });
            (Just(None), Just(version), of(prefix(six)), of(prefix(six)))
        }),
    ];
    let protocol = of(small(&[PROTOCOL_TCP, PROTOCOL_UDP, 1, 200]));
    let layer4 = (protocol, of(ports()), of(ports()), any::<bool>());
    (layer2, layer3, layer4).prop_map(|(layer2, layer3, layer4)| {
        let mut rule = RuleSpec::any(layer2.0);
        (_, rule.direction, rule.from, rule.to, rule.vlan) = layer2;
        (
            rule.ethertype,
            rule.ip_version,
            rule.source,
            rule.destination,
        ) = layer3;
        if rule.ethertype.is_none() {
            (
                rule.protocol,
                rule.source_ports,
                rule.destination_ports,
                rule.fragment,
            ) = layer4;
            if !matches!(rule.protocol, Some(PROTOCOL_TCP | PROTOCOL_UDP)) {
                (rule.source_ports, rule.destination_ports) = (None, None);
            }
        }
        rule
    })
}

/// A rule that has some fields of another one, and of some of its own.
fn narrower(rule: RuleSpec) -> impl Strategy<Value = RuleSpec> {
    (self::rule(), any::<[bool; 12]>()).prop_map(move |(other, keep)| {
        let mut mixed = other.clone();
        let mut take = keep.into_iter();
        let mut own = || take.next().unwrap_or(false);
        if own() {
            mixed.direction = rule.direction;
        }
        if own() {
            mixed.from = rule.from;
        }
        if own() {
            mixed.to = rule.to;
        }
        if own() {
            mixed.vlan = rule.vlan;
        }
        if own() {
            // The fields of layers 3 and 4 depend on each other.
            mixed = RuleSpec {
                action: mixed.action,
                direction: mixed.direction,
                from: mixed.from,
                to: mixed.to,
                vlan: mixed.vlan,
                ..rule.clone()
            };
            let version = |prefix: Option<Prefix>| prefix.map(|prefix| prefix.version());
            if own() {
                mixed.source = None;
            } else if own() && version(mixed.source) == version(other.source) {
                mixed.source = other.source;
            }
            if own() {
                mixed.destination = None;
            }
            if own() {
                mixed.fragment = false;
            }
            if own() {
                (mixed.source_ports, mixed.destination_ports) = (None, None);
            } else if own() && mixed.source_ports.is_some() {
                mixed.source_ports = other.source_ports;
            }
            if own() {
                mixed.action = other.action;
            }
        }
        mixed
    })
}

fn headers() -> impl Strategy<Value = Headers> {
    let layer2 = (small(&MACS), small(&MACS), small(&[0u16, 5, 4094]));
    let layer3 = (
        small(&[0x806u16, 0x800, 0x86dd, 0x8100]),
        address(),
        address(),
    );
    let port = || small(&[0u16, 21, 22, 23, 24, 65535]);
    let protocol = prop::option::of(small(&[PROTOCOL_TCP, PROTOCOL_UDP, 1, 200]));
    let layer4 = (protocol, prop::option::of((port(), port())));
    let fragment = small(&[Fragment::Whole, Fragment::First, Fragment::Later]);
    let hidden = small(&[
        Hidden::Nothing,
        Hidden::Nothing,
        Hidden::Transport,
        Hidden::Network,
    ]);
    (layer2, layer3, layer4, fragment, hidden).prop_map(
        |(layer2, layer3, layer4, fragment, hidden)| {
            let word = |[a, b, c, d, e, f]: [u8; 6]| u64::from_le_bytes([a, b, c, d, e, f, 0, 0]);
            let mut headers = Headers {
                destination: word(layer2.0),
                source: word(layer2.1),
                vlan: layer2.2,
                ethertype: layer3.0,
                ..Headers::default()
            };
            headers.ip_version = match layer3.0 {
                0x800 => 4,
                0x86dd => 6,
                0x8100 => {
                    headers.hidden = Hidden::Everything;
                    return headers;
                }
                _ => return headers,
            };
            headers.hidden = hidden;
            if hidden >= Hidden::Network {
                return headers;
            }
            let four = |[high, _]: [u64; 2]| [high & 0xffff_ffff, 0];
            let shorten = |address| {
                if headers.ip_version == 4 {
                    four(address)
                } else {
                    address
                }
            };
            (headers.source_ip, headers.destination_ip) = (shorten(layer3.1), shorten(layer3.2));
            if hidden == Hidden::Nothing {
                headers.protocol = layer4.0.or(Some(1));
                headers.fragment = fragment;
                let has_ports = matches!(layer4.0, Some(PROTOCOL_TCP | PROTOCOL_UDP));
                if has_ports && fragment != Fragment::Later {
                    let (source, destination) = layer4.1.unwrap_or((1, 2));
                    headers.ports = Some(Ports {
                        source,
                        destination,
                    });
                }
            }
            headers
        },
    )
}

/// What a rule's text says of a frame: certainly, perhaps, or not. Works on the text, so it shares
/// nothing with the code under test but the meaning of words.
fn naive(rule: &str, headers: &Headers, direction: Direction) -> Option<Verdict> {
    #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    enum Is {
        Not,
        Perhaps,
        Certainly,
    }
    let is = |known: bool, equal: bool| match (known, equal) {
        (false, _) => Is::Perhaps,
        (true, true) => Is::Certainly,
        (true, false) => Is::Not,
    };
    let mac = |found: u64, text: &str| {
        let bytes = |text: &str| -> Vec<u8> {
            text.split(':')
                .map(|byte| u8::from_str_radix(byte, 16).unwrap())
                .collect()
        };
        let (value, mask) = text.split_once('/').unwrap_or((text, "ff:ff:ff:ff:ff:ff"));
        let rows = bytes(value)
            .into_iter()
            .zip(bytes(mask))
            .zip(found.to_le_bytes());
        is(
            true,
            rows.into_iter()
                .all(|((value, mask), found)| value & mask == found & mask),
        )
    };
    let everything = headers.hidden < Hidden::Everything;
    let network = headers.hidden < Hidden::Network;
    let transport = headers.hidden < Hidden::Transport;
    let prefix = |found: [u64; 2], text: &str| {
        let (value, length) = text.split_once('/').unwrap();
        let length: usize = length.parse().unwrap();
        let value: IpAddr = value.parse().unwrap();
        let bits = |address: IpAddr| match address {
            IpAddr::V4(four) => format!("{:032b}", four.to_bits()),
            IpAddr::V6(six) => format!("{:0128b}", six.to_bits()),
        };
        let version = if value.is_ipv4() { 4 } else { 6 };
        if everything && headers.ip_version != version {
            return Is::Not;
        }
        let found = if version == 4 {
            format!("{:032b}", found[0])
        } else {
            format!("{:064b}{:064b}", found[0], found[1])
        };
        is(
            network,
            found[..length.min(found.len())] == bits(value)[..length],
        )
    };
    let in_range = |port: Option<u16>, text: &str| {
        let (low, high) = text.split_once('-').unwrap_or((text, text));
        let (low, high): (u16, u16) = (low.parse().unwrap(), high.parse().unwrap());
        match port {
            Some(port) => is(true, (low..=high).contains(&port)),
            None => is(transport, false),
        }
    };
    let protocol = |number: u8| match headers.protocol {
        Some(protocol) => is(true, protocol == number),
        None => is(transport, false),
    };
    let mut words = rule.split(' ');
    let deny = words.next() == Some("deny");
    let mut least = Is::Certainly;
    while let Some(word) = words.next() {
        let mut next = || words.next().unwrap();
        let this = match word {
            "in" => is(true, direction == Ingress),
            "out" => is(true, direction == Egress),
            "from" => mac(headers.source, next()),
            "to" => mac(headers.destination, next()),
            "vlan" => is(true, headers.vlan == next().parse::<u16>().unwrap()),
            "arp" => is(everything, headers.ethertype == 0x806),
            "ethertype" => {
                let wanted = u16::from_str_radix(&next()[2..], 16).unwrap();
                // That there is a third tag is itself known.
                is(
                    everything || headers.ethertype == wanted,
                    headers.ethertype == wanted,
                )
            }
            "ipv4" => is(everything, headers.ip_version == 4),
            "ipv6" => is(everything, headers.ip_version == 6),
            "src" => prefix(headers.source_ip, next()),
            "dst" => prefix(headers.destination_ip, next()),
            "tcp" => protocol(6),
            "udp" => protocol(17),
            "icmp" => protocol(1),
            "proto" => protocol(next().parse().unwrap()),
            "sport" => in_range(headers.ports.map(|ports| ports.source), next()),
            "dport" => in_range(headers.ports.map(|ports| ports.destination), next()),
            "fragment" => is(transport, headers.fragment != Fragment::Whole),
            other => panic!("{other}"),
        };
        least = least.min(this);
    }
    match (least, deny) {
        (Is::Certainly | Is::Perhaps, true) => Some(Deny),
        (Is::Certainly, false) => Some(Permit),
        _ => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn as_a_naive_evaluator_says(
        rules in prop::collection::vec(rule(), 0..=MAX_RULES),
        frames in prop::collection::vec((headers(), small(&[Ingress, Egress])), 8),
        default in small(&[Permit, Deny]),
    ) {
        let acl = off();
        replace(&acl, &rules, default).unwrap();
        let mut hits = vec![0; rules.len()];
        for (headers, direction) in frames {
            let texts = rules.iter().map(RuleSpec::to_string);
            let decided = texts.map(|text| naive(&text, &headers, direction)).enumerate();
            let first = decided.filter_map(|(number, verdict)| Some((number, verdict?))).next();
            if let Some((number, _)) = first {
                hits[number] += 1;
            }
            let expected = first.map_or(default, |(_, verdict)| verdict);
            prop_assert_eq!(acl.verdict(&headers, direction), expected, "{:?}", headers);
        }
        prop_assert_eq!(hit_counts(&acl), hits);
    }

    /// Frames that the second rule matches if it stands alone, the first one matches before it.
    #[test]
    fn a_rule_that_is_shadowed_never_decides(
        (first, second) in rule().prop_flat_map(|rule| (narrower(rule.clone()), Just(rule))),
        turned: bool,
        frames in prop::collection::vec((headers(), small(&[Ingress, Egress])), 64),
    ) {
        let rules = if turned { [first, second] } else { [second, first] };
        let acl = off();
        replace(&acl, &rules, Permit).unwrap();
        for (headers, direction) in frames {
            acl.verdict(&headers, direction);
        }
        if rules[0].shadows(&rules[1]) {
            let texts = rules.each_ref().map(RuleSpec::to_string);
            prop_assert_eq!(hit_counts(&acl)[1], 0, "{:?}", texts);
        }
    }
}

#[test]
fn rules_are_read_as_text_or_as_parts() {
    let whole = AclSpec {
        rules: vec!["deny in ipv4 tcp dport 22".parse().unwrap()],
        default: Permit,
    };
    let parts = serde_json::to_string(&whole).unwrap();
    for text in [
        parts.as_str(),
        r#"{"rules": ["deny in ipv4 tcp dport 22"]}"#,
    ] {
        assert_eq!(serde_json::from_str::<AclSpec>(text).unwrap(), whole);
    }
    let error = serde_json::from_str::<AclSpec>(r#"{"rules": ["deny in ipv7"]}"#).unwrap_err();
    assert!(error.to_string().contains("ipv7"), "{error}");
    assert!(serde_json::from_str::<AclSpec>(r#"{"rules": [7]}"#).is_err());
}
