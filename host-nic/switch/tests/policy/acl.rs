//! Access lists of ports.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use postern_nic_client::policy::acl::AclSpec;
use postern_switch::policy::acl::Verdict;
use postern_switch::state::Cause;

use crate::ports::packet::{Flow, Kind, frame, payload, udp};
use crate::ports::{BROADCAST, Guest, Net, mac};

fn list(rules: &[&str], default: Verdict) -> AclSpec {
    AclSpec {
        rules: rules.iter().map(|rule| rule.parse().unwrap()).collect(),
        default,
    }
}

#[test]
fn ingress_and_egress_rules_decide_and_count() {
    let net = Net::new(3);
    let mut guests = net.guests();
    net.set(0, |policy| {
        let rules = [
            "deny in udp dport 22",
            "deny out udp sport 53",
            "permit in udp dport 1000-2000",
            "deny in udp",
        ];
        policy.acl = list(&rules, Verdict::Permit);
    });
    // Frames that port 0 sends.
    for (port, passes) in [
        (22, false),
        (53, false),
        (1000, true),
        (2000, true),
        (2001, false),
    ] {
        guests[0].send(&udp(mac(1), mac(0), (5, port), 20, 1));
        assert_eq!(
            guests[1].receive().len(),
            usize::from(passes),
            "port {port}"
        );
    }
    guests[0].send(&frame(mac(1), mac(0), 60, 1));
    assert_eq!(guests[1].receive().len(), 1);
    assert_eq!(net.hits(0), [1, 0, 2, 2]);
    assert_eq!(net.drops(0, Cause::Policy), 3);
    // Frames that port 0 receives, alone or with others.
    for (port, passes) in [(53, false), (54, true)] {
        for to in [mac(0), BROADCAST] {
            guests[1].send(&udp(to, mac(1), (port, 22), 20, 1));
            assert_eq!(
                guests[0].receive().len(),
                usize::from(passes),
                "port {port}"
            );
            let others = usize::from(to == BROADCAST);
            assert_eq!(guests[2].receive().len(), others);
        }
    }
    assert_eq!(net.hits(0), [1, 2, 2, 2]);
    assert_eq!(net.drops(1, Cause::Policy), 2);
}

#[test]
fn a_default_denies_the_rest_both_ways() {
    let net = Net::new(2);
    let mut guests = net.guests();
    net.set(1, |policy| {
        policy.acl = list(&["permit ethertype 0x88b5"], Verdict::Deny)
    });
    guests[0].send(&frame(mac(1), mac(0), 60, 1));
    guests[0].send(&udp(mac(1), mac(0), (1, 2), 20, 1));
    assert_eq!(guests[1].receive(), [frame(mac(1), mac(0), 60, 1)]);
    guests[1].send(&udp(mac(0), mac(1), (1, 2), 20, 1));
    guests[1].send(&frame(mac(0), mac(1), 60, 1));
    assert_eq!(guests[0].receive(), [frame(mac(0), mac(1), 60, 1)]);
    assert_eq!(
        (net.drops(0, Cause::Policy), net.drops(1, Cause::Policy)),
        (1, 1)
    );
    assert_eq!(net.hits(1), [2]);
}

#[test]
fn a_list_that_stays_the_same_keeps_its_counters() {
    let net = Net::new(2);
    let mut guests = net.guests();
    net.set(0, |policy| {
        policy.acl = list(&["permit in arp", "deny udp"], Verdict::Permit)
    });
    guests[0].send(&udp(mac(1), mac(0), (1, 2), 20, 1));
    net.set(0, |policy| policy.mirror = Some(1));
    net.set(1, |policy| policy.mirror = Some(0));
    assert_eq!(net.hits(0), [0, 1]);
    net.set(0, |policy| {
        policy.acl = list(&["deny udp"], Verdict::Permit)
    });
    assert_eq!(net.hits(0), [0]);
}

#[test]
fn a_wrong_list_changes_nothing() {
    let net = Net::new(2);
    let mut guests = net.guests();
    net.set(0, |policy| {
        policy.acl = list(&["deny udp"], Verdict::Permit)
    });
    let wrong = net.try_set(0, |policy| {
        policy.acl.rules = vec![policy.acl.rules[0].clone(); 33];
        policy.source = postern_nic_client::policy::port::Source::Own;
    });
    let said = wrong.unwrap_err().to_string();
    assert!(said.contains("port 0") && said.contains("33"), "{said}");
    guests[0].send(&udp(mac(1), mac(0), (1, 2), 20, 1));
    guests[0].send(&frame(mac(1), mac(7), 60, 1));
    assert_eq!(guests[1].receive().len(), 1);
}

/// Two lists agree on port 9 alone, which both deny, by rules of different numbers.
#[test]
fn a_list_is_replaced_as_a_whole_while_frames_pass() {
    let net = Net::new(2);
    let many = ["deny udp dport 700"; 20];
    let lists = [
        [
            &many[..],
            &["permit udp dport 1", "deny udp dport 9", "deny udp"],
        ]
        .concat(),
        vec!["deny udp dport 9", "permit udp dport 2", "deny udp"],
    ];
    let lists = lists.map(|rules| list(&rules, Verdict::Permit));
    net.set(0, |policy| policy.acl = lists[0].clone());
    let stop = AtomicBool::new(false);
    let passed = thread::scope(|scope| {
        let (memory, stop) = (&net.memory, &stop);
        let sender = scope.spawn(move || {
            let (mut sender, mut receiver) = (Guest::new(memory, 0), Guest::new(memory, 1));
            let mut passed = [0u64; 10];
            while !stop.load(Relaxed) || passed[1] == 0 || passed[2] == 0 {
                for port in [1, 2, 9, 9, 3] {
                    sender.put(&udp(mac(1), mac(0), (5, port), 20, 1));
                }
                assert_eq!(sender.call(), 5);
                for bytes in receiver.receive() {
                    passed[usize::from(bytes[37])] += 1;
                }
            }
            passed
        });
        for round in 0..3000 {
            net.set(0, |policy| policy.acl = lists[(round + 1) % 2].clone());
            if round % 16 == 0 {
                thread::yield_now();
            }
        }
        // Each of the lists stays for a while.
        for list in &lists {
            net.set(0, |policy| policy.acl = list.clone());
            let frames = || memory.switch().sender(0).unwrap().frames.load(Relaxed);
            let before = frames();
            while frames() < before + 100 && !sender.is_finished() {
                thread::yield_now();
            }
        }
        stop.store(true, Relaxed);
        sender.join().unwrap()
    });
    assert_eq!((passed[3], passed[9]), (0, 0), "{passed:?}");
    assert!(passed[1] > 0 && passed[2] > 0, "{passed:?}");
}

/// The ways to send a packet, given with its EtherType, on an Ethernet.
fn encapsulations(packet: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<(String, Vec<u8>)> = vec![("Ethernet II".into(), packet.to_vec())];
    let mut add = |name: &str, parts: &[&[u8]]| all.push((name.into(), parts.concat()));
    // RFC 1042, and IEEE 802.1H for bridges.
    for oui in [[0; 3], [0, 0, 0xf8]] {
        let snap = [&[0xaa, 0xaa, 3][..], &oui, packet].concat();
        for length in [0, snap.len() as u16, 1500, 1501, 1535] {
            add(
                &format!("SNAP of {length}"),
                &[&length.to_be_bytes(), &snap],
            );
        }
        add("SNAP in a jumbo frame", &[&[0x88, 0x70], &snap]);
    }
    add("LLC", &[&[0, 60, 6, 6, 3], &packet[2..]]);
    let ppp = [0x11, 0, 0, 1, 0, 100, 0, 0x21];
    add("PPPoE", &[&[0x88, 0x64], &ppp, &packet[2..]]);
    for kind in [[0x88, 0x47], [0x88, 0x48]] {
        add("MPLS", &[&kind, &[0, 1, 0x01, 64], &packet[2..]]);
    }
    let inside = [[2; 12]].concat();
    add("PBB", &[&[0x88, 0xe7, 0, 0, 0, 1], &inside, packet]);
    for kind in [0x9100u16, 0x9200, 0x9300] {
        add("an old tag", &[&kind.to_be_bytes(), &[0, 5], packet]);
    }
    let tags: [&[u8]; 5] = [
        &[0x81, 0, 0, 0],
        &[0x81, 0, 0, 0, 0x81, 0, 0, 0],
        &[0x81, 0, 0, 0, 0x81, 0, 0, 0, 0x81, 0, 0, 0],
        &[0x88, 0xa8, 0, 5],
        &[0x88, 0xa8, 0, 5, 0x81, 0, 0, 20],
    ];
    let behind = |tag: &&[u8]| {
        let tagged = |(name, bytes): &(String, Vec<u8>)| {
            let bytes = [*tag, bytes].concat();
            (format!("{name} behind {tag:x?}"), bytes)
        };
        all.iter().map(tagged).collect::<Vec<_>>()
    };
    let more: Vec<_> = tags.iter().flat_map(behind).collect();
    [all, more].concat()
}

#[test]
fn no_encapsulation_evades_a_rule_that_denies() {
    let addresses = [BROADCAST, mac(0)].concat();
    let net = Net::new(2);
    let mut guests = net.guests();
    let dns = udp(BROADCAST, mac(0), (1, 53), 30, 1);
    let arp = frame(BROADCAST, mac(0), 60, 1);
    let six = Flow::new(Kind::Udp6, BROADCAST, mac(0)).whole(&payload(30, 1));
    let packets = [
        ("deny in arp", [&[0x08, 0x06], &arp[14..]].concat()),
        ("deny in ipv4 udp dport 53", dns[12..].to_vec()),
        ("deny in ipv4", dns[12..].to_vec()),
        ("deny in ipv6", six[12..].to_vec()),
    ];
    for (rule, packet) in packets {
        for (name, bytes) in encapsulations(&packet) {
            let sent = [&addresses[..], &bytes].concat();
            net.set(0, |policy| policy.acl = list(&[], Verdict::Permit));
            guests[0].send(&sent);
            assert_eq!(guests[1].receive(), [sent.clone()]);
            net.set(0, |policy| policy.acl = list(&[rule], Verdict::Permit));
            guests[0].send(&sent);
            assert_eq!(guests[1].receive().len(), 0, "{rule}, {name}");
            // A rule that permits lets nothing pass of which nobody knows what it is.
            let permit = rule.replace("deny", "permit");
            net.set(0, |policy| policy.acl = list(&[&permit], Verdict::Deny));
            guests[0].send(&sent);
            let plain = name.starts_with("Ethernet II") && name.matches("81, 0").count() < 3;
            let passed = guests[1].receive().len();
            assert_eq!(passed, usize::from(plain), "{permit}, {name}");
        }
    }
}
