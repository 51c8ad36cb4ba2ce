//! `postern nic set`: a port's policy, from a file or setting by setting.
#![deny(unsafe_code)]

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use clap::Args as ClapArgs;
use postern_nic_client::control::{Control, PolicyInfo};
use postern_nic_client::file as named_file;
use postern_nic_client::policy::port::{Isolation, PortPolicy};
use postern_nic_client::policy::rate::{MIN_BURST, RateLimit};
use postern_nic_client::policy::rule::shadow::first_shadowed;
use postern_nic_client::policy::vlan::{VlanSpec, vid_range};
use postern_switch::policy::acl::Verdict;
use postern_vmm::topology::hint;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::ask::ask;
use crate::error::CommandError;
use crate::output;
use crate::parsers;

/// Flags of `postern nic set`.
#[derive(ClapArgs)]
#[command(after_help = HELP)]
pub struct Args {
    /// The NIC's socket
    #[arg(value_parser = parsers::socket)]
    socket: PathBuf,
    /// Number of the port
    port: u32,
    /// Begin with the policy in this file instead of the port's present one: TOML, or JSON if its
    /// name ends in .json, also as postern nic show policies --json prints it
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Begin with no policy
    #[arg(long, conflicts_with = "policy")]
    none: bool,
    /// Settings to change
    #[arg(value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

/// The settings that there are.
const KEYS: [&str; 12] = [
    "source",
    "ingress",
    "egress",
    "vlan",
    "rule",
    "rules",
    "default",
    "mirror",
    "isolation",
    "blocked",
    "reserved",
    "bridging",
];

const HELP: &str = "\
Settings:
  source=any|own|MAC          source addresses that the port may use
  ingress=RATE[/BURST]|off    how much it may send: RATE in bits a second, with K, M or G;
                              BURST in bytes, with K or M
  egress=RATE[/BURST]|off     how much it may receive
  vlan=access:N               untagged frames of one VLAN
  vlan=trunk:N,N-N...[/NATIVE]
                              tagged frames of several, untagged ones of NATIVE
  vlan=off
  rule=RULE                   another rule of the access list, of 32 at most; the first
                              one that matches a frame decides
  rules=none                  no rules
  default=permit|deny         what happens to frames that match no rule
  mirror=PORT|off             the port that gets a copy of all that this one sends and receives
  isolation=promiscuous|isolated|community:N
                              which others it reaches; N is 0 to 65535
  blocked=PORT,PORT...|none   further ports that its frames do not reach
  reserved=NN,NN...|none      reserved group addresses 01:80:c2:00:00:NN, such as 0e (LLDP),
                              to which its frames are forwarded; all but 01 can be
  bridging=on|off             whether it takes part at all

A rule is permit or deny, and what a frame must have, such as 'deny in ipv4 tcp dport 22':
  in, out                     what the port sends, what it receives; both without
  from MAC[/MASK], to MAC[/MASK]
  vlan N, ethertype 0xN, arp  N is 0 (no VLAN) to 4094, an EtherType 0x600 to 0xffff
  ipv4 [SRC [DST]], ipv6 [SRC [DST]], src PREFIX, dst PREFIX
  tcp, udp, icmp, icmpv6, sctp, dccp, udplite, proto N
  sport N[-M], dport N[-M], fragment

A file has the same words as TOML or JSON; what it leaves out is as without a policy:
  source = \"own\"
  isolation = { community = 7 }         # or \"isolated\", \"promiscuous\"
  mirror = 3
  blocked = [1, 2]
  reserved = [\"0e\"]
  bridging = true
  ingress = { bits_per_second = 100000000, burst_bytes = 65536 }
  egress = { bits_per_second = 1000000000, burst_bytes = 65536 }
  vlan = { trunk = { pvid = 5, members = [10, \"20-29\"] } }   # or { access = { pvid = 7 } }
  acl = { rules = [\"permit in arp\", \"deny in ipv4 tcp dport 22\"], default = \"permit\" }";

/// Size of the largest policy file that is read, in bytes: several times what all ports of the
/// largest NIC fill.
const MAX_FILE: u64 = 16 << 20;

/// Changes it; returns the exit status.
pub fn run(args: Args) -> Result<u8, CommandError> {
    let mut policy = match (&args.policy, args.none) {
        (Some(file), _) => read(file, args.port).map_err(CommandError::configuration)?,
        (None, true) => PortPolicy::default(),
        (None, false) => present(&args)?,
    };
    for setting in &args.settings {
        change(&mut policy, setting)
            .with_context(|| format!("'{setting}' cannot be set"))
            .map_err(CommandError::configuration)?;
    }
    if policy.blocked.contains(&args.port) {
        let error = anyhow!(
            "port {} cannot be blocked from itself: it never gets its own frames",
            args.port
        );
        return Err(CommandError::configuration(error));
    }
    if let Some((rule, by)) = first_shadowed(&policy.acl.rules) {
        let (rule_text, by_text) = (&policy.acl.rules[rule - 1], &policy.acl.rules[by - 1]);
        output::tell(format_args!(
            "rule {rule}, '{rule_text}', never decides: rule {by}, '{by_text}', \
             matches all of its frames"
        ));
    }
    let set = Control::SetPolicy {
        port: args.port,
        policy: Box::new(policy),
    };
    ask::<()>(&args.socket, &set)?;
    Ok(0)
}

fn present(args: &Args) -> Result<PortPolicy, CommandError> {
    if args.settings.is_empty() {
        let error = anyhow!("nothing to change: name settings, --policy or --none (see --help)");
        return Err(CommandError::configuration(error));
    }
    let list: Vec<PolicyInfo> = ask(&args.socket, &Control::Policies)?;
    let found = list.into_iter().find(|info| info.port == args.port);
    // The NIC itself says which ports there are.
    Ok(found.map(|info| info.policy).unwrap_or_default())
}

/// The policy for a port in a file.
fn read(file: &Path, port: u32) -> anyhow::Result<PortPolicy> {
    let shown = file.display();
    let text = named_file::read_text(file, MAX_FILE).with_context(|| format!("policy {shown}"))?;
    let format = match file.extension().is_some_and(|ending| ending == "json") {
        true => FileFormat::Json,
        false => FileFormat::Toml,
    };
    let policy = format.policy(&text, port);
    policy.with_context(|| format!("{shown} holds no policy for port {port}"))
}

/// The format of a policy file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FileFormat {
    Json,
    Toml,
}

impl FileFormat {
    fn parse<T: DeserializeOwned>(self, text: &str) -> anyhow::Result<T> {
        match self {
            FileFormat::Json => Ok(serde_json::from_str(text)?),
            FileFormat::Toml => Ok(toml::from_str(text)?),
        }
    }

    /// The policy for a port in a text: a policy, a port's part of what [`Control::Policies`]
    /// reports, or all of that.
    fn policy(self, text: &str, port: u32) -> anyhow::Result<PortPolicy> {
        #[derive(Deserialize)]
        struct Beginning {
            policy: Option<IgnoredAny>,
        }
        #[derive(Deserialize)]
        struct Part {
            policy: PortPolicy,
        }
        if self == FileFormat::Json && text.trim_start().starts_with('[') {
            let report: Vec<PolicyInfo> = self.parse(text)?;
            let found = report.into_iter().find(|info| info.port == port);
            let policy = found.map(|info| info.policy);
            return policy.with_context(|| format!("it is a list without port {port}"));
        }
        // Each kind is read as itself, so that a fault is told with its place.
        match self.parse::<Beginning>(text)?.policy {
            Some(_) => Ok(self.parse::<Part>(text)?.policy),
            None => self.parse(text),
        }
    }
}

fn change(policy: &mut PortPolicy, setting: &str) -> anyhow::Result<()> {
    let (key, value) = setting
        .split_once('=')
        .ok_or_else(|| anyhow!("it has no '='"))?;
    match key {
        "source" => policy.source = value.parse()?,
        "ingress" => policy.ingress = limit(value)?,
        "egress" => policy.egress = limit(value)?,
        "vlan" => policy.vlan = vlan(value)?,
        "rule" => policy.acl.rules.push(value.parse()?),
        "rules" if value == "none" => policy.acl.rules.clear(),
        "rules" => bail!("give none, and then each rule with rule="),
        "default" => {
            policy.acl.default = match value {
                "permit" => Verdict::Permit,
                "deny" => Verdict::Deny,
                _ => bail!("give permit or deny"),
            }
        }
        "mirror" if value == "off" => policy.mirror = None,
        "mirror" => policy.mirror = Some(number(value, "port")?),
        "isolation" => {
            policy.isolation = match (value, value.split_once(':')) {
                ("promiscuous", _) => Isolation::Promiscuous,
                ("isolated", _) => Isolation::Isolated,
                (_, Some(("community", which))) => {
                    Isolation::Community(number(which, "community: give 0 to 65535")?)
                }
                _ => bail!("give promiscuous, isolated or community:N"),
            }
        }
        "blocked" if value == "none" => policy.blocked.clear(),
        "blocked" => policy.blocked = numbers(value, "port")?,
        "reserved" if value == "none" => policy.reserved.clear(),
        "reserved" => {
            let addresses = value.split(',').map(str::parse);
            policy.reserved = addresses.collect::<Result<_, _>>()?;
        }
        "bridging" => {
            policy.bridging = match value {
                "on" => true,
                "off" => false,
                _ => bail!("give on or off"),
            }
        }
        _ => bail!("there is no setting {key}; {}", hint(key, &KEYS)),
    }
    Ok(())
}

fn number<T: std::str::FromStr>(text: &str, what: &str) -> anyhow::Result<T> {
    let parsed = text.parse().ok();
    parsed.with_context(|| format!("'{text}' is no {what}"))
}

fn numbers<T: std::str::FromStr>(text: &str, what: &str) -> anyhow::Result<Vec<T>> {
    text.split(',').map(|part| number(part, what)).collect()
}

fn vlan(text: &str) -> anyhow::Result<Option<VlanSpec>> {
    Ok(Some(match text.split_once(':') {
        _ if text == "off" => return Ok(None),
        Some(("access", vid)) => VlanSpec::Access {
            pvid: number(vid, "VLAN")?,
        },
        Some(("trunk", rest)) => {
            let (members, native) = match rest.split_once('/') {
                Some((members, native)) => (members, Some(number(native, "VLAN")?)),
                None => (rest, None),
            };
            VlanSpec::Trunk {
                pvid: native,
                members: vlans(members)?,
                untagged: Vec::new(),
            }
        }
        _ => bail!("give off, access:N or trunk:N,N-N...[/NATIVE]"),
    }))
}

/// VLANs and ranges of them, between commas.
fn vlans(text: &str) -> anyhow::Result<Vec<u16>> {
    let mut members = Vec::new();
    for part in text.split(',') {
        members.extend(vid_range(part)?);
    }
    Ok(members)
}

/// A number with K, M or G, which stand for powers of `unit`.
fn scaled(text: &str, unit: u64) -> Option<u64> {
    let (digits, power) = match text.char_indices().last()? {
        (at, 'K') => (&text[..at], 1),
        (at, 'M') => (&text[..at], 2),
        (at, 'G') => (&text[..at], 3),
        _ => (text, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(unit.pow(power))
}

fn limit(text: &str) -> anyhow::Result<Option<RateLimit>> {
    if text == "off" {
        return Ok(None);
    }
    let (rate, burst) = match text.split_once('/') {
        Some((rate, burst)) => (rate, Some(burst)),
        None => (text, None),
    };
    let rate = scaled(rate, 1000).with_context(|| format!("'{rate}' is no rate such as 100M"))?;
    let burst = match burst {
        Some(burst) => scaled(burst, 1024)
            .and_then(|bytes| u32::try_from(bytes).ok())
            .with_context(|| format!("'{burst}' is no burst such as 64K"))?,
        // 10 ms, and at least some frames.
        None => (rate / 800).clamp(u64::from(MIN_BURST) * 10, 64 << 20) as u32,
    };
    let limit = RateLimit {
        bits_per_second: rate,
        burst_bytes: burst,
    };
    limit.check()?;
    Ok(Some(limit))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use std::fs;

    use postern_nic_client::mac::Mac;
    use postern_nic_client::policy::acl::AclSpec;
    use postern_nic_client::policy::port::{ReservedAddress, Source};
    use postern_nic_client::policy::rule::RuleSpec;
    use postern_switch::policy::acl::MAX_RULES;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_misspelt_setting_is_told_with_the_nearest() {
        let error = |setting: &str| {
            let changed = change(&mut PortPolicy::default(), setting);
            changed.unwrap_err().to_string()
        };
        assert_eq!(
            error("souce=own"),
            "there is no setting souce; did you mean source?"
        );
        for key in KEYS {
            let error = error(&format!("{key}=?"));
            assert!(!error.contains("no setting"), "{error}");
        }
    }

    #[test]
    fn settings_change_what_they_name() {
        let mut policy = PortPolicy::default();
        for setting in [
            "source=own",
            "ingress=100M/64K",
            "egress=1G",
            "vlan=trunk:10,20-22/5",
            "rule=deny in ipv4 tcp dport 22",
            "default=deny",
            "mirror=3",
            "isolation=community:7",
            "blocked=1,2",
            "reserved=00,0e",
            "bridging=off",
        ] {
            change(&mut policy, setting).unwrap();
        }
        let ingress = policy.ingress.unwrap();
        assert_eq!(ingress.bits_per_second, 100_000_000);
        assert_eq!(ingress.burst_bytes, 65_536);
        assert_eq!(policy.acl.rules.len(), 1);
        assert_eq!(policy.blocked, [1, 2]);
        let reserved = policy.reserved.iter().map(|address| address.number());
        assert_eq!(reserved.collect::<Vec<_>>(), [0, 14]);
        let trunk = VlanSpec::Trunk {
            pvid: Some(5),
            members: vec![10, 20, 21, 22],
            untagged: Vec::new(),
        };
        assert_eq!(policy.vlan, Some(trunk));
        for setting in [
            "source=any",
            "ingress=off",
            "egress=off",
            "vlan=off",
            "rules=none",
            "default=permit",
            "mirror=off",
            "isolation=promiscuous",
            "blocked=none",
            "reserved=none",
            "bridging=on",
        ] {
            assert_ne!(policy, PortPolicy::default());
            change(&mut policy, setting).unwrap();
        }
        assert_eq!(policy, PortPolicy::default());
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        for setting in [
            "",
            "source",
            "colour=red",
            "source=01:00:00:00:00:01",
            "ingress=fast",
            "ingress=1",
            "ingress=100M/1",
            "ingress=99999999999999999999G",
            "ingress=99999999999999999G",
            "vlan=trunk:",
            "vlan=trunk:20-10",
            "vlan=trunk:10-",
            "vlan=access:x",
            "rule=maybe",
            "rules=many",
            "blocked=1;2",
            "isolation=community:",
            "reserved=01",
            "reserved=14",
            "reserved=",
        ] {
            let error = change(&mut PortPolicy::default(), setting);
            assert!(error.is_err(), "{setting}");
        }
    }

    #[test]
    fn a_policy_is_read_as_it_is_shown() {
        let directory = tempfile::tempdir().unwrap();
        let mut policy = PortPolicy::default();
        change(&mut policy, "vlan=trunk:10,20/5").unwrap();
        change(&mut policy, "rule=deny in ipv4 tcp dport 22").unwrap();
        change(&mut policy, "isolation=community:7").unwrap();
        let (json, toml) = (
            directory.path().join("policy.json"),
            directory.path().join("policy.toml"),
        );
        fs::write(&toml, toml::to_string(&policy).unwrap()).unwrap();
        assert_eq!(read(&toml, 1).unwrap(), policy);
        let info = |port: u32, policy: &PortPolicy| PolicyInfo {
            port,
            policy: policy.clone(),
            acl_hits: vec![7],
        };
        let all = [info(0, &PortPolicy::default()), info(1, &policy)];
        for shown in [
            serde_json::to_string(&policy).unwrap(),
            serde_json::to_string_pretty(&all).unwrap(),
            serde_json::to_string(&all[1]).unwrap(),
        ] {
            fs::write(&json, shown).unwrap();
            assert_eq!(read(&json, 1).unwrap(), policy);
        }
        fs::write(&json, serde_json::to_string(&all).unwrap()).unwrap();
        let error = format!("{:#}", read(&json, 2).unwrap_err());
        assert!(error.contains("a list without port 2"), "{error}");
    }

    fn rule() -> impl Strategy<Value = RuleSpec> {
        let clauses = [
            "in",
            "out",
            "from 02:00:00:00:00:07",
            "to 01:00:00:00:00:00/01:00:00:00:00:00",
            "vlan 7",
            "ethertype 0x88cc",
            "arp",
            "ipv4 10.0.0.0/8",
            "src fd00::/8",
            "dst ::1",
            "ipv6",
            "tcp",
            "proto 47",
            "sport 1-1000",
            "dport 22",
            "fragment",
        ];
        let some = prop::sample::subsequence(clauses.to_vec(), 0..=5);
        (any::<bool>(), some).prop_filter_map("a contradiction", |(permit, clauses)| {
            let action = if permit { "permit" } else { "deny" };
            format!("{action} {}", clauses.join(" ")).parse().ok()
        })
    }

    fn limit() -> impl Strategy<Value = Option<RateLimit>> {
        prop::option::of((1u64 << 20..1 << 30, MIN_BURST..1 << 20).prop_map(
            |(bits_per_second, burst_bytes)| RateLimit {
                bits_per_second,
                burst_bytes,
            },
        ))
    }

    fn reserved(last: &u8) -> ReservedAddress {
        format!("{last:02x}").parse().unwrap()
    }

    fn policies() -> impl Strategy<Value = PortPolicy> {
        let source = prop_oneof![
            Just(Source::Any),
            Just(Source::Own),
            any::<[u8; 5]>().prop_map(|[a, b, c, d, e]| Source::Address(Mac([2, a, b, c, d, e]))),
        ];
        let vids = || prop::collection::vec(1u16..4095, 0..6);
        let vlan = prop_oneof![
            Just(None),
            (1u16..4095).prop_map(|pvid| Some(VlanSpec::Access { pvid })),
            (prop::option::of(1u16..4095), vids(), vids()).prop_map(|(pvid, members, untagged)| {
                Some(VlanSpec::Trunk {
                    pvid,
                    members,
                    untagged,
                })
            }),
        ];
        let isolation = prop_oneof![
            Just(Isolation::Promiscuous),
            Just(Isolation::Isolated),
            any::<u16>().prop_map(Isolation::Community),
        ];
        let rules = prop::collection::vec(rule(), 0..5);
        let verdict = prop_oneof![Just(Verdict::Permit), Just(Verdict::Deny)];
        let others = (
            prop::option::of(any::<u32>()),
            prop::collection::vec(any::<u32>(), 0..4),
            prop::collection::vec(2u8..16, 0..4),
            any::<bool>(),
        );
        let parts = (
            source,
            vlan,
            limit(),
            limit(),
            rules,
            verdict,
            isolation,
            others,
        );
        parts.prop_map(
            |(source, vlan, ingress, egress, rules, default, isolation, others)| PortPolicy {
                source,
                vlan,
                ingress,
                egress,
                acl: AclSpec { rules, default },
                isolation,
                mirror: others.0,
                blocked: others.1,
                reserved: others.2.iter().map(reserved).collect(),
                bridging: others.3,
            },
        )
    }

    proptest! {
        #[test]
        fn any_policy_is_read_as_it_is_shown(policies in prop::collection::vec(policies(), 1..4)) {
            let info = |(port, policy): (u32, &PortPolicy)| PolicyInfo {
                port,
                policy: policy.clone(),
                acl_hits: vec![0; policy.acl.rules.len()],
            };
            let report: Vec<PolicyInfo> = (0..).zip(&policies).map(info).collect();
            // As `show --json` prints it.
            let shown = format!("{:#}\n", serde_json::json!(report));
            for (port, policy) in (0..).zip(&policies) {
                let read = FileFormat::Json.policy(&shown, port).unwrap();
                prop_assert_eq!(&read, policy);
                let toml = toml::to_string(policy).unwrap();
                let read = FileFormat::Toml.policy(&toml, port).unwrap();
                prop_assert_eq!(&read, policy);
                // With its rules as text.
                let rules = policy.acl.rules.iter();
                let texts: Vec<String> = rules.map(ToString::to_string).collect();
                let mut value = serde_json::json!(policy);
                value["acl"]["rules"] = serde_json::json!(texts);
                let read = FileFormat::Json.policy(&value.to_string(), port).unwrap();
                prop_assert_eq!(&read, policy);
            }
        }
    }

    #[test]
    fn files_that_hold_no_policy_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let error = |name: &str, text: Option<&str>| {
            let path = directory.path().join(name);
            if let Some(text) = text {
                fs::write(&path, text).unwrap();
            }
            format!("{:#}", read(&path, 1).unwrap_err())
        };
        for (name, text, part) in [
            ("absent", None, "does not exist"),
            ("a.toml", Some("colour = \"red\""), "colour"),
            (
                "b.toml",
                Some("acl = { rules = [\"permit in tree\"] }"),
                "'tree' is not",
            ),
            (
                "c.toml",
                Some("vlan = { trunk = { members = [\"9-3\"] } }"),
                "'9-3' is no VLAN",
            ),
            ("d.json", Some("[{}]"), "port"),
            ("e.json", Some("{\"policy\": 7}"), "line 1"),
        ] {
            let said = error(name, text);
            assert!(said.contains(part), "{said}");
        }
        let said = format!("{:#}", read(Path::new("/dev/zero"), 1).unwrap_err());
        assert_eq!(said, "policy /dev/zero: is a device: give a regular file");
    }

    #[test]
    fn the_help_shows_a_file_that_can_be_read() {
        let (_, file) = HELP.split_once("without a policy:\n").unwrap();
        let policy = FileFormat::Toml.policy(file, 0).unwrap();
        let trunk = VlanSpec::Trunk {
            pvid: Some(5),
            members: [10].into_iter().chain(20..=29).collect(),
            untagged: Vec::new(),
        };
        assert_eq!(policy.vlan, Some(trunk));
        assert_eq!(policy.acl.rules.len(), 2);
        assert!(HELP.contains(&format!("of {MAX_RULES} at most")));
    }
}
