use super::super::made_up::{results, traffic};
use super::*;
use crate::experiment;
use crate::quantity::Quantity;

fn findings_of(model: &CostModel) -> Vec<Finding> {
    let experiments = experiment::all(experiment::root()).unwrap();
    findings(model, &experiments, None).unwrap()
}

fn verdict(findings: &[Finding], about: &str) -> Verdict {
    let mut found = findings
        .iter()
        .filter(|finding| finding.about.contains(about));
    let (Some(one), None) = (found.next(), found.next()) else {
        panic!("{about}: {findings:?}");
    };
    one.verdict
}

#[test]
fn the_published_penalty_is_held_against_each_hypothesis() {
    let model = CostModel::read(experiment::root()).unwrap();
    let findings = findings_of(&model);
    assert_eq!(verdict(&findings, "straight lines"), Verdict::Observed);
    assert_eq!(
        verdict(&findings, "costs the same"),
        Verdict::DoesNotExplain
    );
    assert_eq!(verdict(&findings, "bursts shrink"), Verdict::DoesNotExplain);
    assert_eq!(verdict(&findings, "single bytes"), Verdict::Explains);
    assert_eq!(
        verdict(&findings, "the same loop, 8 bytes"),
        Verdict::ExplainsPart
    );
    assert_eq!(findings.len(), 4 + model.published.growth.copy.len());
}

#[test]
fn verdicts_come_from_the_data() {
    let mut model = CostModel::read(experiment::root()).unwrap();
    for copy in &mut model.published.growth.copy {
        *copy = Copy {
            instructions: 0.3125,
            strings: 0.0,
            line: None,
            ..copy.clone()
        };
    }
    // The same instructions at the same price are no growth at all.
    let factor = &mut model.constants.host_factor;
    (factor.low, factor.middle, factor.high) = (1.0, 1.0, 1.0);
    let findings = findings_of(&model);
    let copies = findings
        .iter()
        .filter(|finding| finding.about.starts_with("in the host"));
    for finding in copies {
        assert_eq!(finding.verdict, Verdict::DoesNotExplain, "{finding:?}");
        assert_eq!(finding.share.map(|share| share.high), Some(0.0));
    }
}

#[test]
fn a_straight_line_goes_through_points_on_it() {
    let line = Straight::through(&[(0.0, 1.0), (1.0, 3.0), (3.0, 7.0)]);
    assert!((line.at_zero - 1.0).abs() < 1e-9 && (line.slope - 2.0).abs() < 1e-9);
    assert!(line.distance < 1e-9);
}

#[test]
fn our_own_penalty_is_measured() {
    let model = CostModel::read(experiment::root()).unwrap();
    let experiments = experiment::all(experiment::root()).unwrap();
    let values = |total: f64| {
        [
            (Quantity::TotalInstructions, total),
            (Quantity::GuestInstructions, 100.0),
            (Quantity::VmExits, 0.0),
            (Quantity::Vmfuncs, 0.0),
        ]
    };
    let ours = |grown: f64| {
        let (small, large, none) = (values(200.0), values(200.0 + grown), values(100.0));
        let measured = results(&[
            ("exit", Some(64), traffic("exit-kernel", 64), &small),
            ("exit", Some(1472), traffic("exit-kernel", 1472), &large),
            ("none", Some(64), traffic("direct", 64), &none),
            ("none", Some(1472), traffic("direct", 1472), &none),
        ]);
        let findings = findings(&model, &experiments, Some((&measured, "exit", "none"))).unwrap();
        findings.last().unwrap().clone()
    };
    let finding = ours(0.0);
    assert!(finding.about.contains("own exit"), "{finding:?}");
    assert_eq!(finding.verdict, Verdict::DoesNotExplain);
    let finding = ours(2500.0);
    assert_eq!(finding.verdict, Verdict::Explains, "{finding:?}");
    assert!(finding.says.contains("100 instructions"), "{finding:?}");
    assert!(finding.says.contains("2600"), "{finding:?}");
}
