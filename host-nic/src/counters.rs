//! Counters of a NIC, as people and programs read them. Nothing stands still for a reader.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::Ordering::Relaxed;

use postern_abi::window::PortId;
use serde::{Deserialize, Serialize};

use crate::state::Cause;
use crate::switch::Switch;

/// Counters of all ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// In the order of their numbers.
    pub ports: Vec<PortCounters>,
}

/// Counters of a port, since its present tenant came (or, after that, until the next one comes).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortCounters {
    /// Its number.
    pub port: u32,
    /// Whether it has a tenant.
    pub attached: bool,
    /// Frames that the switch took from it.
    pub tx_frames: u64,
    /// Bytes of those that were neither too short nor too long.
    pub tx_bytes: u64,
    /// Frames that the switch put into its lanes.
    pub rx_frames: u64,
    /// Frames that its lanes had no room for.
    pub rx_dropped: u64,
    /// Stations known to be behind it.
    pub stations: u64,
    /// Stations learned from its frames.
    pub learned: u64,
    /// Stations that moved to it from another port.
    pub moved: u64,
    /// Frames from it that were not delivered, by cause.
    pub drops: BTreeMap<String, u64>,
}

impl Counters {
    /// Reads the counters.
    pub fn read(switch: &Switch<'_>) -> Counters {
        let mut stations = BTreeMap::new();
        for (_, port) in switch.state().table.entries() {
            *stations.entry(port).or_default() += 1;
        }
        let port_counters = |port: PortId| {
            let sender = switch.state().sender(port);
            let (mut rx_frames, mut rx_dropped) = (0, 0);
            for from in switch.geometry().all_ports() {
                let lane = switch.state().sender(from).lane(port);
                rx_frames += lane.frames.load(Relaxed);
                rx_dropped += lane.drops.load(Relaxed);
            }
            let drops = Cause::ALL.map(|cause| {
                let count = sender.drops[cause as usize].load(Relaxed);
                (cause.name().to_owned(), count)
            });
            PortCounters {
                port: port.number(),
                attached: switch.state().tenancy(port) != 0,
                tx_frames: sender.frames.load(Relaxed),
                tx_bytes: sender.bytes.load(Relaxed),
                rx_frames,
                rx_dropped,
                stations: stations.get(&port.number()).copied().unwrap_or(0),
                learned: sender.learned.load(Relaxed),
                moved: sender.moved.load(Relaxed),
                drops: drops.into(),
            }
        };
        Counters {
            ports: switch.geometry().all_ports().map(port_counters).collect(),
        }
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:>4}  {:8}  {:>12}  {:>15}  {:>12}  {:>12}  {:>8}  drops by cause",
            "port", "state", "tx frames", "tx bytes", "rx frames", "rx dropped", "stations"
        )?;
        for port in &self.ports {
            let state = if port.attached { "attached" } else { "vacant" };
            write!(
                f,
                "{:>4}  {state:8}  {:>12}  {:>15}  {:>12}  {:>12}  {:>8} ",
                port.port,
                port.tx_frames,
                port.tx_bytes,
                port.rx_frames,
                port.rx_dropped,
                port.stations
            )?;
            let mut none = true;
            for (cause, count) in port.drops.iter().filter(|(_, count)| **count != 0) {
                write!(f, " {cause} {count}")?;
                none = false;
            }
            writeln!(f, "{}", if none { " -" } else { "" })?;
        }
        Ok(())
    }
}
