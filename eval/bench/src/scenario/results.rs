//! Rows of the report, from what the scenarios left behind.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use postern_lab::job::JobOutcome;
use postern_lab::source::Source;
use serde::Deserialize;

use super::definition::{self, Metrics, Scenario, Workload};
use super::stats::{self, VmStats};
use crate::report::{CallRow, TrafficRow};
use crate::traffic::{Frame, Trace, pcap, proof};

/// Rows, and scenarios that gave none.
#[derive(Debug, Default)]
pub struct Results {
    /// Rows of scenarios with traffic.
    pub traffic: Vec<TrafficRow>,
    /// Rows of scenarios with empty calls.
    pub calls: Vec<CallRow>,
    /// A sentence for each scenario that failed.
    pub failures: Vec<String>,
}

/// Makes rows of the scenarios' outcomes, in their order.
pub fn collect(
    source: Source,
    scenarios: &[Scenario],
    inputs: &[Trace],
    outcomes: Vec<Result<JobOutcome>>,
) -> Results {
    let mut results = Results::default();
    for (scenario, outcome) in scenarios.iter().zip(outcomes) {
        let row = outcome.and_then(|outcome| {
            match scenario.metrics {
                Metrics::PerPacket { .. } => {
                    let row = traffic(source, scenario, inputs, outcome)?;
                    results.traffic.push(row);
                }
                Metrics::PerCall { .. } => results.calls.push(call(scenario, outcome)?),
            }
            Ok(())
        });
        if let Err(error) = row {
            results
                .failures
                .push(format!("{}: {error:#}", scenario.name));
        }
    }
    results
}

/// The row of a scenario with empty calls.
///
/// # Errors
///
/// A run that failed, and a scenario of another kind.
pub fn call(scenario: &Scenario, outcome: JobOutcome) -> Result<CallRow> {
    let (Workload::Calls { path, calls }, Metrics::PerCall { caller }) =
        (&scenario.workload, &scenario.metrics)
    else {
        bail!("{} makes no calls to be counted", scenario.name);
    };
    let vm = vm_stats(caller, &outcome.success()?)?;
    Ok(CallRow::new(*path, *calls, &stats::calls(&vm)?))
}

fn vm_stats(vm: &str, outcome: &JobOutcome) -> Result<VmStats> {
    Ok(VmStats::parse(
        vm,
        outcome.file(&definition::stats_file(vm))?,
    )?)
}

fn received(outcome: &JobOutcome) -> Result<Vec<Frame>> {
    match pcap::parse(
        definition::RECEIVED.as_ref(),
        outcome.file(definition::RECEIVED)?,
    ) {
        Err(pcap::Error::NoFrames { .. }) => Ok(Vec::new()),
        other => Ok(other?),
    }
}

/// The row of a scenario with traffic.
///
/// # Errors
///
/// A run that failed, or in which not every frame arrived once, in order, byte for byte; and a
/// scenario of another kind.
pub fn traffic(
    source: Source,
    scenario: &Scenario,
    inputs: &[Trace],
    outcome: JobOutcome,
) -> Result<TrafficRow> {
    let (Workload::Traffic { path, input, batch }, Metrics::PerPacket { sender, receiver }) =
        (&scenario.workload, &scenario.metrics)
    else {
        bail!("{} sends no frames to be counted", scenario.name);
    };
    let outcome = outcome.success()?;
    let sent = &inputs[*input];
    let comparison = proof::compare(sent.frames(), &received(&outcome)?);
    ensure!(comparison.is_intact(), "{comparison}");
    let port = scenario.port_of(sender);
    let port = port.with_context(|| format!("VM {sender} has no port"))?;
    let sender = vm_stats(sender, &outcome)?;
    let receiver = vm_stats(receiver, &outcome)?;
    let costs = match source {
        Source::Emulated => stats::traffic_shared_counters(&sender, &receiver)?,
        Source::Nested | Source::Hardware => stats::traffic_own_counters(&sender, &receiver)?,
    };
    let dropped = drops(outcome.file(definition::NIC_COUNTERS)?, port)?;
    let name = sent.name();
    Ok(TrafficRow::new(
        *path,
        name,
        *batch,
        &comparison,
        dropped,
        &costs,
    ))
}

/// Frames of a port that the NIC dropped, by cause. (Those of the receiver tell the switch where it
/// is; what it sent before the sender was there had nowhere to go, and does not count.)
fn drops(json: &[u8], port: u32) -> Result<BTreeMap<String, u64>> {
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
    let mut ports = counters.ports.into_iter();
    let found = ports.find(|found| found.port == port);
    Ok(found
        .with_context(|| format!("the NIC has no counters of port {port}"))?
        .drops)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_are_those_of_one_port() {
        let json = br#"{"ports": [
            {"port": 0, "drops": {"full": 2, "too_long": 1}},
            {"port": 1, "drops": {"full": 3, "too_long": 0}}
        ]}"#;
        let sum = drops(json, 0).unwrap();
        assert_eq!(
            sum,
            BTreeMap::from([("full".into(), 2), ("too_long".into(), 1)])
        );
        assert!(drops(b"{}", 0).is_err());
    }
}
