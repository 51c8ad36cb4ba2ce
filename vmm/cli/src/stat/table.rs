//! Counters for people.
#![deny(unsafe_code)]

use postern_nic_client::counters::PortCounters;

use super::report::{Report, VIEW_ABORTS, count, exits_by_reason};
use crate::ps::{aligned, duration};

/// The tables; with an earlier report, and the seconds since, what happened each second.
pub fn table(report: &Report, earlier: Option<(&Report, f64)>) -> String {
    if report.topologies.is_empty() {
        return "nothing runs (postern up and postern run --name are seen here)\n".to_owned();
    }
    let vms = vms(report, earlier);
    let ports = ports(report, earlier);
    match ports.len() {
        1 => aligned(&vms),
        _ => format!("{}\n{}", aligned(&vms), aligned(&ports)),
    }
}

/// A count, or how often it happened each second.
fn shown(now: u64, before: Option<(u64, f64)>) -> String {
    match before {
        None => now.to_string(),
        // Counters of a port begin anew with each tenant.
        Some((before, seconds)) => {
            format!(
                "{:.0}/s",
                now.saturating_sub(before) as f64 / seconds.max(0.001)
            )
        }
    }
}

/// Most reasons that are shown.
const REASONS: usize = 4;

fn vms(report: &Report, earlier: Option<(&Report, f64)>) -> Vec<[String; 7]> {
    let header = [
        "TOPOLOGY",
        "VM",
        "VCPU",
        "UPTIME",
        "ABORTS",
        "EXITS",
        "BY REASON",
    ];
    let mut rows = vec![header.map(str::to_owned)];
    for topology in &report.topologies {
        for (name, vm) in &topology.vms {
            let Some(vm) = vm else {
                let cells = [topology.name.as_str(), name, "-", "-", "-", "-", "ended"];
                rows.push(cells.map(str::to_owned));
                continue;
            };
            for (number, vcpu) in vm.vcpus.iter().enumerate() {
                let before = earlier.and_then(|(report, seconds)| {
                    let topologies = report.topologies.iter();
                    let mut vms = topologies
                        .filter(|other| other.name == topology.name)
                        .flat_map(|other| &other.vms);
                    let (_, vm) = vms.find(|(other, _)| other == name)?;
                    Some((vm.as_ref()?.vcpus.get(number)?, seconds))
                });
                let value = |key: &str| {
                    let before = before.map(|(vcpu, seconds)| (count(vcpu, key), seconds));
                    shown(count(vcpu, key), before)
                };
                let mut reasons: Vec<(&str, u64)> = exits_by_reason(vcpu)
                    .filter(|(_, number)| *number > 0)
                    .collect();
                reasons.sort_by_key(|(_, number)| std::cmp::Reverse(*number));
                let reasons: Vec<String> = reasons
                    .iter()
                    .take(REASONS)
                    .map(|(reason, _)| format!("{reason} {}", value(&format!("{reason}_exits"))))
                    .collect();
                rows.push([
                    topology.name.clone(),
                    name.clone(),
                    number.to_string(),
                    duration(vm.uptime),
                    // Only the patched KVM counts them.
                    match vcpu.contains_key(VIEW_ABORTS) {
                        true => value(VIEW_ABORTS),
                        false => "-".to_owned(),
                    },
                    value("exits"),
                    reasons.join(", "),
                ]);
            }
        }
    }
    rows
}

fn ports(report: &Report, earlier: Option<(&Report, f64)>) -> Vec<[String; 9]> {
    let header = [
        "TOPOLOGY",
        "NIC",
        "PORT",
        "CALLS",
        "TX FRAMES",
        "TX BYTES",
        "RX FRAMES",
        "RX BYTES",
        "DROPS",
    ];
    let mut rows = vec![header.map(str::to_owned)];
    for topology in &report.topologies {
        for nic in &topology.nics {
            let counters = nic.counters.iter().flat_map(|counters| &counters.ports);
            for port in counters.filter(|port| port.attached || port.tx_frames + port.rx_frames > 0)
            {
                let before = earlier.and_then(|(report, seconds)| {
                    let mut nics = report
                        .topologies
                        .iter()
                        .filter(|other| other.name == topology.name)
                        .flat_map(|other| &other.nics);
                    let nic = nics.find(|other| other.socket == nic.socket)?;
                    let mut ports = nic.counters.as_ref()?.ports.iter();
                    Some((ports.find(|other| other.port == port.port)?, seconds))
                });
                let rate = |now: u64, before: Option<u64>| {
                    shown(now, before.zip(earlier.map(|(_, seconds)| seconds)))
                };
                let mut drops: Vec<String> = port
                    .drops
                    .iter()
                    .filter(|(_, number)| **number > 0)
                    .map(|(cause, number)| format!("{cause} {number}"))
                    .collect();
                if port.rx_dropped > 0 {
                    drops.push(format!("no-room {}", port.rx_dropped));
                }
                let before = before.map(|(port, _)| port);
                // Of each vCPU, where the port has several.
                let calls = |port: &PortCounters, before: Option<&PortCounters>| {
                    let each = port.queues.iter().enumerate().map(|(seat, queue)| {
                        let before = before.and_then(|port| port.queues.get(seat));
                        rate(queue.calls, before.map(|queue| queue.calls))
                    });
                    each.collect::<Vec<_>>().join(", ")
                };
                rows.push([
                    topology.name.clone(),
                    nic.name.clone(),
                    port.port.to_string(),
                    calls(port, before),
                    rate(port.tx_frames, before.map(|port| port.tx_frames)),
                    rate(port.tx_bytes, before.map(|port| port.tx_bytes)),
                    rate(port.rx_frames, before.map(|port| port.rx_frames)),
                    rate(port.rx_bytes, before.map(|port| port.rx_bytes)),
                    if drops.is_empty() {
                        "-".to_owned()
                    } else {
                        drops.join(", ")
                    },
                ]);
            }
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aborts_and_calls_have_columns() {
        let text = table(&super::super::report::sample(), None);
        // The columns of the line that begins with these.
        let columns = |beginning: &[&str]| -> Vec<String> {
            let lines = text.lines().map(|line| line.replace(", ", ","));
            let words = |line: String| line.split_whitespace().map(str::to_owned).collect();
            let mut each = lines.map(words);
            let begins = |words: &Vec<String>| {
                words
                    .get(..beginning.len())
                    .is_some_and(|first| first == beginning)
            };
            let found = each.find(begins);
            found.unwrap_or_default()
        };
        // The first vCPU is of the patched KVM.
        assert_eq!(columns(&["t", "a", "0"])[4..6], ["3", "10"], "{text}");
        assert_eq!(columns(&["t", "a", "1"])[4..6], ["-", "10"], "{text}");
        assert_eq!(columns(&["t", "nic", "3"])[3], "40,2", "{text}");
    }

    #[test]
    fn counts_and_rates() {
        assert_eq!(shown(7, None), "7");
        assert_eq!(shown(70, Some((20, 0.5))), "100/s");
        assert_eq!(shown(1, Some((20, 0.5))), "0/s", "a new tenant");
    }
}
