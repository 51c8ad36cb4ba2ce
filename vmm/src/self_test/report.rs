//! What the self-test has found: judgements and times.
#![deny(unsafe_code)]

use postern_abi::source::Source;
use serde::Serialize;

/// How a question was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// What views rely on holds.
    Pass,
    /// It does not: views are not safe, or not exit-less, on this machine.
    Fail,
    /// It could not be judged, which says nothing.
    Unjudged,
}

impl Verdict {
    /// The word for people.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Pass => "pass",
            Verdict::Fail => "FAIL",
            Verdict::Unjudged => "unjudged",
        }
    }
}

/// The answer to one question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Judgement {
    /// Name of the question, the same in each version.
    pub name: String,
    /// The answer.
    pub verdict: Verdict,
    /// What is asked.
    pub question: &'static str,
    /// What was seen, or why nothing could be.
    pub seen: String,
}

/// Unit of what the time-stamp counter counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Cycles of the time-stamp counter, which runs at one rate whatever the core's is.
    TscCycles,
    /// Instructions of the emulated machine: not a time.
    Instructions,
}

impl Unit {
    /// The unit of what is counted on such a machine.
    pub fn on(source: Source) -> Unit {
        match source {
            Source::Emulated => Unit::Instructions,
            Source::Nested | Source::Hardware => Unit::TscCycles,
        }
    }

    /// The words for people.
    pub fn name(self) -> &'static str {
        match self {
            Unit::TscCycles => "TSC cycles",
            Unit::Instructions => "instructions, not a time",
        }
    }
}

/// How long something takes, between two readings of the time-stamp counter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Timing {
    /// What was timed.
    pub name: String,
    /// The label of the figures ([`Source::name`]).
    pub source: &'static str,
    /// Their unit.
    pub unit: Unit,
    /// A tenth took no longer.
    pub p10: u32,
    /// A half took no longer.
    pub median: u32,
    /// Nine tenths took no longer.
    pub p90: u32,
    /// How often it was timed.
    pub count: usize,
}

impl Timing {
    /// The figures of these times; nothing if there are none.
    pub fn of(name: String, source: Source, mut times: Vec<u32>) -> Option<Timing> {
        times.sort_unstable();
        let at = |percent: usize| {
            times
                .get(times.len().checked_sub(1)? * percent / 100)
                .copied()
        };
        Some(Timing {
            name,
            source: source.name(),
            unit: Unit::on(source),
            p10: at(10)?,
            median: at(50)?,
            p90: at(90)?,
            count: times.len(),
        })
    }
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The label of all figures ([`Source::name`]).
    pub source: &'static str,
    /// Frequency of the time-stamp counter in kHz, where KVM tells and it is a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tsc_khz: Option<u32>,
    /// The judgements, in the order of asking.
    pub judgements: Vec<Judgement>,
    /// The times.
    pub timings: Vec<Timing>,
    /// What the times say of a hypervisor below, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub below: Option<String>,
}

/// What the medians of a VMFUNC and a VMCALL say of the hypervisor below this host.
pub fn below(vmfunc: u32, vmcall: u32) -> String {
    match vmfunc >= vmcall / 2 {
        true => format!(
            "a VMFUNC takes {vmfunc} cycles where a VMCALL takes {vmcall}: it is an exit, to the \
             hypervisor below"
        ),
        false => format!(
            "a VMFUNC takes {vmfunc} cycles where a VMCALL takes {vmcall}, so it seems to be no \
             exit; what it costs without a hypervisor below this does not say"
        ),
    }
}

impl Report {
    /// The worst of the judgements; without any, nothing was judged.
    pub fn verdict(&self) -> Verdict {
        let has = |verdict| self.judgements.iter().any(|one| one.verdict == verdict);
        match self.judgements.is_empty() {
            true => Verdict::Unjudged,
            false if has(Verdict::Fail) => Verdict::Fail,
            false if has(Verdict::Unjudged) => Verdict::Unjudged,
            false => Verdict::Pass,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(verdicts: &[Verdict]) -> Report {
        Report {
            source: "hardware",
            tsc_khz: None,
            judgements: verdicts
                .iter()
                .map(|&verdict| Judgement {
                    name: String::new(),
                    verdict,
                    question: "",
                    seen: String::new(),
                })
                .collect(),
            timings: Vec::new(),
            below: None,
        }
    }

    #[test]
    fn a_vmfunc_that_costs_an_exit_is_called_one() {
        assert!(below(30_000, 35_000).contains("it is an exit"));
        assert!(below(150, 1_500).contains("seems to be no exit"));
    }

    #[test]
    fn what_could_not_be_judged_is_never_a_pass() {
        use Verdict::{Fail, Pass, Unjudged};
        assert_eq!(report(&[Pass, Pass]).verdict(), Pass);
        assert_eq!(report(&[Pass, Unjudged, Pass]).verdict(), Unjudged);
        assert_eq!(report(&[Pass, Unjudged, Fail]).verdict(), Fail);
        assert_eq!(report(&[]).verdict(), Unjudged);
    }

    #[test]
    fn figures_of_times() {
        let times = (1..=101).rev().collect();
        let timing = Timing::of("x".to_owned(), Source::Nested, times).unwrap();
        assert_eq!((timing.p10, timing.median, timing.p90), (11, 51, 91));
        assert_eq!((timing.count, timing.source), (101, "nested"));
        let one = Timing::of(String::new(), Source::Hardware, vec![7]).unwrap();
        assert_eq!((one.p10, one.median, one.p90), (7, 7, 7));
        assert_eq!(Timing::of(String::new(), Source::Hardware, vec![]), None);
    }

    #[test]
    fn what_the_emulated_machine_counts_is_no_time() {
        assert_eq!(
            Unit::on(Source::Emulated).name(),
            "instructions, not a time"
        );
        assert_eq!(Unit::on(Source::Nested), Unit::TscCycles);
    }
}
