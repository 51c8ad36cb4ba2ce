//! Counters in Prometheus's text format ("Exposition formats", "Text-based format", version 0.0.4).
#![deny(unsafe_code)]

use std::fmt::Write;

use super::report::{Report, VIEW_ABORTS, count, exits_by_reason};

/// The samples of one metric.
struct Metric {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    samples: Vec<(Vec<(&'static str, String)>, u64)>,
}

impl Metric {
    /// A metric that only grows; its name ends in `_total`.
    fn counter(name: &'static str, help: &'static str) -> Metric {
        Metric::new(name, "counter", help)
    }

    fn gauge(name: &'static str, help: &'static str) -> Metric {
        Metric::new(name, "gauge", help)
    }

    fn new(name: &'static str, kind: &'static str, help: &'static str) -> Metric {
        Metric {
            name,
            kind,
            help,
            samples: Vec::new(),
        }
    }

    fn add(&mut self, labels: &[(&'static str, &str)], value: u64) {
        let labels = labels
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()));
        self.samples.push((labels.collect(), value));
    }

    fn write(&self, text: &mut String) {
        if self.samples.is_empty() {
            return;
        }
        // Writing to a string does not fail.
        let _ = writeln!(text, "# HELP {} {}", self.name, self.help);
        let _ = writeln!(text, "# TYPE {} {}", self.name, self.kind);
        for (labels, value) in &self.samples {
            let labels: Vec<String> = labels
                .iter()
                .map(|(name, value)| format!("{name}=\"{}\"", escape(value)))
                .collect();
            let _ = writeln!(text, "{}{{{}}} {value}", self.name, labels.join(","));
        }
    }
}

/// A label's value: backslash, quotation mark and line feed are escaped.
fn escape(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
    }
    text
}

/// The whole text.
pub fn text(report: &Report) -> String {
    let mut text = String::new();
    for metric in vms(report).iter().chain(&ports(report)) {
        metric.write(&mut text);
    }
    text
}

fn vms(report: &Report) -> [Metric; 6] {
    let mut uptime = Metric::gauge(
        "postern_vm_uptime_seconds",
        "Time since the VM was started.",
    );
    let mut exits = Metric::counter(
        "postern_vcpu_exits_total",
        "VM exits of the vCPU, of any reason.",
    );
    let mut reasons = Metric::counter(
        "postern_vcpu_exits_by_reason_total",
        "VM exits of the vCPU, as far as KVM counts them by reason; one may be of several.",
    );
    let mut aborts = Metric::counter(
        "postern_vcpu_view_aborts_total",
        "Calls in views of the vCPU that KVM has aborted.",
    );
    let mut hypercalls = Metric::counter("postern_vcpu_hypercalls_total", "VMCALLs of the vCPU.");
    let mut bells = Metric::counter(
        "postern_vm_bells_total",
        "Interrupts of the VM for bells (rings), rings that were one with another (joined), and \
         times that rings waited because there were too many (held).",
    );
    for topology in &report.topologies {
        for (vm, found) in &topology.vms {
            let Some(found) = found else { continue };
            let labels = [("topology", topology.name.as_str()), ("vm", vm)];
            uptime.add(&labels, found.uptime);
            if let Some(counts) = &found.bells {
                let kinds = [
                    ("rings", counts.rings),
                    ("joined", counts.joined),
                    ("held", counts.held),
                ];
                for (kind, count) in kinds {
                    bells.add(&[labels[0], labels[1], ("kind", kind)], count);
                }
            }
            for (number, vcpu) in found.vcpus.iter().enumerate() {
                let number = number.to_string();
                let [topology, vm] = labels;
                let labels = [topology, vm, ("vcpu", &number)];
                exits.add(&labels, count(vcpu, "exits"));
                hypercalls.add(&labels, count(vcpu, "hypercalls"));
                // Only the patched KVM counts them.
                if vcpu.contains_key(VIEW_ABORTS) {
                    aborts.add(&labels, count(vcpu, VIEW_ABORTS));
                }
                for (reason, exits) in exits_by_reason(vcpu) {
                    let [topology, vm, vcpu] = labels;
                    reasons.add(&[topology, vm, vcpu, ("reason", reason)], exits);
                }
            }
        }
    }
    [uptime, exits, reasons, hypercalls, aborts, bells]
}

fn ports(report: &Report) -> [Metric; 8] {
    let mut attached = Metric::gauge("postern_port_attached", "1 if the port has a tenant.");
    let mut stations = Metric::gauge(
        "postern_port_stations",
        "Stations known to be behind the port.",
    );
    let mut calls = Metric::counter(
        "postern_port_calls_total",
        "Calls to send that the tenant's vCPU of this number (seat) began.",
    );
    let mut frames = Metric::counter(
        "postern_port_frames_total",
        "Frames that the port's tenant sent (tx) and that were put into its lanes (rx).",
    );
    let mut bytes = Metric::counter("postern_port_bytes_total", "Bytes of these frames.");
    let mut dropped = Metric::counter(
        "postern_port_dropped_frames_total",
        "Frames from the port that were not delivered, by cause; rx-no-room are those to it.",
    );
    let mut refused = Metric::counter(
        "postern_port_refused_requests_total",
        "Requests of the port without the secret of its tenancy.",
    );
    let mut rung = Metric::counter(
        "postern_port_rung_by_owner_total",
        "Bells that the NIC's owner rang, since the port's guest slept and no sender had woken it.",
    );
    for topology in &report.topologies {
        for nic in &topology.nics {
            for port in nic.counters.iter().flat_map(|counters| &counters.ports) {
                let number = port.port.to_string();
                let labels = [
                    ("topology", topology.name.as_str()),
                    ("nic", nic.name.as_str()),
                    ("port", number.as_str()),
                ];
                let with = |name: &'static str, value: &str| {
                    let more = [labels[0], labels[1], labels[2], (name, value)];
                    more.map(|(name, value)| (name, value.to_owned()))
                };
                attached.add(&labels, port.attached.into());
                stations.add(&labels, port.stations);
                refused.add(&labels, port.refused);
                rung.add(&labels, port.rung_by_owner);
                for (seat, queue) in port.queues.iter().enumerate() {
                    let labels = with("seat", &seat.to_string()).to_vec();
                    calls.samples.push((labels, queue.calls));
                }
                let directions = [
                    ("tx", port.tx_frames, port.tx_bytes),
                    ("rx", port.rx_frames, port.rx_bytes),
                ];
                for (direction, count, size) in directions {
                    let labels = with("direction", direction).to_vec();
                    frames.samples.push((labels.clone(), count));
                    bytes.samples.push((labels, size));
                }
                for (cause, count) in &port.drops {
                    dropped
                        .samples
                        .push((with("cause", cause).to_vec(), *count));
                }
                let labels = with("cause", "rx-no-room").to_vec();
                dropped.samples.push((labels, port.rx_dropped));
            }
        }
    }
    [
        attached, stations, calls, frames, bytes, dropped, refused, rung,
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use std::collections::{BTreeMap, BTreeSet};

    use super::super::report;
    use super::*;

    fn report() -> Report {
        let mut report = report::sample();
        report.topologies[0].name = "odd \"name\\\n".to_owned();
        report
    }

    /// A line of a sample: name, labels, value.
    fn sample(line: &str) -> (String, BTreeMap<String, String>, f64) {
        let (name, rest) = line.split_once('{').unwrap();
        let (labels, value) = rest.rsplit_once("} ").unwrap();
        let mut found = BTreeMap::new();
        let mut rest = labels;
        while !rest.is_empty() {
            let (label, quoted) = rest.split_once("=\"").unwrap();
            let mut value = String::new();
            let mut chars = quoted.char_indices();
            let end = loop {
                match chars.next().unwrap() {
                    (at, '"') => break at,
                    (_, '\\') => match chars.next().unwrap().1 {
                        'n' => value.push('\n'),
                        c @ ('\\' | '"') => value.push(c),
                        c => panic!("\\{c} is no escape"),
                    },
                    (_, c) => value.push(c),
                }
            };
            assert!(
                found.insert(label.to_owned(), value).is_none(),
                "{label} twice"
            );
            rest = quoted[end + 1..].trim_start_matches(',');
        }
        (name.to_owned(), found, value.parse().unwrap())
    }

    #[test]
    fn the_text_keeps_the_rules_of_the_format() {
        let text = text(&report());
        assert!(text.ends_with('\n'));
        let mut metric = None;
        let mut kinds = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, words) = help.split_once(' ').unwrap();
                assert!(!words.is_empty() && !kinds.contains_key(name), "{line}");
                metric = Some(name.to_owned());
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                // After the help, before the samples, which stand together.
                assert_eq!(metric.as_deref(), Some(name));
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                kinds.insert(name.to_owned(), kind.to_owned());
            } else {
                let (name, labels, value) = sample(line);
                assert_eq!(metric.as_ref(), Some(&name), "{line}");
                assert!(kinds.contains_key(&name), "{line}");
                let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
                assert!(name.chars().all(is_name), "{line}");
                assert!(
                    labels.keys().all(|label| label.chars().all(is_name)),
                    "{line}"
                );
                assert!(value >= 0.0 && seen.insert((name, labels)), "{line} twice");
            }
        }
        assert_eq!(kinds.len(), 14);
        let find = |wanted: &str, label: (&str, &str)| {
            let mut lines = text
                .lines()
                .filter(|line| !line.starts_with('#'))
                .map(sample);
            let found = lines.find(|(name, labels, _)| {
                name == wanted && labels.get(label.0).map(String::as_str) == Some(label.1)
            });
            found.map(|(_, labels, value)| {
                assert_eq!(labels["topology"], "odd \"name\\\n");
                value
            })
        };
        assert_eq!(find("postern_vcpu_exits_total", ("vcpu", "1")), Some(10.0));
        assert_eq!(
            find("postern_vcpu_exits_by_reason_total", ("reason", "io")),
            Some(7.0)
        );
        assert_eq!(
            find("postern_port_frames_total", ("direction", "tx")),
            Some(5.0)
        );
        assert_eq!(
            find("postern_port_bytes_total", ("direction", "rx")),
            Some(9.0)
        );
        assert_eq!(
            find("postern_port_dropped_frames_total", ("cause", "too-short")),
            Some(6.0)
        );
        assert_eq!(
            find("postern_port_dropped_frames_total", ("cause", "rx-no-room")),
            Some(4.0)
        );
        assert_eq!(find("postern_vm_uptime_seconds", ("vm", "gone")), None);
        assert_eq!(find("postern_port_calls_total", ("seat", "0")), Some(40.0));
        assert_eq!(find("postern_port_calls_total", ("seat", "1")), Some(2.0));
        let rung = find("postern_port_rung_by_owner_total", ("port", "3"));
        assert_eq!(rung, Some(8.0));
        assert_eq!(find("postern_vm_bells_total", ("kind", "held")), Some(1.0));
        let aborts = |vcpu| find("postern_vcpu_view_aborts_total", ("vcpu", vcpu));
        assert_eq!(aborts("0"), Some(3.0));
        assert_eq!(aborts("1"), None, "this KVM does not count them");
    }
}
