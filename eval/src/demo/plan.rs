//! Which runs there are, and how each becomes a job.

use std::time::Duration;

use anyhow::Result;
use postern_abi::machine::Path;

use crate::job::Job;
use crate::setup::Programs;
use crate::traffic::{MAX_LEN, Trace, pcap};

/// Size of the frames of the input that is not captured, in bytes without the frame check sequence.
pub const SMALL: usize = 64;

/// Empty calls on the paths that do not exit.
const CALLS: u64 = 100_000;

/// Empty calls on the paths that exit: each takes the emulated machine up to a hundred times as long.
const CALLS_WITH_EXITS: u64 = 10_000;

/// Slots of each ring.
const SLOTS: u32 = 1024;

/// Port of the VM that sends, or calls.
const SENDER: u32 = 0;
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
        path: Path,
        /// Frames to send, all of them.
        input: usize,
        /// Frames a burst.
        batch: u32,
    },
    /// Empty calls.
    Calls {
        /// How calls reach the service.
        path: Path,
        /// How many.
        calls: u64,
    },
}

/// All runs: on each path the calls, then each input with each batch.
pub fn runs(inputs: usize, batches: &[u32]) -> Vec<Run> {
    let mut runs = Vec::new();
    for path in Path::ALL {
        let calls = match path {
            Path::ExitKernel | Path::ExitUser => CALLS_WITH_EXITS,
            Path::Elisa | Path::ElisaStrict | Path::Direct => CALLS,
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
        let job = match run {
            Run::Traffic { path, input, batch } => {
                let input = &self.inputs[*input];
                let count = input.frames().len();
                let received = count as u64 * (MAX_LEN as u64 + PCAP_RECORD);
                let frames = self.vm(*path, RECEIVER, received)
                    + &format!(" --outbox {RECEIVED} --cmdline 'role=receive frames={count}'");
                let sent = pcap::to_bytes(input.frames())?;
                let send = self.vm(*path, SENDER, sent.len() as u64)
                    + &format!(" --initrd {SENT} --cmdline 'role=send batch={batch}'");
                let script = script(&name, *path, &[(RECEIVER_VM, &frames), (SENDER_VM, &send)]);
                Job::new(&name, &script)
                    .bytes(SENT, sent)
                    .fetch(RECEIVED)
                    .fetch(&stats_file(SENDER_VM))
                    .fetch(&stats_file(RECEIVER_VM))
                    .fetch(NIC_COUNTERS)
            }
            Run::Calls { path, calls } => {
                let vm =
                    self.vm(*path, SENDER, 0) + &format!(" --cmdline 'role=calls calls={calls}'");
                Job::new(&name, &script(&name, *path, &[(CALLER_VM, &vm)]))
                    .fetch(&stats_file(CALLER_VM))
            }
        };
        Ok(job
            .timeout(TIMEOUT)
            .file(POSTERN, &self.programs.postern)
            .file(GUEST, &self.programs.testguest)
            .file(IMAGE, &self.programs.nic_image))
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

    /// Starts a VM that needs room for `data` bytes besides its own; [`script`] says where its outputs go.
    fn vm(&self, path: Path, port: u32, data: u64) -> String {
        let megabytes = GUEST_MEMORY_MB + data.div_ceil(1 << 20);
        format!(
            "./{POSTERN} run --kernel {GUEST} --memory {megabytes}M --nic {SOCKET} --port {port} \
             --path {} --counters {}",
            path.name(),
            self.counters
        )
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
const SOCKET: &str = "nic.sock";
const POSTERN: &str = "postern";
const GUEST: &str = "testguest";
const IMAGE: &str = "nic-image";

/// Where the statistics of a VM are.
pub fn stats_file(vm: &str) -> String {
    format!("{vm}.json")
}

/// What a job prints first; the run's name follows.
pub const ANNOUNCEMENT: &str = "postern-demo: ";

/// The script of a run: a NIC, and VMs that are started one after another and must all end well.
fn script(name: &str, path: Path, vms: &[(&str, &str)]) -> String {
    let mut script = format!(
        "echo '{ANNOUNCEMENT}{name}'\n\
         ./{POSTERN} nic --socket {SOCKET} --ports 2 --slots {SLOTS} --image {IMAGE} --paths {} \
         --no-learning {SENDER} >nic.log 2>&1 &\n\
         nic=$!\n\
         tries=0\n\
         until [ -S {SOCKET} ]; do\n\
         \x20 tries=$((tries + 1))\n\
         \x20 if [ $tries -gt 500 ] || ! kill -0 $nic 2>/dev/null; then cat nic.log; exit 1; fi\n\
         \x20 sleep 0.02\n\
         done\n",
        path.name()
    );
    for (vm, command) in vms {
        script += &format!(
            "{command} --serial {vm}.log --stats {} >{vm}.out 2>&1 &\n{vm}=$!\n",
            stats_file(vm)
        );
    }
    script += "status=0\n";
    for (vm, _) in vms.iter().rev() {
        script += &format!(
            "wait ${vm} || {{ echo 'VM {vm} failed:'; tail -n 5 {vm}.log; cat {vm}.out; status=1; }}\n"
        );
    }
    script += &format!(
        "./{POSTERN} stat --socket {SOCKET} --json >{NIC_COUNTERS} || status=1\n\
         kill $nic; wait $nic\n\
         [ $status = 0 ] || cat nic.log\n\
         exit $status\n"
    );
    script
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn programs() -> Programs {
        let file = |name: &str| name.into();
        Programs {
            init: file("init"),
            postern: file("postern"),
            viewtest: file("viewtest"),
            testguest: file("testguest"),
            nic_image: file("nic-image"),
        }
    }

    #[test]
    fn every_path_input_and_batch_has_one_run() {
        let runs = runs(2, &[1, 32]);
        assert_eq!(runs.len(), Path::ALL.len() * (1 + 2 * 2));
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
            programs: &programs,
        };
        for run in runs(1, &[8]) {
            let job = plan.job(&run).unwrap();
            let shell = Command::new("sh").args(["-n", "-c", &job.script]).output();
            let shell = shell.unwrap();
            assert!(shell.status.success(), "{shell:?}: {}", job.script);
            if let Run::Traffic { path, .. } = run {
                for part in ["batch=8", "frames=3000", "--memory 37M", path.name()] {
                    assert!(job.script.contains(part), "no {part}: {}", job.script);
                }
            }
        }
    }
}
