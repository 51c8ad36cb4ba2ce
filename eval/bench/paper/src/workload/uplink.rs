//! Frames between a VM and an interface of the host.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use postern_abi::platform::CallPath;
use postern_bench::call_path;
use postern_bench::report::Costs;
use postern_bench::scenario::stats::VmStats;
use postern_bench::traffic::{MAX_LEN, MIN_WIRE_LEN};
use postern_lab::job::{Job, JobOutcome};
use postern_lab::testbed::Testbed;
use serde::{Deserialize, Serialize};

use super::task::{Task, Values};
use crate::quantity::Quantity;

/// Time for all frames, by the testbed's clock.
const TIMEOUT: Duration = Duration::from_secs(300);

/// Frames of the short run.
const FEW: u64 = 500;
/// Frames of the long run.
const MANY: u64 = 2500;

/// What is run.
const SCRIPT: &str = include_str!("uplink.sh");

/// Frames go from a VM to a TAP of the host, or the other way. What is counted is what a long run has
/// more than a short one, so that what both have in common counts for nothing.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Uplink {
    /// Path on which the VM has its port.
    #[serde(with = "call_path")]
    pub path: CallPath,
    /// What the VM does.
    pub direction: Direction,
    /// Length of the frames, in bytes without the frame check sequence.
    pub size: u32,
    /// Frames a burst.
    pub batch: u32,
}

/// What a VM does with frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// It sends them to the host's interface.
    Send,
    /// It receives what comes from there.
    Receive,
}

impl Direction {
    const fn name(self) -> &'static str {
        match self {
            Direction::Send => "send",
            Direction::Receive => "receive",
        }
    }
}

impl Uplink {
    /// Checks the parameters.
    ///
    /// # Errors
    ///
    /// The first one that is out of range.
    pub fn check(&self) -> Result<()> {
        let (size, batch) = (self.size, self.batch);
        ensure!(
            (MIN_WIRE_LEN..=MAX_LEN).contains(&(size as usize)),
            "size = {size} is not within {MIN_WIRE_LEN} and {MAX_LEN}"
        );
        ensure!(
            (1..=256).contains(&batch),
            "batch = {batch} is not within 1 and 256"
        );
        Ok(())
    }

    /// Its run.
    pub fn task(&self, testbed: &Testbed) -> Task {
        let (path, direction) = (self.path.name(), self.direction.name());
        let script = format!(
            "path={path} direction={direction} size={} batch={} few={FEW} many={MANY}\n{SCRIPT}",
            self.size, self.batch
        );
        let programs = testbed.programs();
        let name = format!("{path}: {direction} {MANY} frames of {} bytes", self.size);
        let mut job = Job::new(&name, &script)
            .file("postern", &programs.postern)
            .file("postern-init", &programs.init)
            .file("postern-nettest", &programs.nettest)
            .file("guest", &programs.bare_guest)
            .file("nic-image", &programs.nic_image)
            .timeout(TIMEOUT);
        for run in ["few", "many"] {
            job = job.fetch(&stats(run));
        }
        let direction = self.direction;
        Task::new(job, 64, move |outcome| read(direction, &outcome.success()?))
    }
}

fn stats(run: &str) -> String {
    format!("{run}.json")
}

/// Costs of one run.
fn costs(direction: Direction, run: &str, outcome: &JobOutcome) -> Result<Costs> {
    let vm = VmStats::parse(run, outcome.file(&stats(run))?)?;
    let own = vm.while_frames_went()?;
    if direction == Direction::Receive {
        return Ok(own);
    }
    // What the owner does with the last frames comes after the guest's last mark.
    let text = outcome.text();
    let counted = |name| -> Result<u64> {
        let at = |moment| counter(&text, &format!("{run} {moment} "), name);
        Ok(at("after")?.saturating_sub(at("before")?))
    };
    Ok(Costs {
        vmfuncs: Some(counted("vmfuncs")?),
        guest_instructions: counted("guest")?,
        total_instructions: counted("instructions")?,
        ..own
    })
}

/// A counter in the line that begins like this.
fn counter(text: &str, line: &str, name: &str) -> Result<u64> {
    let words = text.lines().find_map(|text| text.strip_prefix(line));
    let mut words = words.unwrap_or_default().split_ascii_whitespace();
    let value = words.by_ref().find(|word| *word == name).and(words.next());
    let value = value.and_then(|value| value.parse().ok());
    value.with_context(|| format!("no counter {name} behind {line:?} in {text:?}"))
}

fn read(direction: Direction, outcome: &JobOutcome) -> Result<Values> {
    let few = costs(direction, "few", outcome)?;
    let many = costs(direction, "many", outcome)?;
    let each = |of: fn(&Costs) -> u64| {
        let more = of(&many) as f64 - of(&few) as f64;
        more.max(0.0) / (MANY - FEW) as f64
    };
    Ok(vec![
        (
            Quantity::TotalInstructions,
            each(|costs| costs.total_instructions),
        ),
        (
            Quantity::GuestInstructions,
            each(|costs| costs.guest_instructions),
        ),
        (Quantity::VmExits, each(|costs| costs.vm_exits)),
        (
            Quantity::InterruptExits,
            each(|costs| costs.interrupt_exits),
        ),
        (Quantity::WaitExits, each(|costs| costs.wait_exits)),
        (Quantity::Vmfuncs, each(|costs| costs.vmfuncs.unwrap_or(0))),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_in_their_line() {
        let text = "few before instructions 10 guest 4\nfew after instructions 30 guest 5\n";
        assert_eq!(counter(text, "few after ", "instructions").unwrap(), 30);
        assert_eq!(counter(text, "few before ", "guest").unwrap(), 4);
        assert!(counter(text, "many after ", "guest").is_err());
        assert!(counter(text, "few after ", "exits").is_err());
    }
}
