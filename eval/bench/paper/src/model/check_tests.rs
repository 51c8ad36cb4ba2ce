use super::*;
use crate::experiment;

fn model() -> CostModel {
    CostModel::read(experiment::root()).unwrap()
}

fn experiments() -> Vec<Experiment> {
    experiment::all(experiment::root()).unwrap()
}

/// The model is believed if it gives what was published for the one thing whose counts are known.
#[test]
fn an_empty_call_comes_out_as_published() {
    let calls = empty_calls(&model(), &experiments()).unwrap();
    let call = &calls[0];
    for (what, value) in [
        ("ratio", call.ratio),
        ("base", call.base),
        ("other", call.other),
    ] {
        assert_eq!(value.miss(), 0.0, "{what}: {value:?}");
        let off = value.projected.middle / value.published - 1.0;
        assert!(off.abs() < 0.12, "{what}: {value:?}");
    }
    // The published one is what the paper prints, 3.5, from the two times.
    assert!((call.ratio.published - 3.5).abs() < 0.1);
}

/// Requests that cross once, of which nothing went into the model but the time without crossings.
#[test]
fn the_key_value_store_comes_out_as_published() {
    let checks = curves(&model(), &experiments()).unwrap();
    for name in ["fig-05_kvs_get", "fig-06_kvs_put"] {
        let check = checks.iter().find(|check| check.experiment == name);
        let check = check.unwrap_or_else(|| panic!("{name} is not checked"));
        assert!(!check.points.is_empty(), "{name}");
        for point in &check.points {
            let ratio = point.ratio;
            assert_eq!(ratio.miss(), 0.0, "{name}, {}: {ratio:?}", point.x);
            let off = ratio.projected.middle / ratio.published - 1.0;
            assert!(off.abs() < 0.06, "{name}, {}: {ratio:?}", point.x);
        }
    }
}

#[test]
fn a_model_with_other_prices_does_not_pass() {
    let mut model = model();
    for price in [
        &mut model.constants.vmfunc,
        &mut model.constants.vmfunc_refill,
    ] {
        price.low = 1500.0;
        price.middle = 1500.0;
        price.high = 1500.0;
    }
    let call = &empty_calls(&model, &experiments()).unwrap()[0];
    assert!(call.ratio.miss() > 0.5, "{:?}", call.ratio);
    assert!(call.other.miss() < -0.5, "{:?}", call.other);
}

#[test]
fn curves_are_checked_where_the_link_is_not_the_limit() {
    let model = model();
    let head = experiment::published::HEAD;
    let mut text = String::from(head);
    for (system, rates) in [
        ("ivshmem", [10.0, 4.464]),
        ("VMCALL", [5.0, 3.0]),
        ("ELISA", [8.0, 4.464]),
    ] {
        for (x, y) in [64, 256].into_iter().zip(rates) {
            text += &format!("P,f,{system},w,{x},{y},Mpps,quoted,s\n");
        }
    }
    let mut experiment = experiments()[0].clone();
    experiment.name = "fig-02_rx_nic".to_owned();
    experiment.published = experiment::published::parse(&text).unwrap();
    let checks = curves(&model, std::slice::from_ref(&experiment)).unwrap();
    assert_eq!(checks.len(), 1);
    let [first, second] = &checks[0].points[..] else {
        panic!("{checks:?}");
    };
    assert!(!first.limited_by_link && second.limited_by_link);
    assert_eq!(first.without, 100.0);
    assert_eq!(first.base.published, 100.0);
    assert_eq!(first.other.published, 25.0);
    assert_eq!(first.ratio.published, 1.6);
    assert_eq!(checks[0].telling().count(), 1);
    assert_eq!(checks[0].worst().map(|point| point.x), Some(64.0));
    // A crossing for each packet costs 32 times what one for 32 does.
    let mut dearer = model.clone();
    for curve in &mut dearer.published.curve {
        curve.units_a_crossing = 1.0;
    }
    let once = &curves(&dearer, std::slice::from_ref(&experiment)).unwrap()[0].points[0];
    let ratio = once.base.projected.middle / first.base.projected.middle;
    assert!((ratio - 32.0).abs() < 1e-6, "{ratio}");
    // Half of the systems' values are no curve.
    experiment.published.retain(|value| value.system != "ELISA");
    let error = curves(&model, &[experiment]).unwrap_err().to_string();
    assert!(error.contains("no rates of ELISA"), "{error}");
}
