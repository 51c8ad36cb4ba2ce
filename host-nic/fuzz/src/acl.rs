//! Text of access lists: read, written and read again; and lists evaluated, beside an evaluator
//! that goes by the rules' own fields.
//!
//! Input: two bytes that say how long the text is, the text, one rule a line, then a frame.

use postern_fuzz_input::Bytes;
use postern_nic_client::policy::acl::AclSpec;
use postern_nic_client::policy::rule::RuleSpec;
use postern_switch::policy::acl::{Acl, Direction, MAX_RULES, Verdict};
use postern_switch::policy::headers::{Fragment, Headers, Hidden};
use postern_switch::policy::snapshot::Snapshot;

/// Runs an input.
pub fn run(data: &[u8]) {
    let mut input = Bytes(data);
    let count = input.u16().into();
    let text = String::from_utf8_lossy(input.take(count));
    let mut rules = Vec::new();
    for line in text.lines() {
        let Ok(rule) = line.parse::<RuleSpec>() else {
            continue;
        };
        let again = rule.to_string().parse::<RuleSpec>();
        assert_eq!(again.as_ref(), Ok(&rule), "as written by itself");
        let json = serde_json::to_string(&rule).unwrap();
        assert_eq!(serde_json::from_str::<RuleSpec>(&json).unwrap(), rule);
        assert!(
            rule.compile().is_ok(),
            "what can be said can be done: {rule}"
        );
        rules.push(rule);
    }
    rules.truncate(MAX_RULES);
    let frame = input.0;
    if frame.len() < 14 {
        return;
    }
    let mut padded = frame[..frame.len().min(9018)].to_vec();
    let length = padded.len() as u32;
    padded.resize(padded.len().next_multiple_of(8), 0);
    let snapshot = Snapshot::read(length, |index| {
        u64::from_le_bytes(padded[index * 8..][..8].try_into().unwrap())
    });
    let headers = Headers::parse(&snapshot);
    // SAFETY: an `Acl` is all atomic integers, of which zero is a valid value.
    let acl = unsafe { Box::<Acl>::new_zeroed().assume_init() };
    for default in [Verdict::Permit, Verdict::Deny] {
        let rules = rules.clone();
        let list = AclSpec { rules, default };
        list.install(&acl).expect("each rule can be compiled");
        let rules = &list.rules;
        for direction in [Direction::Ingress, Direction::Egress] {
            let matching = rules.iter().find(|rule| matches(rule, &headers, direction));
            let expected = matching.map_or(default, |rule| rule.action);
            let found = acl.verdict(&headers, direction);
            assert_eq!(found, expected, "{rules:#?} {headers:?}");
        }
    }
}

/// Whether a field is as wanted; nothing if it cannot be known.
type Known = Option<bool>;

fn matches(rule: &RuleSpec, headers: &Headers, direction: Direction) -> bool {
    let hidden = headers.hidden;
    let fields: [Known; 10] = [
        Some(rule.direction.is_none_or(|wanted| wanted == direction)),
        Some(
            rule.from
                .is_none_or(|wanted| mac_matches(&wanted.to_string(), headers.source)),
        ),
        Some(
            rule.to
                .is_none_or(|wanted| mac_matches(&wanted.to_string(), headers.destination)),
        ),
        Some(rule.vlan.is_none_or(|wanted| wanted == headers.vlan)),
        unless(hidden >= Hidden::Everything, || {
            rule.ethertype
                .is_none_or(|wanted| wanted == headers.ethertype)
        }),
        unless(hidden >= Hidden::Everything, || {
            version(rule).is_none_or(|wanted| wanted == headers.ip_version)
        }),
        unless(hidden >= Hidden::Network, || {
            let [source, destination] = [rule.source, rule.destination]
                .map(|prefix| prefix.map(|prefix| prefix.to_string()));
            let known = headers.ip_version != 0;
            source.is_none_or(|wanted| known && ip_matches(&wanted, headers.source_ip))
                && destination
                    .is_none_or(|wanted| known && ip_matches(&wanted, headers.destination_ip))
        }),
        unless(
            hidden >= Hidden::Transport && headers.protocol.is_none(),
            || {
                rule.protocol
                    .is_none_or(|wanted| headers.protocol == Some(wanted))
            },
        ),
        unless(
            hidden >= Hidden::Transport && headers.ports.is_none(),
            || {
                let any = rule.source_ports.is_none() && rule.destination_ports.is_none();
                any || headers.ports.is_some_and(|ports| {
                    let within = |range: Option<_>, port: u16| {
                        range.is_none_or(|range: postern_nic_client::policy::rule::PortRange| {
                            let text = range.to_string();
                            let (low, high) = text.split_once('-').unwrap_or((&text, &text));
                            (low.parse::<u16>().unwrap()..=high.parse().unwrap()).contains(&port)
                        })
                    };
                    within(rule.source_ports, ports.source)
                        && within(rule.destination_ports, ports.destination)
                })
            },
        ),
        unless(hidden >= Hidden::Transport, || {
            !rule.fragment || headers.fragment != Fragment::Whole
        }),
    ];
    // Where a field cannot be known, a rule that denies matches, and one that permits does only if
    // it asks for nothing there.
    let [.., ethertype, version_known, ip, protocol, ports, fragment] = &fields;
    let asks = [
        (ethertype, rule.ethertype.is_some()),
        (version_known, version(rule).is_some()),
        (ip, rule.source.is_some() || rule.destination.is_some()),
        (protocol, rule.protocol.is_some()),
        (
            ports,
            rule.source_ports.is_some() || rule.destination_ports.is_some(),
        ),
        (fragment, rule.fragment),
    ];
    let unknown = asks.iter().any(|(field, asked)| field.is_none() && *asked);
    fields.iter().all(|field| field.unwrap_or(true)) && (!unknown || rule.action == Verdict::Deny)
}

fn unless(hidden: bool, field: impl FnOnce() -> bool) -> Known {
    (!hidden).then(field)
}

fn version(rule: &RuleSpec) -> Option<u8> {
    let implied = rule
        .source
        .or(rule.destination)
        .map(|prefix| prefix.version());
    rule.ip_version.or(implied)
}

fn mac_matches(wanted: &str, found: u64) -> bool {
    let (address, mask) = wanted
        .split_once('/')
        .unwrap_or((wanted, "ff:ff:ff:ff:ff:ff"));
    let bytes = |text: &str| -> Vec<u8> {
        text.split(':')
            .map(|byte| u8::from_str_radix(byte, 16).unwrap())
            .collect()
    };
    let found = found.to_le_bytes();
    let (address, mask) = (bytes(address), bytes(mask));
    (0..6).all(|index| (address[index] ^ found[index]) & mask[index] == 0)
}

fn ip_matches(wanted: &str, found: [u64; 2]) -> bool {
    let (address, length) = wanted.split_once('/').unwrap_or((wanted, "128"));
    let length: u32 = length.parse().unwrap();
    match address.parse().unwrap() {
        std::net::IpAddr::V4(four) => {
            let differs = u64::from(four.to_bits()) ^ found[0];
            found[1] == 0
                && differs >> 32 == 0
                && differs.checked_shr(32 - length.min(32)).unwrap_or(0) == 0
        }
        std::net::IpAddr::V6(six) => {
            let found = u128::from(found[0]) << 64 | u128::from(found[1]);
            (six.to_bits() ^ found)
                .checked_shr(128 - length)
                .unwrap_or(0)
                == 0
        }
    }
}
