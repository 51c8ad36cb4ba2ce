//! The cost model: prices in cycles for what was counted.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::band::Band;
use super::counts::Counts;
use super::published::Published;
use crate::bundle;

/// The model's file, from the top of the checkout.
pub const FILE: &str = "eval/bench/cost-model.toml";

/// Largest file that is read, in bytes.
const MAX_FILE_SIZE: u64 = 1 << 20;

/// A constant of the model.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Constant {
    /// Least.
    pub low: f64,
    /// Most likely.
    pub middle: f64,
    /// Most.
    pub high: f64,
    /// Unit.
    pub unit: String,
    /// A published line, or `assumed: ` and why.
    pub source: String,
}

impl Constant {
    /// Its values alone.
    pub fn band(&self) -> Band {
        let Constant {
            low, middle, high, ..
        } = *self;
        Band { low, middle, high }
    }
}

/// Number of prices.
const PRICES: usize = 9;

/// Names of the constants, in the order of [`Constants::prices`], with the units that they have.
const NAMES: [(&str, &str); PRICES] = [
    ("guest_instruction", "cycles"),
    ("host_factor", "times a guest_instruction"),
    ("vmfunc", "cycles"),
    ("vmfunc_refill", "cycles"),
    ("transition", "cycles"),
    ("user_transition", "cycles"),
    ("string_copy", "cycles"),
    ("string_byte", "cycles"),
    ("clock", "GHz"),
];

/// The constants.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Constants {
    /// Cycles of an instruction in guest mode.
    pub guest_instruction: Constant,
    /// How many times as long as one in guest mode an instruction of the host takes, whose caches are
    /// colder after an exit. The two have one processor, so they are not free of each other.
    pub host_factor: Constant,
    /// Cycles of a VMFUNC.
    pub vmfunc: Constant,
    /// Cycles that a VMFUNC costs later: translations and lines that were there before it.
    pub vmfunc_refill: Constant,
    /// Cycles that the processor takes for a VM exit and the next entry, without the instructions in
    /// between.
    pub transition: Constant,
    /// Cycles that the processor takes, besides, to leave the kernel for a VMM's process and to come
    /// back, without the instructions in between.
    pub user_transition: Constant,
    /// Cycles until a string instruction begins to copy.
    pub string_copy: Constant,
    /// Cycles of each byte that it copies.
    pub string_byte: Constant,
    /// The processor's clock, in GHz: cycles of a nanosecond.
    pub clock: Constant,
}

impl Constants {
    /// All of them, with their names.
    pub fn prices(&self) -> [(&'static str, &Constant); PRICES] {
        let constants = [
            &self.guest_instruction,
            &self.host_factor,
            &self.vmfunc,
            &self.vmfunc_refill,
            &self.transition,
            &self.user_transition,
            &self.string_copy,
            &self.string_byte,
            &self.clock,
        ];
        std::array::from_fn(|n| (NAMES[n].0, constants[n]))
    }

    fn check(&self) -> Result<()> {
        for ((name, constant), (_, unit)) in self.prices().into_iter().zip(NAMES) {
            let Constant {
                low, middle, high, ..
            } = *constant;
            ensure!(
                [low, middle, high].iter().all(|value| value.is_finite()),
                "{name}: low, middle and high are numbers"
            );
            ensure!(
                0.0 <= low && low <= middle && middle <= high,
                "{name}: {low}, {middle}, {high}: low, middle and high ascend, from 0 on"
            );
            ensure!(
                constant.unit == unit,
                "{name}: unit is {:?}, this model takes {unit:?}",
                constant.unit
            );
            ensure!(
                !constant.source.trim().is_empty(),
                "{name}: source is empty; name where the values are published, or say \"assumed: \
                 why\""
            );
        }
        // What the other costs are divided by.
        for (name, constant) in [
            ("clock", &self.clock),
            ("guest_instruction", &self.guest_instruction),
            ("host_factor", &self.host_factor),
        ] {
            ensure!(constant.low > 0.0, "{name}: low is 0");
        }
        Ok(())
    }
}

/// What each kind of [`amounts`] costs, by the constants' values: each its constant, but for the host's
/// instructions.
fn prices(values: [f64; PRICES]) -> [f64; PRICES] {
    let [guest, host_factor, ..] = values;
    let mut prices = values;
    prices[1] = guest * host_factor;
    prices
}

/// Numbers of what each price is for, in the order of [`NAMES`].
fn amounts(counts: &Counts) -> [f64; PRICES] {
    [
        counts.guest_instructions,
        counts.host_instructions,
        counts.vmfuncs,
        counts.vmfuncs,
        counts.exits,
        counts.user_exits,
        counts.string_copies,
        counts.string_bytes,
        counts.nanoseconds,
    ]
}

fn sum(amounts: &[f64; PRICES], prices: &[f64; PRICES]) -> f64 {
    let terms = amounts.iter().zip(prices);
    terms.map(|(amount, price)| amount * price).sum()
}

/// A cost model: prices, and the published values that it is checked against.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CostModel {
    /// The constants.
    pub constants: Constants,
    /// What published values consist of, as far as that is known.
    pub published: Published,
}

impl CostModel {
    /// Reads the model of a checkout.
    ///
    /// # Errors
    ///
    /// Those of [`CostModel::read_file`].
    pub fn read(root: &Path) -> Result<CostModel> {
        CostModel::read_file(&root.join(FILE))
    }

    /// Reads a model.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, or is no model: with its name, and the constant that is wrong.
    pub fn read_file(file: &Path) -> Result<CostModel> {
        CostModel::read_with_text(file).map(|(model, _)| model)
    }

    /// Reads a model, and gives its file's content, too.
    ///
    /// # Errors
    ///
    /// Those of [`CostModel::read_file`].
    pub fn read_with_text(file: &Path) -> Result<(CostModel, String)> {
        let fail = || format!("{} is no cost model", file.display());
        let data = fs::metadata(file).with_context(fail)?;
        ensure!(
            data.is_file() && data.len() <= MAX_FILE_SIZE,
            "{} is no cost model: it is no file, or has over {MAX_FILE_SIZE} bytes",
            file.display()
        );
        let text = fs::read_to_string(file).with_context(fail)?;
        let model = CostModel::parse(&text).with_context(fail)?;
        Ok((model, text))
    }

    /// The file of a model that somebody names, else that of the checkout.
    pub fn file(named: Option<&Path>) -> PathBuf {
        named.map_or_else(|| bundle::root().join(FILE), Path::to_owned)
    }

    /// Reads the content of a model's file.
    ///
    /// # Errors
    ///
    /// The first mistake.
    pub fn parse(text: &str) -> Result<CostModel> {
        let model: CostModel = toml::from_str(text)?;
        model.constants.check()?;
        model.published.check()?;
        Ok(model)
    }

    /// Cycles of a unit of work.
    pub fn cycles(&self, counts: &Counts) -> Band {
        let amounts = amounts(counts);
        let at = |value: fn(&Constant) -> f64| {
            let values = self.constants.prices().map(|(_, constant)| value(constant));
            sum(&amounts, &prices(values))
        };
        Band {
            low: at(|constant| constant.low),
            middle: at(|constant| constant.middle),
            high: at(|constant| constant.high),
        }
    }

    /// Nanoseconds of a unit of work.
    pub fn nanoseconds(&self, counts: &Counts) -> Band {
        self.sum_of_nanoseconds(&[(1.0, *counts)])
    }

    /// Nanoseconds of units of work together, each as often as its number says: -1 subtracts one. All
    /// have the same prices.
    pub fn sum_of_nanoseconds(&self, terms: &[(f64, Counts)]) -> Band {
        let mut total = [0.0; PRICES];
        for (factor, counts) in terms {
            for (sum, amount) in total.iter_mut().zip(amounts(counts)) {
                *sum += factor * amount;
            }
        }
        let nanosecond = amounts(&Counts {
            nanoseconds: 1.0,
            ..Counts::default()
        });
        self.over_all_prices(|prices| sum(&total, prices) / sum(&nanosecond, prices))
    }

    /// Millions of units of work a second, on one processor.
    pub fn rate(&self, counts: &Counts) -> Band {
        self.nanoseconds(counts).map(|time| 1000.0 / time)
    }

    /// How many times cheaper `other` is than `base`. A processor has the same prices for both: the
    /// limits are the least and the most of the quotient over all prices within theirs. Of units of work that
    /// cost nothing the quotient is not finite.
    pub fn ratio(&self, base: &Counts, other: &Counts) -> Band {
        let (base, other) = (amounts(base), amounts(other));
        self.over_all_prices(|prices| sum(&base, prices) / sum(&other, prices))
    }

    /// The value of a quotient of two sums of prices: its least and most over all constants within their
    /// limits. Such a quotient rises with each constant or falls with it, so it is least and most in
    /// corners of the space of constants.
    fn over_all_prices(&self, quotient: impl Fn(&[f64; PRICES]) -> f64) -> Band {
        let constants = self.constants.prices();
        let middle = constants.map(|(_, constant)| constant.middle);
        let mut band = Band {
            low: f64::INFINITY,
            middle: quotient(&prices(middle)),
            high: f64::NEG_INFINITY,
        };
        for corner in 0..1_u32 << PRICES {
            let values = std::array::from_fn(|n| match corner >> n & 1 {
                0 => constants[n].1.low,
                _ => constants[n].1.high,
            });
            let value = quotient(&prices(values));
            band.low = band.low.min(value);
            band.high = band.high.max(value);
        }
        band
    }

    /// Which constant matters for [`CostModel::ratio`]: each alone at its limits while the others are in
    /// their middle, the widest first. Constants that do not matter are not among them.
    pub fn tornado(&self, base: &Counts, other: &Counts) -> Vec<(&'static str, Band)> {
        let (base, other) = (amounts(base), amounts(other));
        let constants = self.constants.prices();
        let middle = constants.map(|(_, constant)| constant.middle);
        let mut bars = Vec::new();
        for (n, (name, constant)) in constants.into_iter().enumerate() {
            let bar = constant.band().map(|value| {
                let mut values = middle;
                values[n] = value;
                let prices = prices(values);
                sum(&base, &prices) / sum(&other, &prices)
            });
            if bar.width() > 1e-9 {
                bars.push((name, bar));
            }
        }
        bars.sort_by(|(_, a), (_, b)| b.width().total_cmp(&a.width()));
        bars
    }
}

#[cfg(test)]
#[path = "cost_tests.rs"]
mod tests;
