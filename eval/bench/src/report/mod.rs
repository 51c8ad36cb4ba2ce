//! Results: what was measured on each path, as tables for people and as JSON.
//!
//! # Definitions
//!
//! | figure | is |
//! | --- | --- |
//! | total instructions | all that the CPU ran: both guests, both VMMs, the host kernel |
//! | guest instructions | those of them that ran in VMX guest mode, in whatever view |
//! | VM exits | exits of both VMs between their own marks, less the two kinds below |
//! | interrupt exits | exits that timers cause, from delivery to acknowledgement |
//! | wait exits | exits of a guest that has nothing to do (HLT) |
//! | VMFUNCs | VMFUNCs that switched to another EPT hierarchy, by the CPU or completed by KVM |
//! | per packet | divided by the packets received |
//! | ratio | total instructions of exit-kernel divided by this path's: above 1 is cheaper |
//!
//! Instructions are counted from the sender's first mark to the receiver's last. KVM completes a
//! VMFUNC during which an interrupt waits. What the marks themselves cost is measured with empty
//! pairs of marks and subtracted.

mod table;

use std::collections::BTreeMap;
use std::io;
use std::path::Path as FilePath;

use postern_abi::platform::CallPath;
use postern_lab::output;
use postern_lab::source::{self, Source};
use serde::Serialize;

use crate::call_path;
use crate::traffic::Trace;
use crate::traffic::proof::Comparison;

/// Totals of one run, before division.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Costs {
    /// VM exits, less interrupts and waits.
    pub vm_exits: u64,
    /// Exits that timers cause.
    pub interrupt_exits: u64,
    /// Exits of guests that wait.
    pub wait_exits: u64,
    /// VMFUNCs; not counted on hardware.
    pub vmfuncs: Option<u64>,
    /// Instructions in guest mode.
    pub guest_instructions: u64,
    /// All instructions.
    pub total_instructions: u64,
}

/// One row of the traffic table: one path, input and batch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrafficRow {
    /// Path on which requests reach the NIC.
    #[serde(serialize_with = "call_path::serialize")]
    pub path: CallPath,
    /// Name of the input whose frames were sent.
    pub input: String,
    /// Frames a burst.
    pub batch: u32,
    /// Frames sent.
    pub sent: usize,
    /// Frames received.
    pub received: usize,
    /// Frames that did not arrive.
    pub lost: usize,
    /// Frames that arrived out of order.
    pub reordered: usize,
    /// Frames that arrived with other bytes.
    pub altered: usize,
    /// Copies that arrived beyond those sent.
    pub duplicated: usize,
    /// Frames that arrived and were never sent.
    pub foreign: usize,
    /// Frames that the NIC dropped, by cause.
    pub dropped: BTreeMap<String, u64>,
    /// VM exits a packet, less interrupts and waits.
    pub vm_exits_per_packet: f64,
    /// Exits a packet that timers cause.
    pub interrupt_exits_per_packet: f64,
    /// Exits a packet of guests that wait.
    pub wait_exits_per_packet: f64,
    /// VMFUNCs a packet; null where they are not counted.
    pub vmfuncs_per_packet: Option<f64>,
    /// Instructions a packet in guest mode.
    pub guest_instructions_per_packet: f64,
    /// All instructions a packet.
    pub total_instructions_per_packet: f64,
    /// How many times cheaper than exit-kernel, in total instructions; null where exit-kernel did
    /// not run.
    pub ratio_to_exit_kernel: Option<f64>,
}

impl TrafficRow {
    /// The row of a run; the ratio is filled in by [`DemoReport::new`].
    pub fn new(
        path: CallPath,
        input: &str,
        batch: u32,
        comparison: &Comparison,
        dropped: BTreeMap<String, u64>,
        costs: &Costs,
    ) -> TrafficRow {
        let per_packet = |total: u64| total as f64 / comparison.received.max(1) as f64;
        TrafficRow {
            path,
            input: input.into(),
            batch,
            sent: comparison.sent,
            received: comparison.received,
            lost: comparison.lost,
            reordered: comparison.reordered,
            altered: comparison.altered,
            duplicated: comparison.duplicated,
            foreign: comparison.foreign,
            dropped,
            vm_exits_per_packet: per_packet(costs.vm_exits),
            interrupt_exits_per_packet: per_packet(costs.interrupt_exits),
            wait_exits_per_packet: per_packet(costs.wait_exits),
            vmfuncs_per_packet: costs.vmfuncs.map(per_packet),
            guest_instructions_per_packet: per_packet(costs.guest_instructions),
            total_instructions_per_packet: per_packet(costs.total_instructions),
            ratio_to_exit_kernel: None,
        }
    }

    /// Whether every frame arrived once, in order and unaltered.
    pub fn is_intact(&self) -> bool {
        [
            self.lost,
            self.reordered,
            self.altered,
            self.duplicated,
            self.foreign,
        ] == [0; 5]
            && self.sent == self.received
    }
}

/// One row of the call table: what one empty call costs on a path.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CallRow {
    /// Path on which calls reach the service.
    #[serde(serialize_with = "call_path::serialize")]
    pub path: CallPath,
    /// Calls that were made.
    pub calls: u64,
    /// Instructions a call in guest mode: enter, empty service, leave.
    pub guest_instructions: f64,
    /// All instructions a call.
    pub total_instructions: f64,
    /// VM exits a call, less interrupts.
    pub vm_exits: f64,
    /// VMFUNCs a call; null where they are not counted.
    pub vmfuncs: Option<f64>,
    /// Exits of the whole run that timers caused.
    pub interrupt_exits: u64,
    /// All other exits of the whole run.
    pub vm_exits_of_run: u64,
    /// How many times cheaper than exit-kernel, in total instructions; null where exit-kernel did
    /// not run.
    pub ratio_to_exit_kernel: Option<f64>,
}

impl CallRow {
    /// The row of a run of `calls` calls; the ratio is filled in by [`DemoReport::new`]. `costs`
    /// are those of a loop with calls less those of the same loop without.
    pub fn new(path: CallPath, calls: u64, costs: &Costs) -> CallRow {
        let per_call = |total: u64| total as f64 / calls.max(1) as f64;
        CallRow {
            path,
            calls,
            guest_instructions: per_call(costs.guest_instructions),
            total_instructions: per_call(costs.total_instructions),
            vm_exits: per_call(costs.vm_exits),
            vmfuncs: costs.vmfuncs.map(per_call),
            interrupt_exits: costs.interrupt_exits,
            vm_exits_of_run: costs.vm_exits,
            ratio_to_exit_kernel: None,
        }
    }
}

/// Circumstances of a demo: revision, machine, input.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Meta {
    /// Revision of the source, with `-dirty` if it was changed.
    pub revision: String,
    /// Version of the ABI between guest, NIC and host.
    pub abi_version: u32,
    /// The machine that ran the VMs.
    pub machine: String,
    /// The kernel that ran the VMs.
    pub kernel: String,
    /// The captured input.
    pub pcap: Pcap,
    /// Frames sent on each path.
    pub frames: usize,
    /// The NIC that they went through.
    pub rings: RingSizes,
    /// Whether VMMs and the NIC's owner were confined.
    pub seccomp: bool,
    /// Time that the command took, in seconds of this machine.
    pub seconds: f64,
}

/// Sizes of a NIC's rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RingSizes {
    /// Bytes of each TX ring.
    pub ring_bytes: u32,
    /// Bytes of each lane.
    pub lane_bytes: u32,
}

/// The captured input.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pcap {
    /// File, or how it was made.
    pub origin: String,
    /// Number of frames.
    pub frames: usize,
    /// SHA-256 over lengths and bytes of all frames.
    pub sha256: String,
    /// Number of frames of each kind, and their lengths.
    pub summary: String,
}

impl Pcap {
    /// Describes a trace that comes from `origin`.
    pub fn of(trace: &Trace, origin: &str) -> Pcap {
        Pcap {
            origin: origin.to_owned(),
            frames: trace.frames().len(),
            sha256: trace.sha256().to_owned(),
            summary: trace.summary().to_string(),
        }
    }
}

/// Report of one demo.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DemoReport {
    /// Label of all figures.
    #[serde(serialize_with = "source::serialize")]
    pub source: Source,
    /// The traffic table.
    pub traffic: Vec<TrafficRow>,
    /// The call table.
    pub calls: Vec<CallRow>,
    /// Circumstances.
    pub meta: Meta,
}

impl DemoReport {
    /// A report of these rows, with ratios.
    pub fn new(
        source: Source,
        traffic: Vec<TrafficRow>,
        calls: Vec<CallRow>,
        meta: Meta,
    ) -> DemoReport {
        let mut report = DemoReport {
            source,
            traffic,
            calls,
            meta,
        };
        for n in 0..report.traffic.len() {
            let row = &report.traffic[n];
            let base = report.traffic.iter().find(|base| {
                base.path == CallPath::ExitKernel
                    && base.input == row.input
                    && base.batch == row.batch
            });
            let ratio = base
                .map(|base| base.total_instructions_per_packet / row.total_instructions_per_packet)
                .filter(|ratio| ratio.is_finite());
            report.traffic[n].ratio_to_exit_kernel = ratio;
        }
        fill_call_ratios(&mut report.calls);
        report
    }

    /// Writes the report as JSON to a file that appears whole or not at all.
    ///
    /// # Errors
    ///
    /// Those of the file system.
    pub fn write_json(&self, file: &FilePath) -> io::Result<()> {
        output::write_whole(file, |out| {
            serde_json::to_writer_pretty(&mut *out, self)?;
            writeln!(out)
        })
    }
}

/// Fills in how many times cheaper than exit-kernel each call is.
pub fn fill_call_ratios(calls: &mut [CallRow]) {
    let mut rows = calls.iter();
    let base = rows.find(|call| call.path == CallPath::ExitKernel);
    let base = base.map(|call| call.total_instructions);
    for call in calls {
        let ratio = base.map(|base| base / call.total_instructions);
        call.ratio_to_exit_kernel = ratio.filter(|ratio| ratio.is_finite());
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
