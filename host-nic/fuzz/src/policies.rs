//! Policies of ports, put together of parts that an input chooses.
#![forbid(unsafe_code)]

use postern_nic_client::policy::port::PortPolicy;

/// The parts of a policy, as JSON: one of each row.
const PARTS: [[&str; 4]; 8] = [
    [
        "",
        r#""vlan": {"access": {"pvid": 5}}"#,
        r#""vlan": {"trunk": {"pvid": 5, "members": [7, "9-12"], "untagged": [9]}}"#,
        r#""vlan": {"trunk": {"members": [5, 7]}}"#,
    ],
    [
        "",
        r#""acl": {"rules": ["deny in tcp dport 22", "deny ethertype 0x88cc"]}"#,
        r#""acl": {"rules": ["permit vlan 5", "permit udp", "permit out arp"], "default": "deny"}"#,
        r#""acl": {"rules": ["permit in ipv6", "deny fragment", "deny out from 02:00:00:00:00:01"]}"#,
    ],
    [
        "",
        r#""source": "own""#,
        r#""source": "02:00:00:00:00:01""#,
        r#""bridging": false"#,
    ],
    ["", r#""mirror": 0"#, r#""mirror": 1"#, r#""mirror": 2"#],
    [
        "",
        r#""ingress": {"bits_per_second": 8000, "burst_bytes": 1522}"#,
        r#""ingress": {"bits_per_second": 1000000, "burst_bytes": 100000}"#,
        r#""ingress": {"bits_per_second": 400000000000, "burst_bytes": 70000}"#,
    ],
    [
        "",
        r#""egress": {"bits_per_second": 8000, "burst_bytes": 1522}"#,
        r#""egress": {"bits_per_second": 1000000, "burst_bytes": 100000}"#,
        r#""egress": {"bits_per_second": 400000000000, "burst_bytes": 70000}"#,
    ],
    [
        "",
        r#""isolation": "isolated""#,
        r#""isolation": {"community": 7}"#,
        r#""isolation": {"community": 8}"#,
    ],
    [
        "",
        r#""reserved": ["00", "0e"]"#,
        r#""reserved": ["02", "0f"], "blocked": [1]"#,
        r#""blocked": [0, 2]"#,
    ],
];

/// The policy of a choice: two bits for each part.
pub fn policy(choice: u16) -> PortPolicy {
    let chosen = (0..).zip(PARTS);
    let chosen = chosen.map(|(row, parts)| parts[usize::from(choice >> (row * 2) & 3)]);
    let parts: Vec<&str> = chosen.filter(|part| !part.is_empty()).collect();
    serde_json::from_str(&format!("{{{}}}", parts.join(","))).expect("PARTS are valid")
}
