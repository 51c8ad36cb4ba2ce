//! The report as text.

use std::fmt;

use super::{CallRow, DemoReport, RingSizes, TrafficRow};
use crate::text_table::TextTable;

/// A figure that may not have been counted.
fn figure(value: Option<f64>, decimals: usize) -> String {
    value.map_or("-".into(), |value| format!("{value:.decimals$}"))
}

impl TrafficRow {
    fn cells(&self, source: &str) -> Vec<String> {
        let dropped: Vec<_> = self
            .dropped
            .iter()
            .filter(|(_, count)| **count > 0)
            .map(|(cause, count)| format!("{cause} {count}"))
            .collect();
        let dropped = match &dropped[..] {
            [] => "0".into(),
            causes => causes.join(", "),
        };
        vec![
            self.path.name().into(),
            self.input.clone(),
            self.batch.to_string(),
            self.sent.to_string(),
            self.received.to_string(),
            dropped,
            figure(Some(self.vm_exits_per_packet), 3),
            figure(self.vmfuncs_per_packet, 2),
            figure(Some(self.guest_instructions_per_packet), 1),
            figure(Some(self.total_instructions_per_packet), 1),
            figure(self.ratio_to_exit_kernel, 2),
            figure(Some(self.interrupt_exits_per_packet), 3),
            figure(Some(self.wait_exits_per_packet), 3),
            source.into(),
        ]
    }
}

impl CallRow {
    fn cells(&self, source: &str) -> Vec<String> {
        vec![
            self.path.name().into(),
            self.calls.to_string(),
            figure(Some(self.guest_instructions), 2),
            figure(Some(self.total_instructions), 2),
            figure(Some(self.vm_exits), 3),
            figure(self.vmfuncs, 2),
            figure(self.ratio_to_exit_kernel, 2),
            self.interrupt_exits.to_string(),
            source.into(),
        ]
    }
}

impl fmt::Display for DemoReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = self.source.name();
        writeln!(
            f,
            "Traffic from one VM to another, per packet received. Ratio: total instructions of \
             exit-kernel / this path's,\nabove 1 is cheaper than exit-kernel. Exits for timer \
             interrupts and for waiting (HLT) are listed apart.\n"
        )?;
        let mut table = TextTable::new(&[
            "path",
            "input",
            "batch",
            "sent",
            "received",
            "dropped",
            "VM exits",
            "VMFUNCs",
            "guest instr",
            "total instr",
            "ratio",
            "irq exits",
            "wait exits",
            "source",
        ]);
        // Rows to compare stand together.
        let mut rows: Vec<_> = self.traffic.iter().collect();
        rows.sort_by_key(|row| (row.input.clone(), row.batch));
        for row in rows {
            table.row(row.cells(source));
        }
        writeln!(f, "{table}")?;
        writeln!(
            f,
            "One call of an empty service: enter, nothing, leave. Interrupt exits are those of all \
             calls together.\n"
        )?;
        let mut table = TextTable::new(&[
            "path",
            "calls",
            "guest instr",
            "total instr",
            "VM exits",
            "VMFUNCs",
            "ratio",
            "irq exits, all",
            "source",
        ]);
        for call in &self.calls {
            table.row(call.cells(source));
        }
        writeln!(f, "{table}")?;
        let meta = &self.meta;
        writeln!(
            f,
            "Input pcap: {} ({}, sha256 {})",
            meta.pcap.summary, meta.pcap.origin, meta.pcap.sha256
        )?;
        let RingSizes {
            ring_bytes,
            lane_bytes,
        } = meta.rings;
        let confined = match meta.seccomp {
            true => "confined",
            false => "not confined",
        };
        writeln!(
            f,
            "NIC: TX rings of {ring_bytes} bytes, lanes of {lane_bytes} bytes; it and VMs {confined}"
        )?;
        writeln!(f, "Machine: {}; kernel {}", meta.machine, meta.kernel)?;
        writeln!(
            f,
            "Revision {}, ABI {}; {:.1} s",
            meta.revision, meta.abi_version, meta.seconds
        )
    }
}
