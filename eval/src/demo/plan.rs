//! Which runs there are, and how each becomes a job.

use std::time::Duration;

use anyhow::Result;
use postern_abi::platform::CallPath;
use postern_abi::window::record_size;

use super::options::{DEFAULT_FRAMES, MAX_BATCH};
use crate::job::Job;
use crate::report::Rings;
use crate::setup::Programs;
use crate::traffic::{MAX_LEN, Trace, pcap};

/// Size of the frames of the input that is not captured, in bytes without the frame check sequence.
pub const SMALL: usize = 64;

/// Empty calls on the paths that do not exit.
const CALLS: u64 = 100_000;

/// Empty calls on the paths that exit: each takes the emulated machine up to a hundred times as long.
const CALLS_WITH_EXITS: u64 = 10_000;

/// The guests' timers: 100 interrupts a second. The emulated machine runs 100 million instructions a
/// second, so that at this rate their share is rather larger than on hardware at the usual ones. A
/// guest that has nothing to do waits for its next tick, and gives up after 3000 of them.
const TIMER: &str = "timer=100 patience=3000";

/// Sizes of the demo's rings: a TX ring takes the largest burst, and a lane all frames unless the user asks for more
/// than the default, so that what is seen is what requests and frames cost, not how two VMs on one
/// CPU wait for each other.
pub const RINGS: Rings = Rings {
    ring_bytes: 1 << 20,
    lane_bytes: 4 << 20,
};

const _: () = {
    let record = record_size(MAX_LEN as u32);
    assert!(RINGS.ring_bytes as u64 >= MAX_BATCH as u64 * record);
    assert!(RINGS.lane_bytes as u64 >= DEFAULT_FRAMES as u64 * record);
};

/// Port of the VM that sends, or calls.
pub const SENDER: u32 = 0;
/// Port of the VM that receives.
const RECEIVER: u32 = 1;

/// Time in which a run must be done, by the clock of the place.
const TIMEOUT: Duration = Duration::from_secs(300);

/// One run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Run {
    /// Frames from one VM to another.
    Traffic {
        /// How requests reach the NIC.
        path: CallPath,
        /// Frames to send, all of them.
        input: usize,
        /// Frames a burst.
        batch: u32,
    },
    /// Empty calls.
    Calls {
        /// How calls reach the service.
        path: CallPath,
        /// How many.
        calls: u64,
    },
}

/// All runs: on each path the calls, then each input with each batch.
pub fn runs(inputs: usize, batches: &[u32]) -> Vec<Run> {
    let mut runs = Vec::new();
    for path in CallPath::ALL {
        let calls = match path {
            CallPath::ExitKernel | CallPath::ExitUser => CALLS_WITH_EXITS,
            CallPath::Elisa | CallPath::ElisaStrict | CallPath::Direct => CALLS,
        };
        runs.push(Run::Calls { path, calls });
        for input in 0..inputs {
            for &batch in batches {
                runs.push(Run::Traffic { path, input, batch });
            }
        }
    }
    runs
}

/// What the runs of one demo have in common.
pub struct Plan<'a> {
    /// Inputs, each with all frames that are to be sent.
    pub inputs: &'a [Trace],
    /// Which counters the VMMs read at marks.
    pub counters: &'static str,
    /// Sizes of the NIC's rings.
    pub rings: Rings,
    /// What runs.
    pub programs: &'a Programs,
}

impl Plan<'_> {
    /// The name of a run for people.
    pub fn name(&self, run: &Run) -> String {
        match run {
            Run::Traffic { path, input, batch } => {
                let input = &self.inputs[*input];
                let (name, frames) = (input.name(), input.frames().len());
                format!("{}: {frames} frames, {name}, batch {batch}", path.name())
            }
            Run::Calls { path, calls } => format!("{}: {calls} empty calls", path.name()),
        }
    }

    /// The job that a run is.
    ///
    /// # Errors
    /// A capture that cannot be written to memory; none can be too long here.
    pub fn job(&self, run: &Run) -> Result<Job> {
        let name = self.name(run);
        let mut job = Job::new(&name, &format!("echo '{ANNOUNCEMENT}{name}'\n{SCRIPT}"))
            .timeout(TIMEOUT)
            .file(POSTERN, &self.programs.postern)
            .file(GUEST, &self.programs.testguest)
            .file(IMAGE, &self.programs.nic_image)
            .fetch(NIC_COUNTERS);
        let mut topology = self.nic();
        match run {
            Run::Traffic { path, input, batch } => {
                let frames = self.inputs[*input].frames();
                let count = frames.len();
                let sent = pcap::to_bytes(frames)?;
                let received = count as u64 * (MAX_LEN as u64 + PCAP_RECORD);
                topology += &self.vm(RECEIVER_VM, RECEIVER, *path, received);
                topology += &format!("cmdline = 'role=receive frames={count} {TIMER}'\n");
                topology += &format!("outbox = '{RECEIVED}'\n");
                topology += &self.vm(SENDER_VM, SENDER, *path, sent.len() as u64);
                topology += &format!("cmdline = 'role=send batch={batch} {TIMER}'\n");
                topology += &format!("initrd = '{SENT}'\n");
                job = job.bytes(SENT, sent).fetch(RECEIVED);
                for vm in [SENDER_VM, RECEIVER_VM] {
                    job = job.fetch(&stats_file(vm));
                }
            }
            Run::Calls { path, calls } => {
                topology += &self.vm(CALLER_VM, SENDER, *path, 0);
                // Without a timer in the guest all its instructions are those of the calls.
                topology += &format!("cmdline = 'role=calls calls={calls} timer=0'\n");
                job = job.fetch(&stats_file(CALLER_VM));
            }
        }
        Ok(job.bytes(TOPOLOGY, topology.into_bytes()))
    }

    /// The NIC of the topology.
    fn nic(&self) -> String {
        format!(
            "[nic]\nports = 2\nring = '{}'\nlane = '{}'\nimage = '{IMAGE}'\n\
             no_learning = [{SENDER}]\nstats = '{NIC_COUNTERS}'\n",
            self.rings.ring_bytes, self.rings.lane_bytes
        )
    }

    /// A VM of the topology that needs room for `data` bytes besides its own.
    fn vm(&self, name: &str, port: u32, path: CallPath, data: u64) -> String {
        format!(
            "[[vm]]\nname = '{name}'\nkernel = '{GUEST}'\nmemory = '{}M'\nport = {port}\n\
             path = '{}'\nstats = '{}'\ncounters = '{}'\n",
            GUEST_MEMORY_MB + data.div_ceil(1 << 20),
            path.name(),
            stats_file(name),
            self.counters
        )
    }

    /// Memory that the largest run needs for its frames, in MiB: in the sender, the receiver, and twice in
    /// files.
    pub fn memory_mb(&self) -> u64 {
        let bytes = |input: &Trace| {
            let frames = input.frames().len() as u64;
            4 * frames * (MAX_LEN as u64 + PCAP_RECORD)
        };
        self.inputs.iter().map(bytes).max().unwrap_or(0) >> 20
    }
}

/// Bytes of a record's header in a pcap file.
const PCAP_RECORD: u64 = 16;

/// Memory of a guest, without what it sends or receives.
const GUEST_MEMORY_MB: u64 = 32;

/// Names of the VMs in file names and messages.
pub const SENDER_VM: &str = "sender";
/// See [`SENDER_VM`].
pub const RECEIVER_VM: &str = "receiver";
/// See [`SENDER_VM`].
pub const CALLER_VM: &str = "caller";

/// What the receiver got.
pub const RECEIVED: &str = "received.pcap";
/// Counters of the NIC's ports when both VMs have ended.
pub const NIC_COUNTERS: &str = "nic.json";

const SENT: &str = "sent.pcap";
const TOPOLOGY: &str = "topology.toml";
const POSTERN: &str = "postern";
const GUEST: &str = "testguest";
const IMAGE: &str = "nic-image";

/// Where the statistics of a VM are.
pub fn stats_file(vm: &str) -> String {
    format!("{vm}.json")
}

/// What a job prints first; the run's name follows.
pub const ANNOUNCEMENT: &str = "postern-demo: ";

/// What a job does. The consoles of the VMs are only shown when one of them fails.
const SCRIPT: &str = "./postern up topology.toml >up.log 2>&1 && exit\n\
                      status=$?; cat up.log; exit $status\n";

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::job::Content;

    fn programs() -> Programs {
        let file = |name: &str| name.into();
        Programs {
            init: file("init"),
            postern: file("postern"),
            viewtest: file("viewtest"),
            testguest: file("testguest"),
            nic_image: file("nic-image"),
            locking_image: file("locking-image"),
        }
    }

    #[test]
    fn every_path_input_and_batch_has_one_run() {
        let runs = runs(2, &[1, 32]);
        assert_eq!(runs.len(), CallPath::ALL.len() * (1 + 2 * 2));
        for (n, run) in runs.iter().enumerate() {
            assert!(!runs[..n].contains(run), "{run:?} twice");
        }
    }

    #[test]
    fn scripts_are_shell() {
        let inputs = [Trace::synthetic(64, 3000)];
        let programs = programs();
        let plan = Plan {
            inputs: &inputs,
            counters: "none",
            rings: RINGS,
            programs: &programs,
        };
        for run in runs(1, &[8]) {
            let job = plan.job(&run).unwrap();
            let shell = Command::new("sh").args(["-n", "-c", &job.script]).output();
            let shell = shell.unwrap();
            assert!(shell.status.success(), "{shell:?}: {}", job.script);
            if let Run::Traffic { path, .. } = run {
                let Some(Content::Bytes(topology)) = job.files.get(TOPOLOGY) else {
                    panic!("no topology");
                };
                let topology = String::from_utf8_lossy(topology);
                for part in ["batch=8", "frames=3000", "memory = '37M'", path.name()] {
                    assert!(topology.contains(part), "no {part}: {topology}");
                }
            }
        }
    }
}
