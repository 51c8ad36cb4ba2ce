use std::sync::OnceLock;

use proptest::prelude::*;

use super::*;
use crate::experiment;

fn text() -> String {
    fs::read_to_string(experiment::root().join(FILE)).unwrap()
}

fn model() -> &'static CostModel {
    static MODEL: OnceLock<CostModel> = OnceLock::new();
    MODEL.get_or_init(|| CostModel::read(experiment::root()).unwrap())
}

prop_compose! {
    fn counts()(
        a in 1.0..1e5_f64,
        b in 0.0..1e5_f64,
        c in 0.0..10.0_f64,
        d in 0.0..10.0_f64,
        e in 0.0..10.0_f64,
        f in 0.0..10.0_f64,
        g in 0.0..1e4_f64,
        h in 0.0..1e4_f64,
    ) -> Counts {
        Counts {
            guest_instructions: a,
            host_instructions: b,
            vmfuncs: c,
            exits: d,
            user_exits: e,
            string_copies: f,
            string_bytes: g,
            nanoseconds: h,
        }
    }
}

/// One more of each kind.
fn one_more(counts: &Counts) -> [Counts; 8] {
    let mut more = [*counts; 8];
    more[0].guest_instructions += 1.0;
    more[1].host_instructions += 1.0;
    more[2].vmfuncs += 1.0;
    more[3].exits += 1.0;
    more[4].user_exits += 1.0;
    more[5].string_copies += 1.0;
    more[6].string_bytes += 1.0;
    more[7].nanoseconds += 1.0;
    more
}

/// Whether two values are the same but for rounding.
fn equal(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1.0)
}

fn ordered(band: Band) -> bool {
    let slack = 1e-9 * band.high.abs();
    band.low <= band.middle + slack && band.middle <= band.high + slack
}

proptest! {
    #[test]
    fn more_of_anything_costs_more(counts in counts()) {
        let model = model();
        let (cycles, rate) = (model.cycles(&counts), model.rate(&counts));
        for more in one_more(&counts) {
            let (dearer, slower) = (model.cycles(&more), model.rate(&more));
            prop_assert!(dearer.low > cycles.low || more.vmfuncs + more.user_exits > 0.0);
            prop_assert!(dearer.low >= cycles.low);
            prop_assert!(dearer.middle > cycles.middle);
            prop_assert!(dearer.high > cycles.high);
            prop_assert!(slower.middle < rate.middle);
            let ratio = model.ratio(&more, &counts);
            prop_assert!(ratio.low >= 1.0 && ratio.middle > 1.0 && ratio.high > 1.0);
        }
    }

    #[test]
    fn bands_are_in_order(base in counts(), other in counts()) {
        let model = model();
        for band in [
            model.cycles(&base),
            model.nanoseconds(&base),
            model.rate(&base),
            model.ratio(&base, &other),
            model.sum_of_nanoseconds(&[(1.0, base), (-1.0, other)]),
        ] {
            prop_assert!(ordered(band), "{band}");
        }
        let ratio = model.ratio(&base, &other);
        for (name, bar) in model.tornado(&base, &other) {
            prop_assert!(ordered(bar), "{name}: {bar}");
            prop_assert!(ratio.low <= bar.low + 1e-9 && bar.high <= ratio.high + 1e-9, "{name}");
            prop_assert!(equal(bar.middle, ratio.middle));
        }
    }

    #[test]
    fn equal_work_has_a_ratio_of_one(counts in counts()) {
        let model = model();
        let ratio = model.ratio(&counts, &counts);
        prop_assert!([ratio.low, ratio.middle, ratio.high].iter().all(|&value| equal(value, 1.0)));
        prop_assert_eq!(model.tornado(&counts, &counts), vec![]);
    }

    #[test]
    fn a_ratio_turned_round_is_its_inverse(base in counts(), other in counts()) {
        let model = model();
        let ratio = model.ratio(&base, &other);
        let turned = model.ratio(&other, &base).map(|value| 1.0 / value);
        prop_assert!(equal(ratio.low, turned.low) && equal(ratio.high, turned.high));
    }

    #[test]
    fn no_prices_within_their_limits_give_a_ratio_outside_the_band(
        base in counts(),
        other in counts(),
        shares in prop::array::uniform9(0.0..=1.0_f64),
    ) {
        let model = model();
        let constants = model.constants.prices();
        let prices = prices(std::array::from_fn(|n| {
            let constant = constants[n].1;
            constant.low + shares[n] * (constant.high - constant.low)
        }));
        let value = sum(&amounts(&base), &prices) / sum(&amounts(&other), &prices);
        let ratio = model.ratio(&base, &other);
        prop_assert!(ratio.low <= value * (1.0 + 1e-9) && value <= ratio.high * (1.0 + 1e-9));
    }
}

#[test]
fn costs_are_sums_of_prices() {
    let model = model();
    let counts = Counts {
        exits: 2.0,
        host_instructions: 100.0,
        ..Counts::default()
    };
    let constants = &model.constants;
    let cycles = model.cycles(&counts);
    let expected = |value: fn(&Constant) -> f64| {
        let instruction = value(&constants.guest_instruction) * value(&constants.host_factor);
        2.0 * value(&constants.transition) + 100.0 * instruction
    };
    assert!(equal(cycles.low, expected(|constant| constant.low)));
    assert!(equal(cycles.middle, expected(|constant| constant.middle)));
    assert!(equal(cycles.high, expected(|constant| constant.high)));
    let clock = model.constants.clock.middle;
    assert!(equal(
        model.nanoseconds(&counts).middle,
        cycles.middle / clock
    ));
    assert!(equal(
        model.rate(&counts).middle,
        1000.0 * clock / cycles.middle
    ));
    // A nanosecond takes one, whatever the clock.
    let time = model.nanoseconds(&Counts {
        nanoseconds: 5.0,
        ..Counts::default()
    });
    assert!(equal(time.low, 5.0) && equal(time.high, 5.0));
}

#[test]
fn a_tornado_names_what_matters_the_widest_first() {
    let model = model();
    let exits = Counts {
        exits: 1.0,
        guest_instructions: 100.0,
        ..Counts::default()
    };
    let none = Counts {
        guest_instructions: 100.0,
        ..Counts::default()
    };
    let bars = model.tornado(&exits, &none);
    let names: Vec<&str> = bars.iter().map(|(name, _)| *name).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(names.contains(&"transition") && names.contains(&"guest_instruction"));
    assert!(bars[0].1.width() >= bars[1].1.width());
}

#[test]
fn mistakes_are_told() {
    let good = text();
    for (old, new, part) in [
        (
            "[constants.clock]\nlow = 2.2",
            "[constants.clock]\nlow = 9.0",
            "clock: 9, 2.6",
        ),
        (
            "[constants.clock]\nlow = 2.2",
            "[constants.clock]\nlow = 0.0",
            "clock: low is 0",
        ),
        (
            "[constants.vmfunc]\nlow = 109.0",
            "[constants.vmfunc]\nlow = -1.0",
            "vmfunc: -1",
        ),
        (
            "[constants.vmfunc]\nlow = 109.0",
            "[constants.vmfunc]\nlow = nan",
            "vmfunc: low",
        ),
        (
            "[constants.vmfunc]\nlow = 109.0",
            "[constants.vmfunc]\nlow = 'few'",
            "few",
        ),
        (
            "[constants.vmfunc]\nlow = 109.0",
            "[constants.vmfunc]",
            "missing field `low`",
        ),
        ("[constants.vmfunc]\n", "[constants.vmfank]\n", "vmfank"),
        ("unit = \"GHz\"", "unit = \"MHz\"", "clock: unit is \"MHz\""),
        (
            "units_a_crossing = 32\nlink",
            "units_a_crossing = 0\nlink",
            "units_a_crossing",
        ),
        ("usual_copy = 0.3125", "usual_copy = -1.0", "usual_copy"),
        ("strings = 1.0", "strings = 2.0", "no share"),
        ("exits = 1, guest", "exit = 1, guest", "exit"),
    ] {
        assert!(good.contains(old), "{old}");
        let error = CostModel::parse(&good.replacen(old, new, 1)).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains(part), "{new}: {error}");
    }
    let at = good.find("source = ").unwrap();
    let end = at + good[at..].find('\n').unwrap();
    let without = format!("{}source = ' '{}", &good[..at], &good[end..]);
    let error = CostModel::parse(&without).unwrap_err().to_string();
    assert!(error.contains("clock: source is empty"), "{error}");
}

#[test]
fn a_file_that_is_no_model_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("other.toml");
    for (content, part) in [(None, "other.toml"), (Some("a = 1"), "other.toml")] {
        if let Some(content) = content {
            fs::write(&file, content).unwrap();
        }
        let error = format!("{:#}", CostModel::read_file(&file).unwrap_err());
        assert!(
            error.contains(part) && error.contains("no cost model"),
            "{error}"
        );
    }
    let error = format!("{:#}", CostModel::read_file(directory.path()).unwrap_err());
    assert!(error.contains("no file"), "{error}");
}
