//! What the networks cost, as a table for people and as JSON.
//!
//! | figure | is |
//! | --- | --- |
//! | total instructions | all that the CPU ran: both guests, both VMMs, the NIC, the host's kernel |
//! | exits | VM exits of both VMs |
//! | interrupts | interrupts that KVM gave to either guest |
//! | beyond timers | exits less those that timers cause: [`Samples::exits_beyond_timers`] |
//! | packet | what the guest's interface counts: a large segment is one, whatever its length |
//! | retransmits | segments that TCP sent again in any of the runs of a row |
//! | idle | total instructions in ten seconds of the machine's clock, in which nobody sends |

use std::fmt;
use std::io;
use std::path::Path;

use postern_abi::platform::CallPath;
use postern_lab::output;
use postern_lab::source::{self, Source};
use serde::Serialize;

use super::network::Network;
use super::samples::{Samples, SamplesError};
use crate::text_table::TextTable;

/// Ten seconds that `measure.sh` waits for.
const IDLE_PERIODS: u64 = 6;

/// What a kind of work costs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// All instructions.
    pub total_instructions: f64,
    /// Those of them in guest mode.
    pub guest_instructions: f64,
    /// VM exits.
    pub exits: f64,
    /// Interrupts of guests.
    pub interrupts: f64,
}

impl Cost {
    fn per_unit(samples: &Samples, what: &str) -> Result<Cost, SamplesError> {
        let of = |counter| samples.per_unit(what, counter);
        Ok(Cost {
            total_instructions: of("instructions")?,
            guest_instructions: of("guest")?,
            exits: of("exits")?,
            interrupts: of("kvm_irq_injections")?,
        })
    }
}

/// What a network costs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// What joins the guests.
    pub network: Network,
    /// A round trip of an ICMP message of 64 bytes.
    pub round_trip: Cost,
    /// A byte of TCP, sent by iperf3 in segments as large as both sides agree to.
    pub tcp_byte: Cost,
    /// Packets of TCP a byte, both ways.
    pub tcp_packets_per_byte: f64,
    /// VM exits a packet of TCP.
    pub tcp_exits_per_packet: f64,
    /// Those of them that no timer causes.
    pub tcp_exits_per_packet_beyond_timers: f64,
    /// Segments that were sent again.
    pub tcp_retransmits: u64,
    /// A GET of redis.
    pub request: Cost,
    /// Instructions of ten idle seconds.
    pub idle: u64,
    /// The same before the guests had a bridge to the NIC; on virtio-net equal but for chance.
    pub idle_without: u64,
    /// Exits of a round trip by reason, and what they were for; the most frequent first.
    pub exits_of_round_trip: Vec<(String, f64)>,
    /// The same of a byte of TCP.
    pub exits_of_tcp_byte: Vec<(String, f64)>,
}

impl Row {
    /// The row of a network.
    ///
    /// # Errors
    ///
    /// Something was not counted.
    pub fn new(network: Network, samples: &Samples) -> Result<Row, SamplesError> {
        Ok(Row {
            network,
            round_trip: Cost::per_unit(samples, "ping")?,
            tcp_byte: Cost::per_unit(samples, "tcp")?,
            tcp_packets_per_byte: samples.per_unit("tcp", "packets")?,
            tcp_exits_per_packet: samples.ratio("tcp", "exits", "packets")?,
            tcp_exits_per_packet_beyond_timers: samples.exits_beyond_timers("tcp")?,
            tcp_retransmits: samples.total("tcp", "retransmits")?,
            request: Cost::per_unit(samples, "get")?,
            idle: samples.alone("idle", "instructions")? / IDLE_PERIODS,
            idle_without: samples.alone("idle-without", "instructions")? / IDLE_PERIODS,
            exits_of_round_trip: samples.exits("ping")?,
            exits_of_tcp_byte: samples.exits("tcp")?,
        })
    }

    fn cells(&self, source: &str) -> Vec<String> {
        let millions = |instructions: u64| format!("{:.2}", instructions as f64 / 1e6);
        vec![
            self.network.name().to_owned(),
            format!("{:.0}", self.round_trip.total_instructions),
            format!("{:.2}", self.round_trip.exits),
            format!("{:.2}", self.round_trip.interrupts),
            format!("{:.2}", self.tcp_byte.total_instructions),
            format!("{:.3}", self.tcp_exits_per_packet),
            format!("{:.3}", self.tcp_exits_per_packet_beyond_timers),
            self.tcp_retransmits.to_string(),
            format!("{:.0}", self.request.total_instructions),
            format!("{:.2}", self.request.exits),
            millions(self.idle),
            millions(self.idle_without),
            source.to_owned(),
        ]
    }
}

/// A goal, and how far it is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Goal {
    /// What is compared.
    pub what: &'static str,
    /// The most that it may be.
    pub at_most: f64,
    /// What it is.
    pub is: f64,
}

/// Report of one demo with Linux guests.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LinuxReport {
    /// Label of all figures.
    #[serde(serialize_with = "source::serialize")]
    pub source: Source,
    /// The table.
    pub rows: Vec<Row>,
    /// The goals, of those networks that were measured.
    pub goals: Vec<Goal>,
    /// Revision of the source, with `-dirty` if it was changed.
    pub revision: String,
    /// Time that the command took, in seconds of this machine.
    pub seconds: f64,
}

impl LinuxReport {
    /// A report of these rows, with goals.
    pub fn new(rows: Vec<Row>, revision: String, seconds: f64) -> LinuxReport {
        LinuxReport {
            source: Source::Emulated,
            goals: goals(&rows),
            rows,
            revision,
            seconds,
        }
    }

    /// Writes the report as JSON to a file that appears whole or not at all.
    ///
    /// # Errors
    ///
    /// Those of the file system.
    pub fn write_json(&self, file: &Path) -> io::Result<()> {
        output::write_whole(file, |out| {
            serde_json::to_writer_pretty(&mut *out, self)?;
            writeln!(out)
        })
    }
}

fn goals(rows: &[Row]) -> Vec<Goal> {
    let row = |network| rows.iter().find(|row| row.network == network);
    let mut goals = Vec::new();
    let Some(elisa) = row(Network::Nic(CallPath::Elisa)) else {
        return goals;
    };
    let mut goal = |what, at_most, is| goals.push(Goal { what, at_most, is });
    if let Some(vhost) = row(Network::VhostNet) {
        let ratio =
            |of: fn(&Row) -> &Cost| of(elisa).total_instructions / of(vhost).total_instructions;
        goal(
            "round trip of 64 bytes, total instructions, elisa / vhost-net",
            0.9,
            ratio(|row| &row.round_trip),
        );
        goal(
            "TCP, total instructions a byte, elisa / vhost-net",
            0.8,
            ratio(|row| &row.tcp_byte),
        );
    }
    goal(
        "TCP over elisa, VM exits a packet beyond timers",
        0.05,
        elisa.tcp_exits_per_packet_beyond_timers,
    );
    goal(
        "ten idle seconds, total instructions, elisa with the bridge / without",
        1.1,
        elisa.idle as f64 / elisa.idle_without.max(1) as f64,
    );
    goals
}

impl fmt::Display for LinuxReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Programs of Debian in two VMs with Debian's kernel: ping (a round trip of 64 bytes), \
             iperf3 (TCP; a packet is what the\nguest's interface counts, such as a segment of 64 \
             KiB), redis-benchmark (GET), and ten idle seconds. All instructions:\nguests, VMMs, NIC, \
             host.\n"
        )?;
        let mut table = TextTable::new(&[
            "network",
            "ping: instr",
            "exits",
            "interrupts",
            "TCP: instr/byte",
            "exits/packet",
            "beyond timers",
            "retransmits",
            "GET: instr",
            "exits",
            "idle: M instr",
            "without bridge",
            "source",
        ]);
        for row in &self.rows {
            table.row(row.cells(self.source.name()));
        }
        writeln!(f, "{table}")?;
        if !self.goals.is_empty() {
            let mut table = TextTable::new(&["goal", "at most", "is", "source"]);
            for Goal { what, at_most, is } in &self.goals {
                let source = self.source.name().to_owned();
                table.row(vec![
                    (*what).to_owned(),
                    format!("{at_most:.2}"),
                    format!("{is:.3}"),
                    source,
                ]);
            }
            writeln!(f, "{table}")?;
        }
        writeln!(f, "Revision {}; {:.0} s", self.revision, self.seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(network: Network, instructions: f64) -> Row {
        let cost = Cost {
            total_instructions: instructions,
            guest_instructions: instructions / 2.0,
            exits: 3.0,
            interrupts: 1.0,
        };
        Row {
            network,
            round_trip: cost.clone(),
            tcp_byte: cost.clone(),
            tcp_packets_per_byte: 0.001,
            tcp_exits_per_packet: 0.2,
            tcp_exits_per_packet_beyond_timers: 0.01,
            tcp_retransmits: 2,
            request: cost,
            idle: 21_000_000,
            idle_without: 20_000_000,
            exits_of_round_trip: vec![("exit_HLT".to_owned(), 2.0)],
            exits_of_tcp_byte: Vec::new(),
        }
    }

    #[test]
    fn goals_are_of_elisa_beside_vhost_net() {
        let elisa = row(Network::Nic(CallPath::Elisa), 600.0);
        let vhost = row(Network::VhostNet, 1000.0);
        let report = LinuxReport::new(vec![elisa.clone(), vhost.clone()], "r".to_owned(), 1.0);
        let values: Vec<f64> = report.goals.iter().map(|goal| goal.is).collect();
        assert_eq!(values, [0.6, 0.6, 0.01, 1.05]);
        let text = report.to_string();
        for part in ["elisa", "vhost-net", "emulated", "21.00", "1.050"] {
            assert!(text.contains(part), "no {part} in {text}");
        }
        let alone = LinuxReport::new(vec![elisa], "r".to_owned(), 1.0);
        assert_eq!(alone.goals.len(), 2);
        assert!(
            LinuxReport::new(vec![vhost], "r".to_owned(), 1.0)
                .goals
                .is_empty()
        );
    }
}
