//! The ports whose frames meet policies, and the moment from which on they do.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use postern_nic_client::mac::Mac;
use postern_nic_client::policy::acl::AclSpec;
use postern_nic_client::policy::port::{Isolation, PortPolicy, Source};
use postern_nic_client::policy::rate::RateLimit;
use postern_nic_client::policy::vlan::VlanSpec;
use postern_nic_owner::installed_policies::Policies;
use postern_switch::policy::acl::Verdict;
use postern_switch::state::{Cause, MODE_NO_LEARNING};

use crate::ports::packet::frame;
use crate::ports::{Guest, Net, mac, port};

type Change = fn(&mut PortPolicy);

const LIMIT: RateLimit = RateLimit {
    bits_per_second: 1 << 30,
    burst_bytes: 2000,
};

fn acl(rule: &str) -> AclSpec {
    AclSpec {
        rules: vec![rule.parse().unwrap()],
        default: Verdict::Permit,
    }
}

/// For each policy of port 1: the ports whose frames meet a policy then.
#[test]
fn only_those_whose_frames_meet_a_policy_mind_it() {
    let net = Net::new(3);
    let cases: [(Change, [bool; 3]); 10] = [
        (|policy| policy.source = Source::Own, [false, true, false]),
        (|policy| policy.ingress = Some(LIMIT), [false, true, false]),
        (|policy| policy.egress = Some(LIMIT), [true, false, true]),
        (
            |policy| policy.acl = acl("deny in udp"),
            [false, true, false],
        ),
        (
            |policy| policy.acl = acl("deny out udp"),
            [true, true, true],
        ),
        (
            |policy| policy.acl.default = Verdict::Deny,
            [true, true, true],
        ),
        (|policy| policy.mirror = Some(0), [true, true, true]),
        (|policy| policy.blocked = vec![2], [false, true, false]),
        (|policy| policy.bridging = false, [true, true, true]),
        (
            |policy| policy.vlan = Some(VlanSpec::Access { pvid: 1 }),
            [true, true, true],
        ),
    ];
    let mode = &net.memory.switch().state().mode[0];
    mode.fetch_or(MODE_NO_LEARNING, Relaxed);
    for (number, (change, expected)) in cases.into_iter().enumerate() {
        let generation = || net.memory.switch().state().generation.load(Relaxed);
        let before = generation();
        net.set(1, change);
        assert_eq!([0, 1, 2].map(|port| net.minds(port)), expected, "{number}");
        assert!(generation() > before);
        net.reset();
        assert_eq!(
            [0, 1, 2].map(|port| net.minds(port)),
            [false; 3],
            "{number}"
        );
    }
    net.set(1, |policy| policy.isolation = Isolation::Isolated);
    assert!(!net.minds(1));
    net.set(2, |policy| policy.isolation = Isolation::Isolated);
    assert_eq!([0, 1, 2].map(|port| net.minds(port)), [false, true, true]);
    assert_ne!(mode.load(Relaxed) & MODE_NO_LEARNING, 0);
}

/// Without a new generation the cached route would still lead to the port.
#[test]
fn a_cached_route_does_not_outlive_a_policy() {
    let net = Net::new(3);
    let mut guests = net.guests();
    let sent = frame(mac(1), mac(0), 60, 1);
    for _ in 0..3 {
        for _ in 0..5 {
            guests[0].send(&sent);
        }
        assert_eq!(guests[1].receive().len(), 5);
        net.set(1, |policy| policy.acl.default = Verdict::Deny);
        for _ in 0..5 {
            guests[0].send(&sent);
        }
        assert_eq!(guests[1].receive().len(), 0);
        net.set(1, |policy| policy.acl.default = Verdict::Permit);
    }
    assert_eq!(net.drops(0, Cause::Policy), 15);
}

/// A policy may come while a call is under way, which still caches routes: they do not outlive it.
#[test]
fn a_route_that_a_call_caches_meanwhile_does_not_outlive_a_policy() {
    let net = Net::new(3);
    let (mut refused, mut mid_call) = (0, 0);
    for round in 0..400 {
        let begun = AtomicBool::new(false);
        thread::scope(|scope| {
            let (memory, begun) = (&net.memory, &begun);
            let sender = scope.spawn(move || {
                let mut sender = Guest::new(memory, 0);
                for seed in 0..128 {
                    // Neighbours go to different ports, so that each is looked up.
                    sender.put(&frame(mac(1 + (seed & 1)), mac(0), 60, seed.into()));
                }
                begun.store(true, Relaxed);
                assert_eq!(sender.call(), 128);
            });
            while !begun.load(Relaxed) {
                std::hint::spin_loop();
            }
            // Wait until some frames of the call may have been taken.
            for _ in 0..(round % 100) * 5 {
                std::hint::spin_loop();
            }
            net.set(0, |policy| policy.acl.default = Verdict::Deny);
            sender.join().unwrap();
        });
        let mut guests = net.guests();
        let before: Vec<_> = guests
            .iter_mut()
            .map(|guest| guest.receive().len())
            .collect();
        mid_call += u32::from((1..128).contains(&before.iter().sum::<usize>()));
        for to in [1, 2, 1, 2] {
            guests[0].send(&frame(mac(to), mac(0), 60, 1));
            refused += 1;
            for guest in &mut guests {
                assert_eq!(guest.receive().len(), 0, "round {round}");
            }
        }
        net.set(0, |policy| policy.acl.default = Verdict::Permit);
    }
    assert_eq!(refused, 1600);
    println!("the policy came into a call {mid_call} times");
}

#[test]
fn policies_survive_a_file() {
    let net = Net::new(4);
    let mut policies = Policies::default();
    let switch = net.memory.switch();
    let policy = PortPolicy {
        source: Source::Own,
        vlan: Some(VlanSpec::Access { pvid: 7 }),
        ingress: Some(LIMIT),
        acl: acl("deny in udp dport 22"),
        mirror: Some(3),
        isolation: Isolation::Community(4),
        ..PortPolicy::default()
    };
    policies.set(&switch, port(1), policy.clone()).unwrap();
    let text = serde_json::to_string(&policies).unwrap();
    let again: Policies = serde_json::from_str(&text).unwrap();
    assert_eq!(again, policies);
    assert_eq!(again.get(port(1)), policy);
    let other = Net::new(4);
    again.apply_all(&other.memory.switch()).unwrap();
    assert!((0..4).all(|port| other.minds(port)));
    let mut guests = other.guests();
    guests[1].send(&frame(mac(0), mac(2), 60, 1));
    assert_eq!(other.drops(1, Cause::Spoofed), 1);
    // A field that is not written has its default, and an unknown field is refused.
    let few: PortPolicy = serde_json::from_str(r#"{"source":"02:00:00:00:00:01"}"#).unwrap();
    assert_eq!(few.source, Source::Address(Mac([2, 0, 0, 0, 0, 1])));
    assert!(few.bridging);
    for wrong in [
        r#"{"sauce":"own"}"#,
        r#"{"source":"01:00:00:00:00:01"}"#,
        r#"{"source":"02:00:00:00:00"}"#,
        r#"{"source":"02:00:00:00:00:00:00"}"#,
        r#"{"source":"+2:00:00:00:00:00"}"#,
    ] {
        assert!(
            serde_json::from_str::<PortPolicy>(wrong).is_err(),
            "{wrong}"
        );
    }
    policies
        .set(&switch, port(1), PortPolicy::default())
        .unwrap();
    assert_eq!(policies.iter().count(), 0);
}
