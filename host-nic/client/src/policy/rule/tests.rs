use proptest::prelude::*;

use super::*;
use crate::policy::acl::tests::{hit_counts, off, replace};

fn parse(text: &str) -> Result<RuleSpec, RuleError> {
    text.parse()
}

fn message(text: &str) -> String {
    parse(text).expect_err(text).to_string()
}

#[test]
fn every_clause() {
    let all = "deny in from 02:00:00:00:00:01 to 01:00:00:00:00:00/01:00:00:00:00:00 vlan 7 \
               ipv4 src 10.0.0.0/8 dst 192.168.1.1/32 tcp sport 1024-65535 dport 22 fragment";
    let rule = parse(all).unwrap();
    assert_eq!(
        rule.to_string(),
        all.split_whitespace().collect::<Vec<_>>().join(" ")
    );
    let same = "deny dport 22 ipv4 10.0.0.0/8 192.168.1.1 fragment vlan 7 sport 1024-65535 \
                to 01:00:00:00:00:00/01:00:00:00:00:00 proto 6 from 02:00:00:00:00:01 in";
    assert_eq!(parse(same).unwrap(), rule);
    assert_eq!(
        parse("permit arp").unwrap(),
        parse("permit ethertype 0x806").unwrap()
    );
    assert_eq!(
        parse("permit ipv6 any fd00::/8").unwrap().to_string(),
        "permit ipv6 dst fd00::/8"
    );
    assert_eq!(parse("permit").unwrap(), RuleSpec::any(Verdict::Permit));
}

#[test]
fn errors_name_the_word_and_what_is_allowed() {
    for (text, parts) in [
        ("", &["permit or deny"][..]),
        ("allow tcp", &["'allow'", "permit or deny"]),
        ("deny tpc", &["'tpc'", "one of", "tcp"]),
        ("deny tcp dport", &["ends", "port or range"]),
        ("deny tcp dport ssh", &["'ssh'", "22"]),
        ("deny tcp dport 5-", &["'5-'", "22"]),
        ("deny tcp dport 70000", &["'70000'"]),
        ("deny tcp dport 9-8", &["first port 9"]),
        ("deny dport 22", &["ports need", "tcp"]),
        ("deny icmp sport 22", &["ports need", "tcp"]),
        ("deny tcp udp", &["'udp'", "one protocol"]),
        ("deny tcp in out", &["'out'", "one direction"]),
        ("deny ipv4 10.0.0.1/8", &["'10.0.0.1/8'", "'10.0.0.0/8'"]),
        ("deny ipv4 10.0.0.0/33", &["prefix length 33", "0 to 32"]),
        ("deny ipv4 10.0.0/8", &["'10.0.0/8'", "10.0.0.0/8"]),
        ("deny ipv4 fd00::/8", &["ipv4", "IPv6 prefix"]),
        (
            "deny src 10.0.0.0/8 dst fd00::/8",
            &["IPv4 prefix", "IPv6 prefix"],
        ),
        (
            "deny ipv4 1.1.1.1 2.2.2.2 3.3.3.3",
            &["'3.3.3.3'", "one of"],
        ),
        (
            "deny ipv4 1.1.1.1 src 2.2.2.2",
            &["'src'", "one source prefix"],
        ),
        ("deny vlan 4095", &["VLAN 4095", "4094"]),
        ("deny vlan x", &["'x'", "4094"]),
        ("deny ethertype 5", &["EtherType 5", "0x600"]),
        ("deny arp ipv4", &["EtherType", "IP"]),
        ("deny arp fragment", &["EtherType", "IP"]),
        (
            "deny from 02:00:00:00:00",
            &["'02:00:00:00:00'", "MAC address"],
        ),
        ("deny from 02:00:00:00:00:01:02", &["MAC address"]),
        (
            "deny from 02:00:00:00:00:01/ff:ff:ff:00:00:00",
            &["'02:00:00:00:00:00/ff:ff:ff:00:00:00'"],
        ),
        ("deny proto 256", &["'256'", "0 to 255"]),
    ] {
        let message = message(text);
        for part in parts {
            assert!(message.contains(part), "{text}: {message}");
        }
    }
}

#[test]
fn a_list_with_a_bad_rule_leaves_the_old_one() {
    let acl = off();
    replace(&acl, &[RuleSpec::any(Verdict::Permit)], Verdict::Deny).unwrap();
    let mut bad = RuleSpec::any(Verdict::Deny);
    bad.ip_version = Some(5);
    let rules = [RuleSpec::any(Verdict::Deny), bad];
    let error = replace(&acl, &rules, Verdict::Permit).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("rule 2, 'deny ipv5': IP version 5"),
        "{error}"
    );
    let many = vec![RuleSpec::any(Verdict::Deny); MAX_RULES + 1];
    let error = replace(&acl, &many, Verdict::Permit).unwrap_err();
    assert_eq!(error, RuleError::TooMany { count: 33 });
    assert_eq!(hit_counts(&acl), [0]);
}

#[test]
fn json() {
    let rule = parse("deny in from 02:00:00:00:00:01 ipv4 10.0.0.0/8 tcp dport 20-22").unwrap();
    let text = serde_json::to_string(&rule).unwrap();
    assert_eq!(
        text,
        concat!(
            r#"{"action":"deny","direction":"ingress","from":"02:00:00:00:00:01","#,
            r#""ip_version":4,"source":"10.0.0.0/8","protocol":6,"destination_ports":"20-22"}"#
        )
    );
    assert_eq!(serde_json::from_str::<RuleSpec>(&text).unwrap(), rule);
    for bad in [
        r#"{"action":"deny","source":"10.0.0.1/8"}"#,
        r#"{"action":"deny","port":22}"#,
        r#"{"action":"drop"}"#,
        r#"{}"#,
    ] {
        assert!(serde_json::from_str::<RuleSpec>(bad).is_err(), "{bad}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn text_comes_back(rule in crate::policy::acl::tests::rule()) {
        let text = rule.to_string();
        prop_assert_eq!(parse(&text), Ok(rule), "{}", text);
    }

    #[test]
    fn any_text(
        text in "(permit|deny|in|out|from|vlan|ipv4|ipv6|tcp|sport|any|src|[0-9a-f:./x-]{1,12}| )\
                 {0,12}",
        noise in ".{0,40}",
    ) {
        let _ = parse(&text);
        let _ = parse(&noise);
    }
}
