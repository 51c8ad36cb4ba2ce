//! How a VM ended, for people and for programs.

use std::fmt;

use postern_abi::ABI_VERSION;
use postern_abi::kvm::AbortExit;
use serde::Serialize;
use serde_json::{Value, json};

use crate::counters::Counts;
use crate::recorder::{Mark, Snapshot};
use crate::status;
use crate::vcpu::End;

/// What ended a VM.
#[derive(Debug)]
pub enum Outcome {
    /// One of its vCPUs.
    Ended {
        /// Which.
        vcpu: usize,
        /// How.
        end: End,
    },
    /// A signal to the VMM.
    Signal(i32),
}

impl Outcome {
    /// The exit status that stands for it.
    pub fn status(&self) -> u8 {
        match self {
            Outcome::Ended { end, .. } => match end {
                End::Guest(status) => *status,
                End::Shutdown(_) => status::SHUTDOWN,
                End::AbortedCall(_) => status::ABORTED_CALL,
                End::Stuck(_) => status::STUCK,
                End::Failed(_) | End::Stopped => status::INTERNAL,
                End::Kvm(_) => status::KVM,
            },
            Outcome::Signal(signal) => status::SIGNAL_BASE.saturating_add(*signal as u8),
        }
    }

    /// Whether the guest ended the VM itself.
    pub fn by_guest(&self) -> bool {
        matches!(
            self,
            Outcome::Ended {
                end: End::Guest(_),
                ..
            }
        )
    }

    fn json(&self) -> Value {
        let kind = match self {
            Outcome::Ended { end, .. } => match end {
                End::Guest(_) => "guest",
                End::Shutdown(_) => "shutdown",
                End::AbortedCall(_) => "aborted-call",
                End::Stuck(_) => "stuck",
                End::Failed(_) | End::Stopped => "internal",
                End::Kvm(_) => "kvm",
            },
            Outcome::Signal(_) => "signal",
        };
        let mut value = json!({
            "kind": kind,
            "status": self.status(),
            "message": self.to_string(),
        });
        if let Outcome::Ended {
            end: End::AbortedCall(abort),
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
                End::Guest(status) => write!(f, "the guest ended with status {status}"),
                End::Shutdown(state) => {
                    write!(f, "vCPU {vcpu} shut down (triple fault) at {state}")
                }
                End::AbortedCall(abort) => {
                    write!(f, "vCPU {vcpu}: a call in a view was aborted: ")?;
                    show_abort(abort, f)
                }
                End::Stuck(reason) => write!(f, "vCPU {vcpu} cannot run on: {reason}"),
                End::Failed(failure) => write!(f, "{failure}: {}", failure.source),
                End::Kvm(error) => write!(f, "{error}: {}", error.source),
                End::Stopped => write!(f, "vCPU {vcpu} was stopped"),
            },
            Outcome::Signal(signal) => write!(f, "ended by signal {signal}"),
        }
    }
}

/// Exit reasons by which calls are aborted (SDM volume 3, appendix "VMX Basic Exit Reasons").
fn reason_name(reason: u32) -> &'static str {
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

/// What is known of a VM at its end.
#[derive(Clone, Debug, Serialize)]
pub struct Final {
    /// KVM's statistics and the module's.
    pub statistics: Option<Snapshot>,
    /// Counters of each vCPU's thread.
    pub counters: Vec<Counts>,
    /// Port accesses that met no device.
    pub stray_accesses: u64,
    /// Outbox requests that were refused.
    pub outbox_refused: u64,
}

/// A VM's end.
#[derive(Debug)]
pub struct Report {
    /// What ended it.
    pub outcome: Outcome,
    /// The guest's marks.
    pub marks: Vec<Mark>,
    /// Marks that were not kept.
    pub marks_dropped: u64,
    /// The last state.
    pub last: Final,
}

impl Report {
    /// The report as a JSON object; `path` and `port` say how the VM was connected to a NIC.
    pub fn json(&self, path: Option<&str>, port: Option<u32>) -> Value {
        json!({
            "abi": ABI_VERSION,
            "path": path,
            "port": port,
            "exit": self.outcome.json(),
            "marks": self.marks,
            "marks_dropped": self.marks_dropped,
            "final": self.last,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vcpu::State;

    fn ended(end: End) -> Outcome {
        Outcome::Ended { vcpu: 0, end }
    }

    #[test]
    fn statuses_tell_ends_apart() {
        let outcomes = [
            ended(End::Guest(17)),
            ended(End::Shutdown(State::default())),
            ended(End::AbortedCall(AbortExit::default())),
            ended(End::Stuck(String::new())),
            Outcome::Signal(15),
        ];
        assert_eq!(
            outcomes.each_ref().map(Outcome::status),
            [17, 67, 68, 69, 143]
        );
        assert_eq!(outcomes.iter().filter(|end| end.by_guest()).count(), 1);
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
        let outcome = ended(End::AbortedCall(abort));
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
        let report = Report {
            outcome: ended(End::Guest(0)),
            marks: Vec::new(),
            marks_dropped: 0,
            last: Final {
                statistics: None,
                counters: vec![Counts::default()],
                stray_accesses: 3,
                outbox_refused: 0,
            },
        };
        let json = report.json(Some("elisa"), Some(1));
        assert_eq!(json["exit"]["kind"], "guest");
        assert_eq!(json["final"]["stray_accesses"], 3);
        assert_eq!((&json["path"], &json["port"]), (&json!("elisa"), &json!(1)));
    }
}
