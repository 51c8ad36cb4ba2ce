//! Definition of a scenario as data, and the job that it is on a testbed.

use std::time::Duration;

use anyhow::{Context, Result};
use postern_abi::platform::CallPath;
use postern_abi::window::Geometry;
use postern_lab::job::Job;
use postern_lab::setup::Programs;
use postern_lab::source::Source;
use postern_vmm::cpuid::CpuModel;
use postern_vmm::event_counters::CounterSource;
use postern_vmm::size::Bytes;
use postern_vmm::topology::{NicConfig, PortConfig, Topology, VmConfig};
use serde::Serialize;

use crate::call_path;
use crate::report::RingSizes;
use crate::traffic::{Trace, pcap};

/// The guests' timers: 100 interrupts a second. The emulated machine runs 100 million instructions
/// a second, so that at this rate their share is rather larger than on hardware at the usual ones.
/// A guest that has nothing to do waits for its next tick, and gives up after 3000 of them.
const TIMER: &str = "timer=100 patience=3000";

/// Port of the VM that sends, or calls.
const SENDER: u32 = 0;
/// Port of the VM that receives.
const RECEIVER: u32 = 1;
/// Ports of the NIC.
const PORTS: u32 = 2;
/// Queues of each port.
const QUEUES: u32 = 1;

/// Time in which a scenario must be done, by the testbed's clock.
const TIMEOUT: Duration = Duration::from_secs(300);

/// Memory of a guest in MiB, without what it sends or receives.
const GUEST_MEMORY_MB: u64 = 32;

/// Name of the VM that sends frames, in messages and file names.
const SENDER_VM: &str = "sender";
/// Name of the VM that receives frames.
const RECEIVER_VM: &str = "receiver";
/// Name of the VM that makes empty calls.
const CALLER_VM: &str = "caller";

/// File of the receiver with the frames that it got, as pcap.
pub const RECEIVED: &str = "received.pcap";
/// File with the counters of the NIC's ports when all VMs have ended.
pub const NIC_COUNTERS: &str = "nic.json";

const SENT: &str = "sent.pcap";
const TOPOLOGY: &str = "topology.toml";
const POSTERN: &str = "postern";
const GUEST: &str = "guest";
const IMAGE: &str = "nic-image";

/// Script of a job. The consoles of the VMs are only shown when one of them fails.
const SCRIPT: &str = "./postern up topology.toml >up.log 2>&1 && exit\n\
                      status=$?; cat up.log; exit $status\n";

/// A scenario: which VMs and which NIC there are, what they do, and where its figures come from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scenario {
    /// Name of the scenario, for people.
    pub name: String,
    /// The VMs and the NIC, as `postern up` takes them.
    pub topology: Topology,
    /// Workload of the VMs.
    pub workload: Workload,
    /// Origin of the figures.
    pub metrics: Metrics,
}

/// Workload of the VMs of a scenario.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum Workload {
    /// Frames go from one VM to another.
    Traffic {
        /// Path on which requests reach the NIC.
        #[serde(serialize_with = "call_path::serialize")]
        path: CallPath,
        /// Index of the input whose frames are sent, all of them.
        input: usize,
        /// Frames a burst.
        batch: u32,
    },
    /// A VM makes empty calls.
    Calls {
        /// Path on which calls reach the service.
        #[serde(serialize_with = "call_path::serialize")]
        path: CallPath,
        /// Number of calls.
        calls: u64,
    },
}

/// Origin of a scenario's figures: which VMs' marks, and what they are divided by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "unit")]
pub enum Metrics {
    /// Costs a packet received: from the first mark of VM `sender` to the last one of VM
    /// `receiver`.
    PerPacket {
        /// VM whose port's drops count, too.
        sender: String,
        /// VM that writes what it receives to [`RECEIVED`].
        receiver: String,
    },
    /// Costs a call of VM `caller`, less those of the same loop without calls.
    PerCall {
        /// The only VM.
        caller: String,
    },
}

/// Setting that all scenarios of a measurement share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Sizes of the NIC's rings.
    pub rings: RingSizes,
    /// Counters that the VMMs read at marks.
    pub counters: CounterSource,
    /// Whether VMMs and the NIC's owner are confined.
    pub seccomp: bool,
}

impl Setting {
    /// A setting on a testbed whose figures come from `source`, in which all are confined.
    pub fn new(source: Source, rings: RingSizes) -> Setting {
        let counters = match source {
            Source::Emulated => CounterSource::Emulated,
            Source::Nested | Source::Hardware => CounterSource::Perf,
        };
        Setting {
            rings,
            counters,
            seccomp: true,
        }
    }

    fn nic(&self) -> Result<NicConfig> {
        let RingSizes {
            ring_bytes,
            lane_bytes,
        } = self.rings;
        let geometry = Geometry::new(PORTS, QUEUES, ring_bytes, lane_bytes);
        let geometry = geometry.with_context(|| {
            format!("no NIC has TX rings of {ring_bytes} and lanes of {lane_bytes} bytes")
        })?;
        Ok(NicConfig {
            image: Some(IMAGE.into()),
            no_learning: vec![SENDER],
            stats: Some(NIC_COUNTERS.into()),
            seccomp: self.seccomp,
            ..NicConfig::new(geometry)
        })
    }

    /// A VM that needs room for `data` bytes besides its own.
    fn vm(&self, name: &str, port: u32, path: CallPath, data: u64, cmdline: String) -> VmConfig {
        VmConfig {
            cmdline,
            memory: Bytes((GUEST_MEMORY_MB + data.div_ceil(1 << 20)) << 20),
            // The same processor on all paths, with views or without.
            cpu: Some(CpuModel::ViewCompatible),
            port: Some(PortConfig::new(port, path)),
            stats: Some(stats_file(name).into()),
            counters: self.counters,
            seccomp: self.seccomp,
            ..VmConfig::new(name, GUEST)
        }
    }
}

impl Scenario {
    /// The frames of `inputs[input]` go from one VM to another.
    ///
    /// # Errors
    ///
    /// Rings of sizes that no NIC has.
    pub fn traffic(
        setting: &Setting,
        path: CallPath,
        inputs: &[Trace],
        input: usize,
        batch: u32,
    ) -> Result<Scenario> {
        let trace = &inputs[input];
        let frames = trace.frames().len();
        let room = frames as u64 * (trace.longest() as u64 + pcap::RECORD_HEADER);
        let cmdline = format!("role=receive frames={frames} {TIMER}");
        let mut receiver = setting.vm(RECEIVER_VM, RECEIVER, path, room, cmdline);
        receiver.outbox = Some(RECEIVED.into());
        let sent = pcap::size(trace.frames());
        let cmdline = format!("role=send batch={batch} {TIMER}");
        let mut sender = setting.vm(SENDER_VM, SENDER, path, sent, cmdline);
        sender.initrd = Some(SENT.into());
        Ok(Scenario {
            name: format!(
                "{}: {frames} frames, {}, batch {batch}",
                path.name(),
                trace.name()
            ),
            topology: Topology {
                name: None,
                nics: vec![setting.nic()?],
                vms: vec![receiver, sender],
            },
            workload: Workload::Traffic { path, input, batch },
            metrics: Metrics::PerPacket {
                sender: SENDER_VM.to_owned(),
                receiver: RECEIVER_VM.to_owned(),
            },
        })
    }

    /// A VM makes empty calls.
    ///
    /// # Errors
    ///
    /// Rings of sizes that no NIC has.
    pub fn calls(setting: &Setting, path: CallPath, calls: u64) -> Result<Scenario> {
        // Without a timer in the guest all its instructions are those of the calls.
        let cmdline = format!("role=calls calls={calls} timer=0");
        let caller = setting.vm(CALLER_VM, SENDER, path, 0, cmdline);
        Ok(Scenario {
            name: format!("{}: {calls} empty calls", path.name()),
            topology: Topology {
                name: None,
                nics: vec![setting.nic()?],
                vms: vec![caller],
            },
            workload: Workload::Calls { path, calls },
            metrics: Metrics::PerCall {
                caller: CALLER_VM.to_owned(),
            },
        })
    }

    /// The job that the scenario is. It brings back all files that the topology names as results.
    ///
    /// # Errors
    ///
    /// A topology or a capture that cannot be written.
    pub fn job(&self, programs: &Programs, inputs: &[Trace]) -> Result<Job> {
        let topology = self.topology.to_toml()?;
        let mut job = Job::new(&self.name, SCRIPT)
            .timeout(TIMEOUT)
            .file(POSTERN, &programs.postern)
            .file(GUEST, &programs.bare_guest)
            .file(IMAGE, &programs.nic_image)
            .bytes(TOPOLOGY, topology.into_bytes());
        if let Workload::Traffic { input, .. } = self.workload {
            job = job.bytes(SENT, pcap::to_bytes(inputs[input].frames())?);
        }
        let nic = self.topology.nics.iter().map(|nic| &nic.stats);
        let vms = self.topology.vms.iter();
        let vms = vms.flat_map(|vm| [&vm.outbox, &vm.stats]);
        for file in nic.chain(vms).flatten() {
            job = job.fetch(&file.to_string_lossy());
        }
        Ok(job)
    }

    /// The port of a VM, by its name.
    pub fn port_of(&self, name: &str) -> Option<u32> {
        let vm = self.topology.vms.iter().find(|vm| vm.name == name)?;
        vm.port.as_ref().map(|port| port.number)
    }
}

/// Memory in MiB that the largest of these inputs needs: in the sender, the receiver, and twice in
/// files.
pub fn memory_mb(inputs: &[Trace]) -> u64 {
    let bytes = |input: &Trace| {
        let frames = input.frames().len() as u64;
        4 * frames * (input.longest() as u64 + pcap::RECORD_HEADER)
    };
    inputs.iter().map(bytes).max().unwrap_or(0) >> 20
}

/// File with the statistics of a VM.
pub fn stats_file(vm: &str) -> String {
    format!("{vm}.json")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use postern_lab::job::Content;

    use super::*;

    fn programs() -> Programs {
        let file = |name: &str| name.into();
        Programs {
            init: file("init"),
            postern: file("postern"),
            viewtest: file("viewtest"),
            exitcost: file("exitcost"),
            disktest: file("disktest"),
            nettest: file("nettest"),
            inject: file("inject"),
            bare_guest: file("bare_guest"),
            nic_image: file("nic-image"),
            locking_image: file("locking-image"),
            open_image: file("open-image"),
            careless_image: file("careless-image"),
            faulty_image: file("faulty-image"),
        }
    }

    #[test]
    fn jobs_are_shell_and_topologies_can_be_read() {
        let inputs = [Trace::synthetic(64, 3000)];
        let rings = RingSizes {
            ring_bytes: 1 << 20,
            lane_bytes: 4 << 20,
        };
        let setting = Setting::new(Source::Emulated, rings);
        for path in CallPath::ALL {
            let traffic = Scenario::traffic(&setting, path, &inputs, 0, 8).unwrap();
            let calls = Scenario::calls(&setting, path, 100).unwrap();
            for scenario in [traffic, calls] {
                let job = scenario.job(&programs(), &inputs).unwrap();
                let shell = Command::new("sh").args(["-n", "-c", &job.script]).output();
                let shell = shell.unwrap();
                assert!(shell.status.success(), "{shell:?}: {}", job.script);
                let Some(Content::Bytes(text)) = job.files.get(TOPOLOGY) else {
                    panic!("no topology");
                };
                let folder = tempfile::tempdir().unwrap();
                let file = folder.path().join(TOPOLOGY);
                std::fs::write(&file, text).unwrap();
                let read = Topology::read(&file).unwrap();
                assert_eq!(read.vms.len(), scenario.topology.vms.len());
                let text = String::from_utf8_lossy(text);
                assert!(text.contains(path.name()), "{text}");
                if let Workload::Traffic { .. } = scenario.workload {
                    for part in ["batch=8", "frames=3000"] {
                        assert!(text.contains(part), "no {part}: {text}");
                    }
                    assert_eq!(read.vms[0].memory, Bytes(37 << 20));
                    for file in [RECEIVED, NIC_COUNTERS, "sender.json", "receiver.json"] {
                        assert!(job.fetch.iter().any(|name| name == file), "{file}");
                    }
                }
            }
        }
    }

    #[test]
    fn rings_that_no_nic_has_are_told() {
        let rings = RingSizes {
            ring_bytes: 3,
            lane_bytes: 1 << 20,
        };
        let setting = Setting::new(Source::Emulated, rings);
        let error = Scenario::calls(&setting, CallPath::Elisa, 1).unwrap_err();
        assert!(error.to_string().contains("TX rings of 3"), "{error}");
    }
}
