//! `postern nic set`: a port's policy, from a file or setting by setting.
#![deny(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use clap::Args as ClapArgs;
use postern_nic_client::control::{Control, PolicyInfo};
use postern_nic_client::policy::port::{Isolation, PortPolicy};
use postern_nic_client::policy::rate::{MIN_BURST, RateLimit};
use postern_nic_client::policy::rule::shadow::first_shadowed;
use postern_nic_client::policy::vlan::VlanSpec;
use postern_switch::policy::acl::Verdict;
use postern_vmm::topology::hint;

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
    /// name ends in .json
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
const KEYS: [&str; 11] = [
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
  rule=RULE                   another rule of the access list, such as
                              'rule=deny in ipv4 tcp dport 22'
  rules=none                  no rules
  default=permit|deny         what happens to frames that match no rule
  mirror=PORT|off             the port that gets a copy of all that this one sends and receives
  isolation=promiscuous|isolated|community:N
  blocked=PORT,PORT...|none   further ports that its frames do not reach
  bridging=on|off             whether it takes part at all";

/// Changes it; returns the exit status.
pub fn run(args: Args) -> Result<u8, CommandError> {
    let mut policy = match (&args.policy, args.none) {
        (Some(file), _) => read(file).map_err(CommandError::configuration)?,
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

fn read(file: &Path) -> anyhow::Result<PortPolicy> {
    let text = fs::read_to_string(file);
    let text = text.with_context(|| format!("cannot read {}", file.display()))?;
    let policy = match file.extension().is_some_and(|ending| ending == "json") {
        true => serde_json::from_str(&text).map_err(anyhow::Error::from),
        false => toml::from_str(&text).map_err(anyhow::Error::from),
    };
    policy.with_context(|| format!("{} holds no policy", file.display()))
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
        let (first, last): (u16, u16) = match part.split_once('-') {
            Some((first, last)) => (number(first, "VLAN")?, number(last, "VLAN")?),
            None => {
                let only = number(part, "VLAN")?;
                (only, only)
            }
        };
        if first > last {
            bail!("the range {part} ends before it begins");
        }
        members.extend(first..=last);
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
            "bridging=off",
        ] {
            change(&mut policy, setting).unwrap();
        }
        let ingress = policy.ingress.unwrap();
        assert_eq!(ingress.bits_per_second, 100_000_000);
        assert_eq!(ingress.burst_bytes, 65_536);
        assert_eq!(policy.acl.rules.len(), 1);
        assert_eq!(policy.blocked, [1, 2]);
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
        fs::write(&json, serde_json::to_string(&policy).unwrap()).unwrap();
        fs::write(&toml, toml::to_string(&policy).unwrap()).unwrap();
        assert_eq!(read(&json).unwrap(), policy);
        assert_eq!(read(&toml).unwrap(), policy);
        assert!(read(&directory.path().join("absent")).is_err());
    }
}
