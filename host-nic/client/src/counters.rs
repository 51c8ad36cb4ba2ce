//! Counters of a NIC, as people and programs read them. Traffic goes on while they are read.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::Ordering::Relaxed;

use postern_abi::window::PortId;
use serde::{Deserialize, Serialize};

use postern_switch::state::Cause;
use postern_switch::switch::Switch;

/// Counters of all ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicCounters {
    /// Counters of each port, in the order of their numbers.
    pub ports: Vec<PortCounters>,
}

/// Counters of a port, since its present tenant came (or, after that, until the next one comes).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortCounters {
    /// The port's number.
    pub port: u32,
    /// Whether the port has a tenant.
    pub attached: bool,
    /// Whether the port has none, and somebody still has its memory: nobody gets it until then.
    #[serde(default)]
    pub leaving: bool,
    /// Calls to send that the port's vCPUs began, on any path. On `elisa` and `elisa-strict` they are
    /// no VM exits, so nobody else counts them.
    #[serde(default)]
    pub calls: u64,
    /// Frames that the switch took from the port.
    pub tx_frames: u64,
    /// Bytes of the frames that were taken and neither too short nor too long.
    pub tx_bytes: u64,
    /// Frames that the switch put into the port's lanes.
    pub rx_frames: u64,
    /// Bytes of the frames that were put into lanes.
    pub rx_bytes: u64,
    /// Frames that the port's lanes had no room for.
    pub rx_dropped: u64,
    /// Stations known to be behind the port.
    pub stations: u64,
    /// Stations learned from the port's frames.
    pub learned: u64,
    /// Stations that moved to the port from another one.
    pub moved: u64,
    /// Requests of the port that were refused because they lacked the secret of the tenancy.
    pub refused: u64,
    /// Times that the owner rang a bell of the port's guest, which slept and had not been woken by
    /// whoever sent it frames. Counted since the present owner began, or the tenant came.
    #[serde(default)]
    pub rung_by_owner: u64,
    /// Frames from the port that were not delivered, by cause.
    pub drops: BTreeMap<String, u64>,
    /// Counters of its queues, in the order of their numbers.
    pub queues: Vec<QueueCounters>,
}

/// Counters of a queue of a port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueCounters {
    /// Calls to send that the vCPU of this number began, on any path.
    #[serde(default)]
    pub calls: u64,
    /// Frames that the switch took in calls of the vCPU of this number.
    pub tx_frames: u64,
    /// Bytes of the frames that were taken and neither too short nor too long.
    pub tx_bytes: u64,
    /// Frames that the switch put into the lanes of the RX queue.
    pub rx_frames: u64,
    /// Bytes of the frames that were put into lanes.
    pub rx_bytes: u64,
    /// Frames that the lanes of the RX queue had no room for.
    pub rx_dropped: u64,
}

impl PortCounters {
    /// Adds what belongs to one sender and to the RX queue of the same number.
    fn add_queue(&mut self, switch: &Switch<'_>, number: u32) {
        let Some(sender) = switch.sender(number) else {
            return;
        };
        let lanes = (0..switch.geometry().lanes()).filter_map(|lane| switch.lane(number, lane));
        let mut queue = QueueCounters {
            calls: sender.calls.load(Relaxed),
            tx_frames: sender.frames.load(Relaxed),
            tx_bytes: sender.bytes.load(Relaxed),
            rx_frames: 0,
            rx_bytes: 0,
            rx_dropped: 0,
        };
        for lane in lanes {
            queue.rx_frames += lane.frames.load(Relaxed);
            queue.rx_bytes += lane.bytes.load(Relaxed);
            queue.rx_dropped += lane.drops.load(Relaxed);
        }
        self.calls += queue.calls;
        self.tx_frames += queue.tx_frames;
        self.tx_bytes += queue.tx_bytes;
        self.rx_frames += queue.rx_frames;
        self.rx_bytes += queue.rx_bytes;
        self.rx_dropped += queue.rx_dropped;
        self.learned += sender.learned.load(Relaxed);
        self.moved += sender.moved.load(Relaxed);
        for cause in Cause::ALL {
            let count = sender.drops[cause as usize].load(Relaxed);
            *self.drops.entry(cause.name().to_owned()).or_default() += count;
        }
        self.queues.push(queue);
    }
}

impl NicCounters {
    /// Reads the counters.
    pub fn read(switch: &Switch<'_>) -> NicCounters {
        let mut stations = BTreeMap::new();
        for entry in switch.state().fdb.entries(switch.key()) {
            *stations.entry(entry.port).or_default() += 1;
        }
        let geometry = switch.geometry();
        let port_counters = |port: PortId| {
            let mut counters = PortCounters {
                port: port.number(),
                attached: switch.state().tenancy(port) != 0,
                stations: stations.get(&port.number()).copied().unwrap_or(0),
                refused: switch
                    .port(port)
                    .map_or(0, |state| state.refused.load(Relaxed)),
                drops: Cause::ALL.map(|cause| (cause.name().to_owned(), 0)).into(),
                ..PortCounters::default()
            };
            for queue in 0..geometry.queues() {
                counters.add_queue(switch, geometry.sender(port, queue));
            }
            counters
        };
        NicCounters {
            ports: switch.geometry().all_ports().map(port_counters).collect(),
        }
    }
}

impl fmt::Display for NicCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:>4}  {:8}  {:>12}  {:>12}  {:>15}  {:>12}  {:>12}  {:>8}  drops by cause",
            "port",
            "state",
            "calls",
            "tx frames",
            "tx bytes",
            "rx frames",
            "rx dropped",
            "stations"
        )?;
        for port in &self.ports {
            let state = match (port.attached, port.leaving) {
                (true, _) => "attached",
                (false, true) => "leaving",
                (false, false) => "vacant",
            };
            write!(
                f,
                "{:>4}  {state:8}  {:>12}  {:>12}  {:>15}  {:>12}  {:>12}  {:>8} ",
                port.port,
                port.calls,
                port.tx_frames,
                port.tx_bytes,
                port.rx_frames,
                port.rx_dropped,
                port.stations
            )?;
            let mut none = true;
            let others = [
                ("requests_without_secret", port.refused),
                ("rung_by_owner", port.rung_by_owner),
            ];
            for (name, count) in others.iter().filter(|(_, count)| *count != 0) {
                write!(f, " {name} {count}")?;
                none = false;
            }
            for (cause, count) in port.drops.iter().filter(|(_, count)| **count != 0) {
                write!(f, " {cause} {count}")?;
                none = false;
            }
            writeln!(f, "{}", if none { " -" } else { "" })?;
        }
        Ok(())
    }
}
