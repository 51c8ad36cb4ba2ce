//! Scenarios: measurements described as data, carried out on a testbed.
//!
//! ```text
//!   Scenario { topology, workload, metrics }
//!       |  job: the topology as TOML, the frames as pcap, the programs
//!       v
//!   execute: `postern up` on a testbed
//!       |  statistics of VMs and NIC, frames received
//!       v
//!   results: proof (frames received against frames sent), stats (marks of VMs)
//!       |
//!       v
//!   rows of the report
//! ```

pub mod definition;
pub mod execute;
pub mod results;
pub mod stats;

pub use definition::{Metrics, Scenario, Setting, Workload};
