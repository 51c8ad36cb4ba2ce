//! From what the runs left behind to rows of the report.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use postern_abi::platform::CallPath;
use serde::Deserialize;

use super::plan::{self, Plan, Run};
use super::stats::{self, VmStats};
use crate::job::Done;
use crate::report::{Call, Source, Traffic};
use crate::traffic::{Frame, pcap, proof};

/// Rows, and runs that gave none.
#[derive(Default)]
pub struct Results {
    /// Runs with traffic.
    pub traffic: Vec<Traffic>,
    /// Runs with empty calls.
    pub calls: Vec<Call>,
    /// A sentence for each run that failed.
    pub failures: Vec<String>,
}

/// Makes rows of the runs' outcomes, in their order.
pub fn collect(plan: &Plan<'_>, source: Source, runs: &[Run], done: Vec<Result<Done>>) -> Results {
    let mut results = Results::default();
    for (run, done) in runs.iter().zip(done) {
        let row = done.and_then(|done| match *run {
            Run::Traffic { path, input, batch } => {
                let input = &plan.inputs[input];
                let row = traffic(source, path, input.name(), input.frames(), batch, done)?;
                results.traffic.push(row);
                Ok(())
            }
            Run::Calls { path, calls } => {
                results.calls.push(call(path, calls, done)?);
                Ok(())
            }
        });
        if let Err(error) = row {
            results
                .failures
                .push(format!("{}: {error:#}", plan.name(run)));
        }
    }
    results
}

/// The row of a run with empty calls.
///
/// # Errors
/// A run that failed.
pub fn call(path: CallPath, calls: u64, done: Done) -> Result<Call> {
    let vm = vm_stats(plan::CALLER_VM, &done.success()?)?;
    Ok(Call::new(path, calls, &stats::calls(&vm)?))
}

fn vm_stats(vm: &str, done: &Done) -> Result<VmStats> {
    Ok(VmStats::parse(vm, done.file(&plan::stats_file(vm))?)?)
}

fn received(done: &Done) -> Result<Vec<Frame>> {
    match pcap::parse(plan::RECEIVED.as_ref(), done.file(plan::RECEIVED)?) {
        Err(pcap::Error::NoFrames { .. }) => Ok(Vec::new()),
        other => Ok(other?),
    }
}

/// The row of a run with traffic.
///
/// # Errors
/// A run that failed, or in which not every frame arrived once, in order, byte for byte.
pub fn traffic(
    source: Source,
    path: CallPath,
    input: &str,
    sent: &[Frame],
    batch: u32,
    done: Done,
) -> Result<Traffic> {
    let done = done.success()?;
    let verdict = proof::compare(sent, &received(&done)?);
    ensure!(verdict.is_intact(), "{verdict}");
    let sender = vm_stats(plan::SENDER_VM, &done)?;
    let receiver = vm_stats(plan::RECEIVER_VM, &done)?;
    let costs = match source {
        Source::Emulated => stats::traffic_shared_counters(&sender, &receiver)?,
        Source::Hardware => stats::traffic_own_counters(&sender, &receiver)?,
    };
    let dropped = drops(done.file(plan::NIC_COUNTERS)?)?;
    Ok(Traffic::new(path, input, batch, &verdict, dropped, &costs))
}

/// Frames of the sender that the NIC dropped, by cause. (The receiver's own are announcements: those
/// that it made before the sender was there had nowhere to go.)
fn drops(json: &[u8]) -> Result<BTreeMap<String, u64>> {
    #[derive(Deserialize)]
    struct Counters {
        ports: Vec<Port>,
    }
    #[derive(Deserialize)]
    struct Port {
        port: u32,
        drops: BTreeMap<String, u64>,
    }
    let counters: Counters = serde_json::from_slice(json).context("reading the NIC's counters")?;
    let sender = counters
        .ports
        .into_iter()
        .find(|port| port.port == plan::SENDER);
    Ok(sender
        .context("the NIC has no counters of the sender's port")?
        .drops)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_are_those_of_the_sender() {
        let json = br#"{"ports": [
            {"port": 0, "drops": {"full": 2, "too_long": 1}},
            {"port": 1, "drops": {"full": 3, "too_long": 0}}
        ]}"#;
        let sum = drops(json).unwrap();
        assert_eq!(
            sum,
            BTreeMap::from([("full".into(), 2), ("too_long".into(), 1)])
        );
        assert!(drops(b"{}").is_err());
    }
}
