//! `postern check --self-test`: what views rely on, asked of the machine.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::machine_test::{Boot, Judge, Kvm, Test};
use crate::omit;
use postern_lab::job::{Job, JobOutcome};
use postern_lab::setup::Programs;
use postern_lab::source::Source;
use postern_lab::testbed::source;

pub(super) const TESTS: &[Test] = &[
    Test {
        name: "check --self-test",
        boot: Boot::VIEWS,
        job,
        judge: Judge::Whole(|outcome| judge(outcome, source())),
    },
    Test {
        name: "check --self-test fails where a service's entry is always valid",
        boot: Boot {
            kvm: Kvm::Weakened(omit::ARM),
            ..Boot::VIEWS
        },
        job,
        judge: Judge::Whole(finds_valid_entry),
    },
];

fn job(programs: &Programs) -> Job {
    let script = "./postern check --self-test --json > self-test.json";
    Job::new("self-test", script)
        .file("postern", &programs.postern)
        .fetch("self-test.json")
        .timeout(Duration::from_secs(600))
}

/// Status of a self-test in which something failed.
const FAILED: i32 = 1;
/// Status of a self-test that could not judge everything, and found nothing wrong.
const UNJUDGED: i32 = 2;

/// Questions that must be asked, by parts of their names, each for both rights unless it says one.
const QUESTIONS: [&str; 18] = [
    "fast: store-seen, valid, at once",
    "fast: store-seen, valid, line flushed before",
    "fast: store-seen, valid, line flushed between",
    "fast: store-seen, valid, behind stores that miss",
    "fast: store-seen, valid, contended",
    "fast: store-seen, invalid, at once",
    "fast: store-seen, invalid, line flushed before",
    "fast: store-seen, invalid, line flushed between",
    "fast: store-seen, invalid, behind stores that miss",
    "fast: store-seen, invalid, contended",
    "disarmed-not-cached",
    "stale-after-detach",
    "stale-after-revoke",
    "stale-after-disarming",
    "stale-after-mov-cr3",
    "stale-after-set-sregs",
    "stale-after-slot-change",
    "no-exits",
];

/// Whether a question may stay open on a machine of that kind.
fn may_be_open(name: &str, source: Source) -> bool {
    match source {
        // It has one processor.
        Source::Emulated => name.ends_with("contended"),
        // What the hypervisor below does is not seen.
        Source::Nested => name.ends_with("no-exits"),
        Source::Hardware => false,
    }
}

/// The self-test has seen that a service can be entered without its gate.
fn finds_valid_entry(outcome: JobOutcome) -> Result<()> {
    let json: Value = serde_json::from_slice(outcome.file("self-test.json")?)?;
    let verdict = |name: &str| {
        let judgements = json["judgements"].as_array().into_iter().flatten();
        let mut found = judgements.filter(|judgement| judgement["name"] == name);
        found.next().map(|judgement| judgement["verdict"].clone())
    };
    for right in ["fast", "strict"] {
        let name = format!("{right}: disarmed-not-cached");
        ensure!(
            verdict(&name) == Some("fail".into()),
            "{name}: {:?}",
            verdict(&name)
        );
    }
    ensure!(
        outcome.status == Some(FAILED) && json["ok"] == false,
        "status {:?}, not {FAILED}",
        outcome.status
    );
    Ok(())
}

fn judge(outcome: JobOutcome, source: Source) -> Result<()> {
    let status = outcome.status;
    let text = outcome.text();
    let printed = || format!("it printed {text:?}");
    let file = outcome.file("self-test.json").with_context(printed)?;
    let json: Value = serde_json::from_slice(file).with_context(printed)?;
    ensure!(
        json["source"] == source.name(),
        "labelled {}",
        json["source"]
    );

    let judgements = json["judgements"].as_array().context("no judgements")?;
    let mut asked = BTreeMap::new();
    for judgement in judgements {
        let name = judgement["name"].as_str().context("one without a name")?;
        let verdict = judgement["verdict"].as_str().unwrap_or_default();
        let open = verdict == "unjudged" && may_be_open(name, source);
        ensure!(
            verdict == "pass" || open,
            "{name}: {verdict}: {}",
            judgement["seen"]
        );
        asked.insert(name, verdict);
    }
    for question in QUESTIONS {
        let names = match question.contains(": ") {
            true => vec![question.to_owned()],
            false => ["fast", "strict"]
                .map(|right| format!("{right}: {question}"))
                .to_vec(),
        };
        for name in names {
            ensure!(asked.contains_key(name.as_str()), "{name} was not asked");
        }
    }
    let expected = match asked.values().any(|&verdict| verdict == "unjudged") {
        true => UNJUDGED,
        false => 0,
    };
    ensure!(
        status == Some(expected),
        "status {status:?}, not {expected}"
    );
    ensure!(json["ok"] == (expected == 0), "ok is {}", json["ok"]);
    times(&json, source)
}

/// Each time is there and labelled; in the emulated machine, where they are instructions, also in
/// the order that they must have.
fn times(json: &Value, source: Source) -> Result<()> {
    let timings = json["timings"].as_array().context("no times")?;
    let unit = match source {
        Source::Emulated => "instructions",
        _ => "tsc-cycles",
    };
    let median = |part: &str| -> Result<u64> {
        let timing = timings
            .iter()
            .find(|timing| {
                timing["name"]
                    .as_str()
                    .is_some_and(|name| name.starts_with(part))
            })
            .with_context(|| format!("no time of {part}"))?;
        ensure!(
            timing["source"] == source.name() && timing["unit"] == unit,
            "{timing} is labelled wrongly"
        );
        timing["median"].as_u64().context("a time without a median")
    };
    let [nothing, vmfunc, fast, strict, vmcall, out] = [
        "nothing",
        "fast: one VMFUNC",
        "fast: an empty call",
        "strict: an empty call",
        "VMCALL",
        "OUT",
    ]
    .map(median);
    let in_order = [nothing?, vmfunc?, fast?, strict?, vmcall?, out?];
    ensure!(
        source != Source::Emulated || in_order.is_sorted_by(|a, b| a < b),
        "times of nothing, VMFUNC, calls, VMCALL, OUT: {in_order:?}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report(source: Source) -> Value {
        let judgement = |name: String| {
            let verdict = match may_be_open(&name, source) {
                true => "unjudged",
                false => "pass",
            };
            json!({ "name": name, "verdict": verdict, "seen": "" })
        };
        let mut judgements = Vec::new();
        for question in QUESTIONS {
            match question.contains(": ") {
                true => judgements.push(judgement(question.to_owned())),
                false => judgements.extend(
                    ["fast", "strict"].map(|right| judgement(format!("{right}: {question}"))),
                ),
            }
        }
        let unit = match source {
            Source::Emulated => "instructions",
            _ => "tsc-cycles",
        };
        let names = [
            "nothing",
            "fast: one VMFUNC",
            "fast: an empty call",
            "strict: an empty call",
            "VMCALL",
            "OUT",
        ];
        let timings: Vec<Value> = (1..)
            .zip(names)
            .map(|(n, name)| {
                json!({ "name": name, "median": n, "unit": unit, "source": source.name() })
            })
            .collect();
        json!({
            "ok": source == Source::Hardware,
            "source": source.name(),
            "judgements": judgements,
            "timings": timings,
        })
    }

    fn outcome(report: &Value, status: i32) -> JobOutcome {
        let mut outcome = JobOutcome {
            status: Some(status),
            ..JobOutcome::default()
        };
        let text = report.to_string().into_bytes();
        outcome.files.insert("self-test.json".to_owned(), text);
        outcome
    }

    #[test]
    fn a_good_report_passes_on_each_kind_of_machine() {
        for (source, status) in [
            (Source::Emulated, 2),
            (Source::Nested, 2),
            (Source::Hardware, 0),
        ] {
            judge(outcome(&report(source), status), source).unwrap();
            assert!(judge(outcome(&report(source), 1), source).is_err());
            // Under another label it is no good report.
            for other in Source::ALL.into_iter().filter(|&other| other != source) {
                assert!(judge(outcome(&report(source), status), other).is_err());
            }
        }
    }

    #[test]
    fn what_fails_stays_open_or_is_not_asked_does_not_pass() {
        let good = report(Source::Emulated);
        let count = good["judgements"].as_array().unwrap().len();
        assert_eq!(count, 10 + 2 * 8);
        for n in 0..count {
            for verdict in ["fail", "unjudged"] {
                let mut bad = good.clone();
                let judgement = &mut bad["judgements"][n];
                let open = judgement["verdict"] == "unjudged";
                judgement["verdict"] = verdict.into();
                let judged = judge(outcome(&bad, 2), Source::Emulated);
                assert_eq!(judged.is_ok(), open && verdict == "unjudged", "{bad}");
            }
            let mut bad = good.clone();
            bad["judgements"].as_array_mut().unwrap().remove(n);
            assert!(judge(outcome(&bad, 2), Source::Emulated).is_err());
        }
    }

    #[test]
    fn times_that_cannot_be_do_not_pass() {
        let good = report(Source::Emulated);
        for (key, value) in [
            ("source", json!("hardware")),
            ("unit", json!("tsc-cycles")),
            ("median", json!(99)),
        ] {
            let mut bad = good.clone();
            bad["timings"][2][key] = value;
            assert!(judge(outcome(&bad, 2), Source::Emulated).is_err(), "{key}");
        }
        let mut bad = good;
        bad["timings"].as_array_mut().unwrap().pop();
        assert!(judge(outcome(&bad, 2), Source::Emulated).is_err());
    }
}
