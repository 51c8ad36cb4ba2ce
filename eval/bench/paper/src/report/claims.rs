//! Claims of the paper, and what becomes of them: `eval/experiments/claims.toml`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::points::Ours;
use super::source::{Source, State};
use crate::experiment::{Experiment, PublishedValue};
use crate::model::{Band, CostModel};
use crate::plot::{Kind, number};

/// The claims' file, from the top of the checkout.
const FILE: &str = "eval/experiments/claims.toml";

/// A claim holds where ours is this near to the published value.
const NEAR: f64 = 0.1;

/// The content of the file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// The claims; the first one is the headline.
    pub claim: Vec<Claim>,
}

/// A claim.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// What is claimed.
    pub says: String,
    /// Experiment that shows it.
    pub figure: String,
    /// Our series that it is about.
    pub series: Option<String>,
    /// Our series that that is compared with.
    pub base: Option<String>,
    /// What is compared.
    pub of: Measure,
    /// Where on the axis: at a place, or where it is most.
    #[serde(default)]
    pub at: At,
    /// The published line.
    pub published: Line,
    /// Why ours is not comparable, where it is not.
    pub not_measured: Option<String>,
}

/// How two series are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Measure {
    /// How many times cheaper.
    Ratio,
    /// By how many per cent more in the same time.
    Gain,
    /// By how many per cent less time.
    Reduction,
}

/// Place on the axis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum At {
    /// Where it is most.
    #[default]
    Most,
    /// At a place.
    #[serde(untagged)]
    Place(u32),
}

/// What finds a line of the experiment's `published.csv`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// Its system.
    pub system: String,
    /// Its place.
    pub x: String,
    /// Its unit.
    pub unit: String,
}

/// What became of a claim.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Judged {
    /// What is claimed.
    pub says: String,
    /// The published value.
    pub published: String,
    /// Ours.
    pub ours: String,
    /// Place on the axis that ours is of.
    pub place: String,
    /// Label of ours.
    pub label: String,
    /// The verdict.
    pub verdict: Verdict,
    /// The experiment that shows it, with its title.
    pub figure: String,
    /// Its title.
    pub title: String,
}

/// Verdicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Verdict {
    /// Ours is near to the published value.
    #[serde(rename = "holds")]
    Holds,
    /// Ours is less.
    #[serde(rename = "less")]
    Less,
    /// Ours is less, but the published value is within its limits.
    #[serde(rename = "less, within limits")]
    LessWithinLimits,
    /// Ours is more.
    #[serde(rename = "more")]
    More,
    /// Ours is more, but the published value is within its limits.
    #[serde(rename = "more, within limits")]
    MoreWithinLimits,
    /// There is nothing of ours to compare.
    #[serde(rename = "not measured here")]
    NotMeasured,
}

impl Claims {
    /// Reads the claims of a checkout.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, and a claim that names an experiment, a series or a published line
    /// that is not there.
    pub fn read(root: &Path, experiments: &[Experiment]) -> Result<Claims> {
        let file = root.join(FILE);
        let text =
            fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        Claims::parse(&text, experiments).with_context(|| format!("{} is wrong", file.display()))
    }

    /// Reads the file's content.
    ///
    /// # Errors
    ///
    /// The first mistake.
    pub fn parse(text: &str, experiments: &[Experiment]) -> Result<Claims> {
        let claims: Claims = toml::from_str(text)?;
        for claim in &claims.claim {
            claim
                .check(experiments)
                .with_context(|| format!("claim {:?}", claim.says))?;
        }
        Ok(claims)
    }
}

impl Claim {
    fn check(&self, experiments: &[Experiment]) -> Result<()> {
        let experiment = self.experiment(experiments)?;
        self.line(experiment)?;
        for name in [&self.series, &self.base].into_iter().flatten() {
            let mut series = experiment.definition.series.iter();
            ensure!(
                series.any(|series| series.name == *name),
                "{} has no series {name:?}",
                self.figure
            );
        }
        ensure!(
            self.not_measured.is_some() || (self.series.is_some() && self.base.is_some()),
            "it names series and base, or says in not_measured why nothing of ours compares"
        );
        Ok(())
    }

    fn experiment<'a>(&self, experiments: &'a [Experiment]) -> Result<&'a Experiment> {
        let mut all = experiments.iter();
        let found = all.find(|one| one.name == self.figure);
        found.with_context(|| format!("there is no {}", self.figure))
    }

    fn line<'a>(&self, experiment: &'a Experiment) -> Result<&'a PublishedValue> {
        let Line { system, x, unit } = &self.published;
        let mut values = experiment.published.iter();
        let found = values.find(|value| {
            value.system == *system && value.x == *x && value.unit == *unit && value.y().is_some()
        });
        found.with_context(|| {
            format!(
                "published.csv of {} has no value of {system:?} at {x:?} in {unit:?}",
                self.figure
            )
        })
    }

    /// What the first of some folders that measured it makes of it.
    ///
    /// # Errors
    ///
    /// Those of [`Claims::parse`].
    pub fn judge(
        &self,
        experiments: &[Experiment],
        sources: &[Source],
        model: &CostModel,
    ) -> Result<Judged> {
        let experiment = self.experiment(experiments)?;
        let published = self.line(experiment)?.y().unwrap_or_default();
        let mut judged = Judged {
            says: self.says.clone(),
            published: self.in_words(published),
            ours: String::new(),
            place: String::new(),
            label: String::new(),
            verdict: Verdict::NotMeasured,
            figure: self.figure.clone(),
            title: experiment.definition.title.clone(),
        };
        if let Some(why) = &self.not_measured {
            judged.ours.clone_from(why);
            return Ok(judged);
        }
        let mut why = "not run";
        for source in sources {
            let State::Results(results, _) = source.state(experiment) else {
                continue;
            };
            let label = &source.folder.run.label[..];
            let ours = Ours {
                definition: &experiment.definition,
                results: &results,
                label,
                model,
            };
            let Some((x, kind, value)) = self.value(&ours) else {
                why = "counted, but the cost model does not cover this work";
                continue;
            };
            let axis = experiment.definition.axis.as_ref();
            if let Some((x, axis)) = x.zip(axis) {
                judged.place = format!("{}: {x}", axis.name);
            }
            let mut text = self.in_words(value.middle);
            if value.low < value.high {
                let (low, high) = (self.in_words(value.low), self.in_words(value.high));
                text = format!("{text} ({low} to {high})");
            }
            let label = match kind {
                Kind::Measured => label,
                Kind::Projected | Kind::Published => "projected",
            };
            judged.ours = text;
            label.clone_into(&mut judged.label);
            judged.verdict = verdict(value, published);
            return Ok(judged);
        }
        why.clone_into(&mut judged.ours);
        Ok(judged)
    }

    /// Our value and its place.
    fn value(&self, ours: &Ours<'_>) -> Option<(Option<u32>, Kind, Band)> {
        let (series, base) = (self.series.as_deref()?, self.base.as_deref()?);
        let at = |x: Option<u32>| {
            let (kind, ratio) = ours.ratio(base, series, x)?;
            let value = match self.of {
                Measure::Ratio => ratio,
                Measure::Gain => ratio.map(|ratio| (ratio - 1.0) * 100.0),
                Measure::Reduction => ratio.map(|ratio| (1.0 - 1.0 / ratio) * 100.0),
            };
            Some((x, kind, value))
        };
        match self.at {
            At::Place(x) => at(Some(x)),
            At::Most => {
                let values = ours.definition.places(false).into_iter().filter_map(at);
                values.max_by(|(_, _, a), (_, _, b)| a.middle.total_cmp(&b.middle))
            }
        }
    }

    fn in_words(&self, value: f64) -> String {
        let sign = |sign| if value < 0.0 { "" } else { sign };
        match self.of {
            Measure::Ratio => format!("{} times", number(value)),
            Measure::Gain => format!("{}{} %", sign("+"), number(value)),
            Measure::Reduction => format!("{} % less", number(value)),
        }
    }
}

fn verdict(ours: Band, published: f64) -> Verdict {
    let difference = ours.middle - published;
    if difference.abs() <= NEAR * published.abs() {
        return Verdict::Holds;
    }
    match (difference < 0.0, ours.contains(published)) {
        (true, false) => Verdict::Less,
        (true, true) => Verdict::LessWithinLimits,
        (false, false) => Verdict::More,
        (false, true) => Verdict::MoreWithinLimits,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bundle, experiment};

    fn band(low: f64, middle: f64, high: f64) -> Band {
        Band { low, middle, high }
    }

    #[test]
    fn the_claims_of_this_checkout_name_what_is_there() {
        let root = bundle::root();
        let experiments = experiment::all(root).unwrap();
        let claims = Claims::read(root, &experiments).unwrap();
        assert_eq!(claims.claim[0].figure, "fig-04_inter_vm");
        for (old, new, part) in [
            ("fig-04_inter_vm", "fig-99", "there is no fig-99"),
            ("\"max gain\"", "\"min gain\"", "min gain"),
            ("series = \"elisa\"", "series = \"elsa\"", "elsa"),
        ] {
            let text = fs::read_to_string(root.join(FILE)).unwrap();
            assert!(text.contains(old), "{old}");
            let error = Claims::parse(&text.replace(old, new), &experiments).unwrap_err();
            assert!(format!("{error:#}").contains(part), "{error:#}");
        }
    }

    #[test]
    fn verdicts_depend_on_the_limits() {
        for (ours, expected) in [
            (band(100.0, 150.0, 200.0), Verdict::Holds),
            (band(100.0, 120.0, 200.0), Verdict::LessWithinLimits),
            (band(100.0, 120.0, 150.0), Verdict::Less),
            (band(100.0, 190.0, 200.0), Verdict::MoreWithinLimits),
            (band(170.0, 190.0, 200.0), Verdict::More),
            (band(150.0, 150.0, 150.0), Verdict::Holds),
            (band(120.0, 120.0, 120.0), Verdict::Less),
        ] {
            assert_eq!(verdict(ours, 163.0), expected, "{ours}");
        }
    }
}
