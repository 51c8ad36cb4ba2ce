//! What is counted of all that runs, as JSON has it.
#![deny(unsafe_code)]

use std::path::{Path, PathBuf};

use postern_nic_client::counters::NicCounters;
use postern_nic_client::request;
use postern_vmm::control::{self, VmReport};
use serde::Serialize;

use crate::run_dir::Entry;

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

/// One statistic of a vCPU.
pub fn count(vcpu: &serde_json::Map<String, serde_json::Value>, name: &str) -> u64 {
    vcpu.get(name)
        .and_then(serde_json::Value::as_u64)
        .unwrap_or(0)
}
