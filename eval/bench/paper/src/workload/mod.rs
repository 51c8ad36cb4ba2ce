//! Workloads: what the VMs of a point do, as `experiment.toml` says it, and what is counted.
//!
//! A new kind of workload is a variant of [`Workload`] with a module of its own, which makes a
//! [`Task`]: the job, and how its outcome is read.

mod attack;
mod calls;
mod linux_packets;
mod memcached;
mod setup;
mod task;
mod traffic;
mod uplink;

use anyhow::Result;
use postern_lab::testbed::Testbed;
use serde::{Deserialize, Serialize};

pub use attack::Attack;
pub use calls::Calls;
pub use linux_packets::LinuxPackets;
pub use memcached::Memcached;
pub use setup::Setup;
pub use task::{Task, Values};
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
