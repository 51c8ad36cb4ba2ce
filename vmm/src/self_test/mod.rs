//! The self-test of views, `postern check --self-test`: what views rely on, asked of this machine.
//!
//! The emulated machine has no caches, runs in order and forgets all translations at each VMFUNC.
//! What the processor's manual says of those is asked here, by a small guest with services of its
//! own: a VM of one vCPU at CPL 3 (`code.rs` has the guest and the service, in assembly). It needs
//! no NIC. Each question is judged; one that cannot be is never passed.
//!
//! | file | what is in it |
//! | --- | --- |
//! | `code.rs` | what runs in the VM |
//! | `guest.rs`, `pages.rs` | the VM, and memory that it shares with this process |
//! | `service.rs` | templates, grants and attachments |
//! | `judge.rs` | the questions |
//! | `timing.rs` | times of VMFUNC, call, VMCALL, OUT |
//! | `report.rs` | what was found |
//! | `effort.rs` | how often things are tried |

mod code;
mod effort;
mod error;
mod guest;
mod judge;
mod pages;
mod report;
mod service;
mod timing;

use postern_abi::source::{Source, hypervisor_below};
use postern_kvm::{Device, Right};

use crate::event_counters;
use crate::kvm::Host;
use effort::Effort;
pub use error::Error;
use guest::Guest;
use judge::{Bench, Judged, Seen, VARIANTS};
pub use report::{Judgement, Report, Timing, Unit, Verdict};

/// Rights by which views are entered.
const ENTERING: [Right; 2] = [Right::Fast, Right::Strict];

/// A question that is asked of each right.
type Question = (&'static str, &'static str, fn(&Bench<'_>) -> Judged);

const QUESTIONS: [Question; 8] = [
    (
        "disarmed-not-cached",
        "a VMFUNC to a service exits, however often a gate has made its entry valid before",
        judge::disarmed_is_not_cached,
    ),
    (
        "stale-after-detach",
        "a service that takes the place of another reads its own pages",
        judge::nothing_stale_after_detach,
    ),
    (
        "stale-after-revoke",
        "a revoked service is not entered, and the next one reads its own pages",
        judge::nothing_stale_after_revoke,
    ),
    (
        "stale-after-disarming",
        "the same where the vCPU could enter no view in between (INVVPID)",
        judge::nothing_stale_after_disarming,
    ),
    (
        "stale-after-mov-cr3",
        "guest and service read their own pages after the guest has loaded CR3",
        judge::nothing_stale_after_guest_cr3,
    ),
    (
        "stale-after-set-sregs",
        "guest and service read their own pages after KVM_SET_SREGS has loaded CR3",
        judge::nothing_stale_after_set_sregs,
    ),
    (
        "stale-after-slot-change",
        "guest and service read their own pages after a memory slot has got other pages",
        judge::nothing_stale_after_slot_change,
    ),
    (
        "no-exits",
        "a call makes no VM exit",
        judge::calls_make_no_exit,
    ),
];

/// Something that was found.
#[derive(Clone, Copy, Debug)]
pub enum Finding<'a> {
    /// The answer to a question.
    Judgement(&'a Judgement),
    /// How long something takes.
    Timing(&'a Timing),
}

/// Runs it, and calls `tell` with each finding as it is there.
///
/// # Errors
///
/// When this host's KVM has no VMs for the VMM. What goes wrong with one question is its judgement.
pub fn run(tell: impl FnMut(Finding<'_>)) -> Result<Report, Error> {
    let host = Host::open().map_err(Error::Host)?;
    let device = Device::open().map_err(error::view("opening /dev/kvm"))?;
    let source = Source::decide(event_counters::is_emulated(), hypervisor_below());
    let effort = Effort::on(source);
    let guest = Guest::new(&host)?;
    let mut findings = Findings {
        tell,
        report: Report {
            source: source.name(),
            tsc_khz: guest.tsc_khz().filter(|_| source != Source::Emulated),
            judgements: Vec::new(),
            timings: Vec::new(),
            below: None,
        },
    };
    for right in ENTERING {
        let bench = Bench {
            host: &host,
            device: &device,
            right,
            effort,
            source,
        };
        if right == Right::Fast {
            for variant in VARIANTS {
                findings.judge(
                    format!("{right}: store-seen, valid, {}", variant.name),
                    "a VMFUNC sees the store before it that makes its entry valid",
                    judge::arm_is_seen(&bench, variant),
                );
                findings.judge(
                    format!("{right}: store-seen, invalid, {}", variant.name),
                    "a VMFUNC sees the store before it that makes its entry invalid",
                    judge::disarm_is_seen(&bench, variant),
                );
            }
        }
        for (name, question, judge) in QUESTIONS {
            findings.judge(format!("{right}: {name}"), question, judge(&bench));
        }
        findings.time(timing::with_views(&host, &device, right, source, effort));
    }
    findings.time(timing::without_views(&host, source, effort));
    let mut report = findings.report;
    if source == Source::Nested {
        let median = |name: &str| {
            let mut timings = report.timings.iter();
            timings
                .find(|timing| timing.name == name)
                .map(|timing| timing.median)
        };
        let vmfunc = median(&timing::vmfunc_name(Right::Strict));
        let both = vmfunc.zip(median(timing::VMCALL));
        report.below = both.map(|(vmfunc, vmcall)| report::below(vmfunc, vmcall));
    }
    Ok(report)
}

/// What has been found so far.
struct Findings<F> {
    tell: F,
    report: Report,
}

impl<F: FnMut(Finding<'_>)> Findings<F> {
    fn judge(&mut self, name: String, question: &'static str, result: Judged) {
        let judgement = judgement(name, question, result);
        (self.tell)(Finding::Judgement(&judgement));
        self.report.judgements.push(judgement);
    }

    /// Keeps times; what could not be timed is one more question that could not be judged.
    fn time(&mut self, taken: Result<Vec<Timing>, Error>) {
        match taken {
            Ok(timings) => {
                for timing in &timings {
                    (self.tell)(Finding::Timing(timing));
                }
                self.report.timings.extend(timings);
            }
            Err(error) => self.judge(
                "times".to_owned(),
                "VMFUNC, a call, VMCALL and OUT can be timed",
                Err(error),
            ),
        }
    }
}

fn judgement(name: String, question: &'static str, result: Judged) -> Judgement {
    let (verdict, seen) = match result {
        Ok(Seen::Well(seen)) => (Verdict::Pass, seen),
        Ok(Seen::Wrong(seen)) => (Verdict::Fail, seen),
        Ok(Seen::Nothing(why)) => (Verdict::Unjudged, why),
        Err(error) => (Verdict::Unjudged, error::in_full(&error)),
    };
    Judgement {
        name,
        verdict,
        question,
        seen,
    }
}
