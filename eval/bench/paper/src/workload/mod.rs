//! Workloads: what the VMs of a point do, as `experiment.toml` says it, and what is counted.
//!
//! A new kind of workload is a variant of [`Workload`] with a module of its own, which makes a
//! [`Task`]: the job, and how its outcome is read.

mod attack;
mod calls;
mod setup;
mod traffic;
mod uplink;

use std::fmt;

use anyhow::Result;
use postern_lab::job::{Job, JobOutcome};
use postern_lab::testbed::Testbed;
use serde::{Deserialize, Serialize};

use crate::quantity::Quantity;

pub use attack::Attack;
pub use calls::Calls;
pub use setup::Setup;
pub use traffic::Traffic;
pub use uplink::{Direction, Uplink};

/// A workload with its parameters.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Workload {
    /// A hostile guest attacks.
    Attack(Attack),
    /// A VM makes empty calls.
    Calls(Calls),
    /// A VM starts at a NIC of some ports.
    Setup(Setup),
    /// Frames go from one VM to another.
    Traffic(Traffic),
    /// Frames go between a VM and an interface of the host.
    Uplink(Uplink),
}

/// The values that a point gave.
pub type Values = Vec<(Quantity, f64)>;

/// What reads the outcome of a job.
type Reader = Box<dyn Fn(JobOutcome) -> Result<Values>>;

/// The run of a point.
pub struct Task {
    /// What is run.
    pub job: Job,
    /// Memory in MiB that the job needs of an emulated machine, beyond what every machine has.
    pub memory_mb: u64,
    read: Reader,
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task")
            .field("job", &self.job)
            .finish_non_exhaustive()
    }
}

impl Task {
    /// A job whose outcome is read by `read`.
    pub fn new(
        job: Job,
        memory_mb: u64,
        read: impl Fn(JobOutcome) -> Result<Values> + 'static,
    ) -> Task {
        Task {
            job,
            memory_mb,
            read: Box::new(read),
        }
    }

    /// What the outcome of the job says.
    ///
    /// # Errors
    ///
    /// A run that failed, or in which not everything was as it must be.
    pub fn read(&self, outcome: JobOutcome) -> Result<Values> {
        (self.read)(outcome)
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
            Workload::Attack(attack) => attack.check(),
            Workload::Calls(calls) => calls.check(),
            Workload::Setup(setup) => setup.check(),
            Workload::Traffic(traffic) => traffic.check(),
            Workload::Uplink(uplink) => uplink.check(),
        }
    }

    /// Its run on a testbed.
    ///
    /// # Errors
    ///
    /// Sizes that no NIC has, and files that are missing.
    pub fn task(&self, testbed: &Testbed) -> Result<Task> {
        match self {
            Workload::Attack(attack) => Ok(attack.task(testbed)),
            Workload::Calls(calls) => calls.task(testbed),
            Workload::Setup(setup) => Ok(setup.task(testbed)),
            Workload::Traffic(traffic) => traffic.task(testbed),
            Workload::Uplink(uplink) => Ok(uplink.task(testbed)),
        }
    }
}
