//! Workloads: what the VMs of a point do, as `experiment.toml` says it, and what is counted.
//!
//! A new kind of workload is a variant of [`Workload`] with a module of its own, which makes a
//! [`Task`]: the job, and how its outcome is read.

mod attack;
mod calls;
mod linux_packets;
mod memcached;
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
pub use linux_packets::LinuxPackets;
pub use memcached::Memcached;
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
    /// A program of a Linux guest sends frames to one of another.
    LinuxPackets(LinuxPackets),
    /// A client in a Linux guest asks memcached in another.
    Memcached(Memcached),
    /// A VM starts at a NIC of some ports.
    Setup(Setup),
    /// Frames go from one VM to another.
    Traffic(Traffic),
    /// Frames go between a VM and an interface of the host.
    Uplink(Uplink),
}

/// The values that a point gave.
pub type Values = Vec<(Quantity, f64)>;

/// Memory in MiB that two Linux guests need of an emulated machine, beyond what every machine has.
const LINUX_MEMORY_MB: u64 = 1536;

/// What reads the outcome of a job: the values of each of its points.
type Reader = Box<dyn Fn(JobOutcome) -> Result<Vec<Values>>>;

/// A run that gives the values of a point, or of several.
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
    /// A job of one point, whose outcome is read by `read`.
    pub fn new(
        job: Job,
        memory_mb: u64,
        read: impl Fn(JobOutcome) -> Result<Values> + 'static,
    ) -> Task {
        Task::of_several(job, memory_mb, move |outcome| Ok(vec![read(outcome)?]))
    }

    /// A job of several points, whose values `read` gives in their order.
    pub fn of_several(
        job: Job,
        memory_mb: u64,
        read: impl Fn(JobOutcome) -> Result<Vec<Values>> + 'static,
    ) -> Task {
        Task {
            job,
            memory_mb,
            read: Box::new(read),
        }
    }

    /// What the outcome of the job says of each of its points.
    ///
    /// # Errors
    ///
    /// A run that failed, or in which not everything was as it must be.
    pub fn read(&self, outcome: JobOutcome) -> Result<Vec<Values>> {
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
            Workload::LinuxPackets(packets) => packets.check(),
            Workload::Memcached(memcached) => memcached.check(),
            Workload::Setup(setup) => setup.check(),
            Workload::Traffic(traffic) => traffic.check(),
            Workload::Uplink(uplink) => uplink.check(),
        }
    }

    /// Whether one run gives the values of this and of another workload of the same series: two Linux
    /// guests are booted once for all places on an axis.
    pub fn shares_run_with(&self, other: &Workload) -> bool {
        match (self, other) {
            (Workload::LinuxPackets(one), Workload::LinuxPackets(other)) => {
                one.network == other.network
            }
            (Workload::Memcached(one), Workload::Memcached(other)) => one.network == other.network,
            _ => false,
        }
    }

    /// The run of a workload, and of those that share its run, on a testbed.
    ///
    /// # Errors
    ///
    /// Sizes that no NIC has, and files that are missing.
    pub fn task(&self, sharing: &[&Workload], testbed: &Testbed) -> Result<Task> {
        let all = || [self].into_iter().chain(sharing.iter().copied());
        match self {
            Workload::Attack(attack) => Ok(attack.task(testbed)),
            Workload::Calls(calls) => calls.task(testbed),
            Workload::LinuxPackets(packets) => {
                let sizes = all().filter_map(|one| match one {
                    Workload::LinuxPackets(packets) => Some(packets.size),
                    _ => None,
                });
                LinuxPackets::task(packets.network, sizes.collect(), testbed)
            }
            Workload::Memcached(memcached) => {
                let rates = all().filter_map(|one| match one {
                    Workload::Memcached(memcached) => Some(memcached.rate),
                    _ => None,
                });
                Memcached::task(memcached.network, rates.collect(), testbed)
            }
            Workload::Setup(setup) => Ok(setup.task(testbed)),
            Workload::Traffic(traffic) => traffic.task(testbed),
            Workload::Uplink(uplink) => Ok(uplink.task(testbed)),
        }
    }
}
