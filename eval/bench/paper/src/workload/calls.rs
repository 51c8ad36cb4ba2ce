//! Empty calls.

use anyhow::{Result, ensure};
use postern_abi::platform::CallPath;
use postern_bench::call_path;
use postern_bench::report::{CallRow, RingSizes};
use postern_bench::scenario::{Scenario, Setting, results};
use postern_lab::testbed::Testbed;
use serde::{Deserialize, Serialize};

use super::task::{Task, Values};
use crate::quantity::Quantity;

/// Sizes of the rings, which empty calls do not use.
const RINGS: RingSizes = RingSizes {
    ring_bytes: 64 << 10,
    lane_bytes: 64 << 10,
};

/// A VM makes empty calls: what is counted is a loop of them, less the same loop without calls.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Calls {
    /// Path on which calls reach the service.
    #[serde(with = "call_path")]
    pub path: CallPath,
    /// Number of calls.
    pub calls: u64,
}

impl Calls {
    /// Checks the parameters.
    ///
    /// # Errors
    ///
    /// No calls.
    pub fn check(&self) -> Result<()> {
        ensure!(self.calls > 0, "no calls on the path {}", self.path.name());
        Ok(())
    }

    /// Its run.
    ///
    /// # Errors
    ///
    /// Sizes that no NIC has.
    pub fn task(&self, testbed: &Testbed) -> Result<Task> {
        let setting = Setting::new(testbed.source(), RINGS);
        let scenario = Scenario::calls(&setting, self.path, self.calls)?;
        let job = scenario.job(testbed.programs(), &[])?;
        Ok(Task::new(job, 0, move |outcome| {
            results::call(&scenario, outcome).map(|row| of_row(&row))
        }))
    }
}

/// The values of a row, a call.
fn of_row(row: &CallRow) -> Values {
    let mut values = vec![
        (Quantity::TotalInstructions, row.total_instructions),
        (Quantity::GuestInstructions, row.guest_instructions),
        (Quantity::VmExits, row.vm_exits),
    ];
    values.extend(row.vmfuncs.map(|value| (Quantity::Vmfuncs, value)));
    values
}
