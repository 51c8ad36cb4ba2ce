use super::super::made_up::{results, traffic};
use super::*;
use crate::experiment;
use crate::quantity::Quantity;

fn values(guest: f64, host: f64, exits: f64, vmfuncs: f64) -> [(Quantity, f64); 4] {
    [
        (Quantity::TotalInstructions, guest + host),
        (Quantity::GuestInstructions, guest),
        (Quantity::VmExits, exits),
        (Quantity::Vmfuncs, vmfuncs),
    ]
}

/// Results in which the path that exits does so once a packet at 64 bytes, and not at all at 1472.
fn measured() -> FigureResults {
    let (exits, free) = (
        values(200.0, 1000.0, 1.0, 0.0),
        values(200.0, 0.0, 0.0, 0.0),
    );
    let switches = values(203.0, 0.0, 0.0, 3.0);
    results(&[
        (EXITS, Some(64), traffic("exit-kernel", 64), &exits),
        (EXITS, Some(1472), traffic("exit-kernel", 1472), &free),
        (SWITCHES, Some(64), traffic("elisa", 64), &switches),
        (SWITCHES, Some(1472), traffic("elisa", 1472), &switches),
        (CROSSES_NOT, Some(64), traffic("direct", 64), &free),
        (CROSSES_NOT, Some(1472), traffic("direct", 1472), &free),
    ])
}

fn experiments() -> Vec<Experiment> {
    experiment::all(experiment::root()).unwrap()
}

fn model() -> CostModel {
    CostModel::read(experiment::root()).unwrap()
}

#[test]
fn the_headline_is_the_largest_gain_beside_the_published_one() {
    let experiments = experiments();
    let experiment = experiments
        .iter()
        .find(|one| one.name == EXPERIMENT)
        .unwrap();
    let headline = of(&model(), experiment, &measured()).unwrap();
    let (x, gain) = headline.largest().unwrap();
    assert_eq!(x, 64);
    // 1905 cycles beside 502.
    assert!((gain.middle - 279.5).abs() < 1.0, "{gain}");
    assert!(gain.low < gain.middle && gain.middle < gain.high, "{gain}");
    assert_eq!(headline.published, Some(163.0));
    let at_1472 = headline.gains[1];
    assert!(at_1472.1.high < 0.0, "{:?}", at_1472.1);
    // 2.831 and 1.071 Mpps.
    assert!((at_1472.2.unwrap() - 164.3).abs() < 0.1, "{:?}", at_1472.2);
    assert_eq!(headline.largest.0.exits, 1.0);
    let other = results(&[]);
    assert_eq!(of(&model(), experiment, &other), None);
}

#[test]
fn why_it_differs_is_computed() {
    let batches = measured();
    let findings = findings(&model(), &experiments(), &measured(), Some(&batches)).unwrap();
    let about = |part: &str| {
        let mut found = findings
            .iter()
            .filter(|finding| finding.about.contains(part));
        found
            .next()
            .unwrap_or_else(|| panic!("{part}: {findings:?}"))
    };
    // Nothing of ours crosses there.
    let says = &about("what a crossing adds").says;
    assert!(
        says.contains("at 1472 bytes exit-kernel takes 0 (0 to 0) ns") && says.contains("606"),
        "{says}"
    );
    let says = &about("shared by the frames").says;
    assert!(says.contains("is +279 ("), "{says}");
    let copy = about("a loop of single bytes");
    assert_eq!(copy.verdict, Verdict::Explains, "{copy:?}");
    // Without results of batches nothing is said of them.
    let fewer = super::findings(&model(), &experiments(), &measured(), None).unwrap();
    assert_eq!(fewer.len(), findings.len() - 1);
}
