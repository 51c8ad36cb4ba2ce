//! Workloads: what the VMs of a point do, as `experiment.toml` says it, and what is counted.
//!
//! A new kind of workload is a variant of [`Workload`] with a module of its own, which makes a
//! [`Scenario`] and reads its costs.

mod calls;
mod traffic;

use anyhow::Result;
use postern_bench::report::RingSizes;
use postern_bench::scenario::{Scenario, Setting};
use postern_bench::traffic::Trace;
use postern_lab::job::JobOutcome;
use postern_lab::source::Source;
use serde::{Deserialize, Serialize};

use crate::quantity::Quantity;

pub use calls::Calls;
pub use traffic::Traffic;

/// A workload with its parameters.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Workload {
    /// A VM makes empty calls.
    Calls(Calls),
    /// Frames go from one VM to another.
    Traffic(Traffic),
}

/// The values that a point gave.
pub type Values = Vec<(Quantity, f64)>;

/// The inputs of a measurement: each once, however many points use it.
#[derive(Debug, Default)]
pub struct Inputs(Vec<Trace>);

impl Inputs {
    /// The index of a trace, which is added if it is new.
    pub fn index_of(&mut self, trace: Trace) -> usize {
        let known = self.0.iter().position(|known| *known == trace);
        known.unwrap_or_else(|| {
            self.0.push(trace);
            self.0.len() - 1
        })
    }

    /// All of them.
    pub fn all(&self) -> &[Trace] {
        &self.0
    }
}

impl Workload {
    /// Checks the parameters.
    ///
    /// # Errors
    ///
    /// The first one that no run can have.
    pub fn check(&self) -> Result<()> {
        match self {
            Workload::Calls(calls) => calls.check(),
            Workload::Traffic(traffic) => traffic.check(),
        }
    }

    /// The scenario that it is on a testbed whose figures come from `source`.
    ///
    /// # Errors
    ///
    /// Sizes that no NIC has.
    pub fn scenario(&self, source: Source, inputs: &mut Inputs) -> Result<Scenario> {
        let setting = |rings: RingSizes| Setting::new(source, rings);
        match self {
            Workload::Calls(calls) => calls.scenario(&setting(calls::RINGS)),
            Workload::Traffic(traffic) => traffic.scenario(&setting(traffic.rings()), inputs),
        }
    }

    /// What the scenario's outcome says.
    ///
    /// # Errors
    ///
    /// A run that failed, or in which not every frame arrived as it was sent.
    pub fn values(
        &self,
        source: Source,
        scenario: &Scenario,
        inputs: &Inputs,
        outcome: JobOutcome,
    ) -> Result<Values> {
        match self {
            Workload::Calls(_) => calls::values(scenario, outcome),
            Workload::Traffic(_) => traffic::values(source, scenario, inputs.all(), outcome),
        }
    }
}
