//! `postern check`: the capability ladder, and the self-test of views.
#![deny(unsafe_code)]

use clap::Args as ClapArgs;
use postern_vmm::check::{self, Facts, Rung};
use postern_vmm::self_test::{self, Finding, Judgement, Timing, Verdict};
use postern_vmm::status;
use serde_json::json;

use crate::error::CommandError;
use crate::output;

/// Flags of `postern check`.
#[derive(ClapArgs)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Ask this machine what views rely on, by a small VM with views, and time them
    #[arg(long)]
    self_test: bool,
}

/// What `--help` says about the exit status.
pub const HELP: &str = "\
Exit status:
  0   views work here; a note says what is limited. With --self-test: all that was asked holds
  1   with --self-test: something that views rely on does not hold here
  2   with --self-test: something could not be judged, and nothing failed
  65  something is missing";

/// Status of a self-test in which something failed.
const FAILED: u8 = 1;
/// Status of a self-test that could not judge everything.
const UNJUDGED: u8 = 2;

/// Prints the ladder, or runs the self-test; returns the exit status.
pub fn run(args: Args) -> Result<u8, CommandError> {
    let facts = Facts::gather();
    let ladder = check::ladder(&facts);
    match args.self_test {
        true if facts.views == Some(true) => self_test(args.json),
        true => without_views(&ladder, args.json),
        false => print_ladder(&ladder, args.json),
    }
}

fn print_ladder(ladder: &[Rung], in_json: bool) -> Result<u8, CommandError> {
    let complete = check::complete(ladder);
    let text = match in_json {
        true => format!("{:#}\n", json!({ "ok": complete, "rungs": ladder })),
        false => ladder.iter().map(for_people).collect(),
    };
    output::print(&text)?;
    Ok(match complete {
        true => 0,
        false => status::KVM,
    })
}

/// What the self-test lacks, by the ladder.
fn without_views(ladder: &[Rung], in_json: bool) -> Result<u8, CommandError> {
    let lacking = ladder.iter().filter(|rung| !rung.state.suffices());
    let text = match in_json {
        true => {
            let lacking: Vec<&Rung> = lacking.collect();
            format!(
                "{:#}\n",
                json!({ "ok": false, "judgements": [], "rungs": lacking })
            )
        }
        false => {
            let lacking: String = lacking.map(for_people).collect();
            format!("nothing was tested: the loaded KVM offers no views\n{lacking}")
        }
    };
    output::print(&text)?;
    Ok(status::KVM)
}

fn self_test(in_json: bool) -> Result<u8, CommandError> {
    let mut printed = Ok(());
    let report = self_test::run(|finding| {
        if in_json || printed.is_err() {
            return;
        }
        printed = output::print(&match finding {
            Finding::Judgement(judgement) => judgement_for_people(judgement),
            Finding::Timing(timing) => timing_for_people(timing),
        });
    })
    .map_err(|error| CommandError {
        status: status::KVM,
        error: error.into(),
    })?;
    printed?;
    let verdict = report.verdict();
    if in_json {
        let mut json = json!(report);
        json["ok"] = json!(verdict == Verdict::Pass);
        output::print(&format!("{json:#}\n"))?;
    } else {
        let below = report
            .below
            .map_or(String::new(), |below| format!("{below}\n"));
        output::print(&format!("{below}{}\n", summary(verdict, report.source)))?;
    }
    Ok(match verdict {
        Verdict::Pass => 0,
        Verdict::Fail => FAILED,
        Verdict::Unjudged => UNJUDGED,
    })
}

fn summary(verdict: Verdict, source: &str) -> String {
    match verdict {
        Verdict::Pass => format!("all that was asked holds on this machine ({source})"),
        Verdict::Fail => format!(
            "something that views rely on does not hold on this machine ({source}): do not use \
             views here"
        ),
        Verdict::Unjudged => {
            format!("nothing failed on this machine ({source}), but not everything could be judged")
        }
    }
}

fn judgement_for_people(judgement: &Judgement) -> String {
    let Judgement {
        name,
        verdict,
        question,
        seen,
    } = judgement;
    match verdict {
        Verdict::Pass => format!("{:8} {name}: {seen}\n", verdict.name()),
        _ => format!("{:8} {name}: {seen} (asked: {question})\n", verdict.name()),
    }
}

fn timing_for_people(timing: &Timing) -> String {
    format!(
        "{:8} {}: median {} {}, p10 {}, p90 {}, {} times, {}\n",
        "time",
        timing.name,
        timing.median,
        timing.unit.name(),
        timing.p10,
        timing.p90,
        timing.count,
        timing.source
    )
}

fn for_people(rung: &Rung) -> String {
    let mut text = format!("{:8} {:18} {}\n", rung.state.name(), rung.name, rung.found);
    if let Some(remedy) = &rung.remedy {
        let indent = " ".repeat(28);
        text += &format!("{indent}why:    {}\n", rung.meaning);
        text += &format!("{indent}to do:  {remedy}\n");
    }
    text
}
