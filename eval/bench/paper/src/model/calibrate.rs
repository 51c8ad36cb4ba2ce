//! Constants of the cost model from measurement, where a processor with VMFUNC was measured.
//!
//! ```text
//!   times of empty calls (hardware) ------+
//!                                         +--> constants, within the times' intervals
//!   counts of the same calls (emulated) --+
//! ```
//!
//! Each path adds one kind of work to the one before, so that each gives one constant: a direct call
//! consists of instructions, one by VMFUNC of these and VMFUNCs, and so on. What no path tells apart stays
//! as it is: how much longer an instruction of the host takes than a guest's, and copies.

use anyhow::{Context, Result, ensure};

use super::band::Band;
use super::cost::Constants;
use super::counts::Counts;
use crate::quantity::Quantity;
use crate::results::FigureResults;

/// The experiment whose calls are measured and counted.
pub const EXPERIMENT: &str = "fig-01_empty_call";

/// The constants that empty calls tell, in cycles, each with its name. `times` are measured in
/// nanoseconds of a processor whose clock has `clock` GHz; `counted` are of the emulated machine.
///
/// # Errors
///
/// A path that was not measured or counted, and times that leave nothing for what they consist of.
pub fn constants(
    times: &FigureResults,
    counted: &FigureResults,
    clock: f64,
    known: &Constants,
) -> Result<[(&'static str, Band); 5]> {
    let cycles = |series: &str| {
        let time = times.band(series, None, Quantity::Nanoseconds);
        let time = time.with_context(|| format!("no time of a call by {series} was measured"))?;
        Ok::<Band, anyhow::Error>(time.map(|time| time * clock))
    };
    let counts = |series: &str| {
        let counts = Counts::of(counted, series, None);
        counts.with_context(|| format!("a call by {series} was not counted"))
    };

    let direct = counts("direct")?;
    let instruction = left(cycles("direct")?, &[], direct.guest_instructions)
        .context("a direct call has no instructions, or takes no time")?;
    let of_guest = |counts: &Counts| instruction.map(|price| price * counts.guest_instructions);

    let elisa = counts("elisa")?;
    let vmfunc = left(cycles("elisa")?, &[of_guest(&elisa)], elisa.vmfuncs)
        .context("a call by elisa takes less time than its instructions")?;

    let host = known.host_factor.band();
    let of_host = |counts: &Counts| {
        let work = counts.host_instructions;
        Band {
            low: instruction.low * host.low * work,
            middle: instruction.middle * host.middle * work,
            high: instruction.high * host.high * work,
        }
    };
    let kernel = counts("exit-kernel")?;
    let parts = [of_guest(&kernel), of_host(&kernel)];
    let transition = left(cycles("exit-kernel")?, &parts, kernel.exits)
        .context("a call by exit-kernel takes less time than its instructions")?;

    let user = counts("exit-user")?;
    let exits = transition.map(|price| price * user.exits);
    let parts = [of_guest(&user), of_host(&user), exits];
    let user_transition = left(cycles("exit-user")?, &parts, user.user_exits)
        .context("a call by exit-user takes less time than its exit and its instructions")?;

    Ok([
        ("guest_instruction", instruction),
        ("vmfunc", vmfunc),
        // What a VMFUNC costs later is in what was measured.
        ("vmfunc_refill", Band::exact(0.0)),
        ("transition", transition),
        ("user_transition", user_transition),
    ])
}

/// What is left of `whole` without its parts, for each of `number`; nothing if nothing is left.
fn left(whole: Band, parts: &[Band], number: f64) -> Result<Band> {
    let sum = |value: fn(&Band) -> f64| parts.iter().map(value).sum::<f64>();
    let band = Band {
        low: (whole.low - sum(|part| part.high)).max(0.0) / number,
        middle: (whole.middle - sum(|part| part.middle)) / number,
        high: (whole.high - sum(|part| part.low)) / number,
    };
    ensure!(
        number > 0.0 && band.middle > 0.0,
        "of {:.0} cycles {:.0} are explained already",
        whole.middle,
        sum(|part| part.middle)
    );
    Ok(band)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment;
    use crate::model::{CostModel, made_up};
    use crate::results::Value;
    use crate::workload::Workload;

    const PATHS: [&str; 4] = ["direct", "elisa", "exit-kernel", "exit-user"];

    /// What calls on the four paths consist of.
    fn counted() -> FigureResults {
        let values = |guest: f64, host: f64, vmfuncs: f64, exits: f64| {
            vec![
                (Quantity::TotalInstructions, guest + host),
                (Quantity::GuestInstructions, guest),
                (Quantity::Vmfuncs, vmfuncs),
                (Quantity::VmExits, exits),
            ]
        };
        let calls = |path: &str| -> Workload {
            toml::from_str(&format!("kind = 'calls'\npath = {path:?}\ncalls = 10")).unwrap()
        };
        let all = [
            values(4.0, 0.0, 0.0, 0.0),
            values(33.0, 0.0, 3.0, 0.0),
            values(5.0, 900.0, 0.0, 1.0),
            values(5.0, 3000.0, 0.0, 1.0),
        ];
        let points: Vec<_> = PATHS
            .into_iter()
            .zip(&all)
            .map(|(path, values)| (path, None, calls(path), &values[..]))
            .collect();
        made_up::results(&points)
    }

    /// Times of them, in ns, within `spread` on each side.
    fn times(all: [f64; 4], spread: f64) -> FigureResults {
        let mut results = counted();
        results.values = PATHS
            .into_iter()
            .zip(all)
            .map(|(series, value)| Value {
                series: series.into(),
                x: None,
                quantity: Quantity::Nanoseconds,
                value,
                low: value - spread,
                high: value + spread,
                label: "hardware".into(),
            })
            .collect();
        results
    }

    fn model() -> CostModel {
        CostModel::read(experiment::root()).unwrap()
    }

    /// A processor of known prices is found again: the model's own.
    #[test]
    fn the_prices_of_a_processor_are_found_again() {
        let known = model().constants;
        let price = |name: &str| {
            let all = known.prices();
            let (_, constant) = all.into_iter().find(|(one, _)| *one == name).unwrap();
            constant.middle
        };
        let clock = price("clock");
        let counted = counted();
        let time = |path: &str| {
            let counts = Counts::of(&counted, path, None).unwrap();
            model().cycles(&counts).middle / clock
        };
        let found = constants(&times(PATHS.map(time), 0.0), &counted, clock, &known).unwrap();
        for (name, band) in found {
            let near = (band.middle - price(name)).abs() < 1e-6 * (1.0 + price(name));
            assert!(near, "{name}: {band}");
            assert!(band.low <= band.middle && band.middle <= band.high);
        }
        let wide = constants(&times(PATHS.map(time), 0.1), &counted, clock, &known).unwrap();
        for ((_, exact), (name, wide)) in found.into_iter().zip(wide) {
            assert!(wide.high > exact.high || name == "vmfunc_refill", "{name}");
        }
    }

    #[test]
    fn times_that_do_not_add_up_are_named() {
        let known = model().constants;
        let try_times = |all| constants(&times(all, 0.0), &counted(), 2.6, &known);
        let error = try_times([1.0, 5.0, 700.0, 2000.0]).unwrap_err();
        assert!(
            format!("{error:#}").contains("by elisa takes less"),
            "{error:#}"
        );
        let mut missing = times([1.0, 150.0, 700.0, 2000.0], 0.0);
        missing.values.truncate(2);
        let error = constants(&missing, &counted(), 2.6, &known).unwrap_err();
        assert!(
            format!("{error:#}").contains("by exit-kernel was measured"),
            "{error:#}"
        );
    }
}
