//! What is counted of all that runs, as JSON has it.
#![deny(unsafe_code)]

use std::path::{Path, PathBuf};

use postern_nic_client::counters::NicCounters;
use postern_nic_client::request;
use postern_vmm::control::{self, VmReport};
use serde::Serialize;

use crate::run_dir::{Entry, VmInfo};

/// What is counted of all that runs.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Each topology, and each VM with a name of its own.
    pub topologies: Vec<TopologyReport>,
}

/// What is counted of a topology.
#[derive(Debug, Serialize)]
pub struct TopologyReport {
    /// Its name.
    pub name: String,
    /// Its VMs, by name; nothing of those that do not answer.
    pub vms: Vec<(String, Option<VmReport>)>,
    /// Its NICs.
    pub nics: Vec<NicReport>,
}

/// What is counted of a NIC.
#[derive(Debug, Serialize)]
pub struct NicReport {
    /// Its name; `nic` where it has none.
    pub name: String,
    /// Where it listens.
    pub socket: PathBuf,
    /// Counters of its ports; nothing if it does not answer.
    pub counters: Option<NicCounters>,
}

impl Report {
    /// Asks the VMs and NICs of these.
    pub fn of<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Report {
        let topology = |entry: &Entry| TopologyReport {
            name: entry.name.clone(),
            vms: entry
                .info
                .vms
                .iter()
                .map(|vm| {
                    let report = control::report(&entry.control(&vm.name));
                    (vm.name.clone(), report.ok())
                })
                .collect(),
            nics: entry
                .info
                .nics
                .iter()
                .map(|nic| NicReport {
                    name: nic.name.clone().unwrap_or("nic".to_owned()),
                    socket: nic.socket.clone(),
                    counters: request::counters(&nic.socket).ok(),
                })
                .collect(),
        };
        Report {
            topologies: entries.into_iter().map(topology).collect(),
        }
    }

    /// Asks a VM, and the NIC for its port.
    pub fn of_vm(entry: &Entry, vm: &VmInfo) -> Report {
        let mut entry = entry.clone();
        entry.info.vms.retain(|other| other == vm);
        let own = vm.port.as_ref();
        let nics = &mut entry.info.nics;
        nics.retain(|nic| own.is_some_and(|(name, ..)| *name == nic.name));
        let mut report = Report::of([&entry]);
        let nics = report
            .topologies
            .iter_mut()
            .flat_map(|topology| &mut topology.nics);
        for counters in nics.filter_map(|nic| nic.counters.as_mut()) {
            let is_its = |port: u32| own.is_some_and(|(_, number, _)| *number == port);
            counters.ports.retain(|port| is_its(port.port));
        }
        report
    }

    /// A report of one NIC.
    pub fn of_nic(socket: &Path, counters: NicCounters) -> Report {
        Report {
            topologies: vec![TopologyReport {
                name: String::new(),
                vms: Vec::new(),
                nics: vec![NicReport {
                    name: socket.display().to_string(),
                    socket: socket.to_owned(),
                    counters: Some(counters),
                }],
            }],
        }
    }
}

/// The exits of a vCPU by reason: KVM's statistics whose names end in `_exits`.
pub fn exits_by_reason(
    vcpu: &serde_json::Map<String, serde_json::Value>,
) -> impl Iterator<Item = (&str, u64)> {
    vcpu.iter().filter_map(|(name, value)| {
        let reason = name.strip_suffix("_exits")?;
        Some((reason, value.as_u64()?))
    })
}

/// KVM's statistic of a vCPU that counts aborted calls in views; the patched KVM alone has it.
pub const VIEW_ABORTS: &str = "view_aborts";

/// One statistic of a vCPU.
pub fn count(vcpu: &serde_json::Map<String, serde_json::Value>, name: &str) -> u64 {
    vcpu.get(name)
        .and_then(serde_json::Value::as_u64)
        .unwrap_or(0)
}

/// A topology with a VM of two vCPUs, the first with KVM's statistic of aborts, and one that has ended.
#[cfg(test)]
pub fn sample() -> Report {
    use postern_nic_client::counters::{PortCounters, QueueCounters};
    use postern_vmm::bells::BellCounts;
    use serde_json::{Value, json};

    let vcpu = |counts: Value| match counts {
        Value::Object(counts) => counts,
        _ => serde_json::Map::new(),
    };
    let queue = |calls| QueueCounters {
        calls,
        ..QueueCounters::default()
    };
    let port = PortCounters {
        port: 3,
        attached: true,
        calls: 42,
        tx_frames: 5,
        rx_bytes: 9,
        rx_dropped: 4,
        rung_by_owner: 8,
        drops: [("too-short".to_owned(), 6)].into(),
        queues: vec![queue(40), queue(2)],
        ..PortCounters::default()
    };
    let counts = json!({"exits": 10, "io_exits": 7, "halt_exits": 1, "hypercalls": 2});
    let mut patched = vcpu(counts.clone());
    patched.insert(VIEW_ABORTS.to_owned(), 3.into());
    let vm = VmReport {
        pid: 1,
        uptime: 60,
        vm: serde_json::Map::new(),
        vcpus: vec![patched, vcpu(counts)],
        bells: Some(BellCounts {
            rings: 5,
            joined: 2,
            held: 1,
        }),
    };
    Report {
        topologies: vec![TopologyReport {
            name: "t".to_owned(),
            vms: vec![("a".to_owned(), Some(vm)), ("gone".to_owned(), None)],
            nics: vec![NicReport {
                name: "nic".to_owned(),
                socket: "/s".into(),
                counters: Some(NicCounters { ports: vec![port] }),
            }],
        }],
    }
}
