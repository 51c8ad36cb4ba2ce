//! How a VM ended and what was measured of it: a sentence for people, JSON for programs.
#![deny(unsafe_code)]

use std::fmt;

use postern_abi::ABI_VERSION;
use postern_abi::kvm::{
    ABORT_BY_DETACH, ABORT_BY_INIT, ABORT_BY_IOCTL, ABORT_BY_REVOKE, AbortExit,
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::bells::BellCounts;
use crate::event_counters::EventCounts;
use crate::measurement::{LabelledSnapshot, Snapshot};
use crate::nic::NicEnd;
use crate::status;
use crate::vcpu::VcpuEnd;

/// What ended a VM.
#[derive(Debug)]
pub enum Outcome {
    /// One of its vCPUs.
    Ended {
        /// Number of the vCPU.
        vcpu: usize,
        /// How the vCPU ended.
        end: VcpuEnd,
    },
    /// A signal to the VMM.
    Signal(i32),
}

impl Outcome {
    /// The exit status that stands for it.
    pub fn status(&self) -> u8 {
        match self {
            Outcome::Ended { end, .. } => match end {
                VcpuEnd::Guest(status) => *status,
                VcpuEnd::PowerOff => status::POWER_OFF,
                VcpuEnd::Reset => status::RESET,
                VcpuEnd::Panic => status::PANIC,
                VcpuEnd::Shutdown(_) => status::SHUTDOWN,
                VcpuEnd::AbortedCall(_) => status::ABORTED_CALL,
                VcpuEnd::Stuck(_) => status::STUCK,
                VcpuEnd::Device(_) | VcpuEnd::Stopped => status::INTERNAL,
                VcpuEnd::Kvm(_) => status::KVM,
            },
            Outcome::Signal(signal) => status::SIGNAL_BASE.saturating_add(*signal as u8),
        }
    }

    /// Whether the guest ended the VM itself.
    pub fn by_guest(&self) -> bool {
        matches!(
            self,
            Outcome::Ended {
                end: VcpuEnd::Guest(_) | VcpuEnd::PowerOff,
                ..
            }
        )
    }

    fn json(&self) -> Value {
        let kind = match self {
            Outcome::Ended { end, .. } => match end {
                VcpuEnd::Guest(_) => "guest",
                VcpuEnd::PowerOff => "power-off",
                VcpuEnd::Reset => "reset",
                VcpuEnd::Panic => "panic",
                VcpuEnd::Shutdown(_) => "shutdown",
                VcpuEnd::AbortedCall(_) => "aborted-call",
                VcpuEnd::Stuck(_) => "stuck",
                VcpuEnd::Device(_) | VcpuEnd::Stopped => "internal",
                VcpuEnd::Kvm(_) => "kvm",
            },
            Outcome::Signal(_) => "signal",
        };
        let mut value = json!({
            "kind": kind,
            "status": self.status(),
            "message": self.to_string(),
        });
        if let Outcome::Ended {
            end: VcpuEnd::AbortedCall(abort),
            ..
        } = self
        {
            value["abort"] = json!({
                "view": abort.view,
                "exit_reason": abort.exit_reason,
                "qualification": abort.qualification,
                "gpa": abort.gpa,
                "gva": abort.gva,
                "rip": abort.rip,
            });
        }
        value
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Ended { vcpu, end } => match end {
                VcpuEnd::Guest(status) => write!(f, "the guest ended with status {status}"),
                VcpuEnd::PowerOff => f.write_str("the guest switched itself off"),
                VcpuEnd::Reset => f.write_str("the guest reset itself"),
                VcpuEnd::Panic => f.write_str("the guest's kernel panicked: its console says why"),
                VcpuEnd::Shutdown(state) => {
                    write!(f, "vCPU {vcpu} shut down (triple fault) at {state}")
                }
                VcpuEnd::AbortedCall(abort) => {
                    write!(f, "vCPU {vcpu}: a call in a view was aborted: ")?;
                    show_abort(abort, f)
                }
                VcpuEnd::Stuck(reason) => write!(f, "vCPU {vcpu} cannot run on: {reason}"),
                VcpuEnd::Device(error) => write!(f, "{error}: {}", error.source),
                VcpuEnd::Kvm(error) => write!(f, "{error}: {}", error.source),
                VcpuEnd::Stopped => write!(f, "vCPU {vcpu} was stopped"),
            },
            Outcome::Signal(signal) => write!(f, "ended by signal {signal}"),
        }
    }
}

/// Exit reasons by which calls are aborted (SDM volume 3, appendix "VMX Basic Exit Reasons").
pub fn reason_name(reason: u32) -> &'static str {
    match reason {
        0 => "exception or NMI",
        2 => "triple fault",
        10 => "CPUID",
        12 => "HLT",
        18 => "VMCALL",
        28 => "control register access",
        29 => "debug register access",
        30 => "I/O instruction",
        31 => "RDMSR",
        32 => "WRMSR",
        37 => "monitor trap flag",
        48 => "EPT violation",
        49 => "EPT misconfiguration",
        59 => "VMFUNC",
        ABORT_BY_IOCTL => "a call of the VMM",
        ABORT_BY_INIT => "INIT",
        ABORT_BY_REVOKE => "the NIC's owner has taken the port back",
        ABORT_BY_DETACH => "the view was detached",
        _ => "see the SDM's list of exit reasons",
    }
}

fn show_abort(abort: &AbortExit, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(
        f,
        "view {}, exit reason {} ({}), qualification {:#x}, GPA {:#x}, GVA {:#x}, RIP {:#x}",
        abort.view,
        abort.exit_reason,
        reason_name(abort.exit_reason),
        abort.qualification,
        abort.gpa,
        abort.gva,
        abort.rip
    )
}

/// What was counted of a VM by its end.
#[derive(Clone, Debug, Serialize)]
pub struct FinalStats {
    /// KVM's statistics and the module's.
    pub statistics: Option<Snapshot>,
    /// Counters of each vCPU's thread.
    pub counters: Vec<EventCounts>,
    /// Port accesses that met no device.
    pub stray_accesses: u64,
    /// Outbox requests that were refused.
    pub outbox_refused: u64,
}

/// A VM's end.
#[derive(Debug)]
pub struct RunReport {
    /// What ended it.
    pub outcome: Outcome,
    /// What had become of its port of the NIC by then, if that was not the VM's any more.
    pub nic_end: Option<NicEnd>,
    /// What the bells of its port of the NIC have rung, if that has a doorbell.
    pub bells: Option<BellCounts>,
    /// Counters of each vCPU's thread before the vCPU first ran.
    pub start: Vec<EventCounts>,
    /// The snapshots that the guest asked for.
    pub snapshots: Vec<LabelledSnapshot>,
    /// Snapshots that it asked for and that were not kept.
    pub snapshots_dropped: u64,
    /// What was counted by the end.
    pub last: FinalStats,
}

impl RunReport {
    /// The report as a JSON object; `path` and `port` say how the VM was connected to a NIC.
    pub fn json(&self, path: Option<&str>, port: Option<u32>) -> Value {
        json!({
            "abi": ABI_VERSION,
            "path": path,
            "port": port,
            "seccomp": postern_confine::is_on(),
            "exit": self.outcome.json(),
            "nic_end": self.nic_end.as_ref().map(NicEnd::json),
            "bells": self.bells,
            "start": { "counters": self.start },
            "marks": self.snapshots,
            "marks_dropped": self.snapshots_dropped,
            "final": self.last,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vcpu::CrashRegisters;

    fn ended(end: VcpuEnd) -> Outcome {
        Outcome::Ended { vcpu: 0, end }
    }

    #[test]
    fn statuses_tell_ends_apart() {
        let outcomes = [
            ended(VcpuEnd::Guest(17)),
            ended(VcpuEnd::PowerOff),
            ended(VcpuEnd::Reset),
            ended(VcpuEnd::Panic),
            ended(VcpuEnd::Shutdown(CrashRegisters::default())),
            ended(VcpuEnd::AbortedCall(AbortExit::default())),
            ended(VcpuEnd::Stuck(String::new())),
            Outcome::Signal(15),
        ];
        assert_eq!(
            outcomes.each_ref().map(Outcome::status),
            [17, 0, 72, 71, 67, 68, 69, 143]
        );
        assert_eq!(outcomes.iter().filter(|end| end.by_guest()).count(), 2);
    }

    #[test]
    fn aborts_are_readable() {
        let abort = AbortExit {
            view: 0xcc,
            exit_reason: 48,
            qualification: 0x182,
            gpa: 0x40_0000_3000,
            gva: 0x1000_4000_3000,
            rip: 0x1000_4040_3007,
        };
        let outcome = ended(VcpuEnd::AbortedCall(abort));
        let text = outcome.to_string();
        for part in [
            "view 204",
            "EPT violation",
            "0x4000003000",
            "0x100040403007",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(outcome.json()["abort"]["gpa"], 0x40_0000_3000_u64);
    }

    #[test]
    fn the_report_has_its_parts() {
        let report = RunReport {
            outcome: ended(VcpuEnd::Guest(0)),
            nic_end: None,
            bells: None,
            start: vec![EventCounts {
                vm_exits: Some(5),
                ..EventCounts::default()
            }],
            snapshots: Vec::new(),
            snapshots_dropped: 0,
            last: FinalStats {
                statistics: None,
                counters: vec![EventCounts::default()],
                stray_accesses: 3,
                outbox_refused: 0,
            },
        };
        let json = report.json(Some("elisa"), Some(1));
        assert_eq!(json["exit"]["kind"], "guest");
        assert_eq!(json["start"]["counters"], json!([{ "vm_exits": 5 }]));
        assert_eq!(json["final"]["stray_accesses"], 3);
        assert_eq!((&json["path"], &json["port"]), (&json!("elisa"), &json!(1)));
    }
}
