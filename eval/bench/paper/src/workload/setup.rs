//! What a VM and its port cost before the first frame.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use postern_abi::platform::CallPath;
use postern_abi::window::MAX_PORTS;
use postern_bench::call_path;
use postern_bench::scenario::stats::VmStats;
use postern_lab::job::{Job, JobOutcome};
use postern_lab::testbed::Testbed;
use serde::{Deserialize, Serialize};

use super::task::{Task, Values};
use crate::quantity::Quantity;

/// Time for a NIC with all its ports, by the testbed's clock.
const TIMEOUT: Duration = Duration::from_secs(300);

/// File with the statistics of the VM.
const STATS: &str = "vm.json";

/// Prints the memory that a NIC of `$ports` ports takes, and the machine's counters before a VM
/// starts that has a port on `$path`.
const SCRIPT: &str = include_str!("setup.sh");

/// A NIC of some ports, and a VM up to its first frame.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Setup {
    /// Path on which the VM has its port.
    #[serde(with = "call_path")]
    pub path: CallPath,
    /// Ports of the NIC, of one queue each.
    pub ports: u32,
}

impl Setup {
    /// Checks the parameters.
    ///
    /// # Errors
    ///
    /// More ports than a NIC has.
    pub fn check(&self) -> Result<()> {
        let ports = self.ports;
        ensure!(
            (2..=MAX_PORTS).contains(&ports),
            "ports = {ports} is not within 2 and {MAX_PORTS}"
        );
        Ok(())
    }

    /// Its run.
    pub fn task(&self, testbed: &Testbed) -> Task {
        let (path, ports) = (self.path.name(), self.ports);
        let script = format!("path={path} ports={ports} stats={STATS}\n{SCRIPT}");
        let programs = testbed.programs();
        let job = Job::new(&format!("{path}: start at a NIC of {ports} ports"), &script)
            .file("postern", &programs.postern)
            .file("postern-init", &programs.init)
            .file("guest", &programs.bare_guest)
            .file("nic-image", &programs.nic_image)
            .timeout(TIMEOUT)
            .fetch(STATS);
        Task::new(job, 0, move |outcome| read(&outcome.success()?, ports))
    }
}

/// Instructions from the start of the VMM until the guest can send, and memory a port.
fn read(outcome: &JobOutcome, ports: u32) -> Result<Values> {
    let text = outcome.text();
    let number = |name: &str| -> Result<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok());
        number.with_context(|| format!("no number behind {name:?} in {text:?}"))
    };
    let vm = VmStats::parse("the guest", outcome.file(STATS)?)?;
    let ready = vm.instructions_when_ready()?;
    let start = number("instructions ")?;
    let memory = number("memory ")?;
    Ok(vec![
        (
            Quantity::TotalInstructions,
            ready.saturating_sub(start) as f64,
        ),
        (Quantity::MemoryKib, memory as f64 / f64::from(ports)),
    ])
}
