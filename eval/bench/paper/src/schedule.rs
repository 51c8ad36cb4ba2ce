//! Which figures are run where, and how long it takes.

use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, ensure};

use crate::experiment::Experiment;
use crate::run::Options;

/// A share of all figures: one of several machines' work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Number of the share, from 1.
    pub number: u32,
    /// Number of shares.
    pub of: u32,
}

impl FromStr for Share {
    type Err = Error;

    fn from_str(text: &str) -> Result<Share> {
        let wrong = || format!("{text:?} is no share; say K/N, as 2/4");
        let (number, of) = text.split_once('/').with_context(wrong)?;
        let number = number.parse().with_context(wrong)?;
        let of = of.parse().with_context(wrong)?;
        ensure!((1..=of).contains(&number), "{}", wrong());
        Ok(Share { number, of })
    }
}

impl Share {
    /// The figures of this share, in their order. Every figure is in one share: the longest ones are
    /// dealt first, each to the share that has least to do.
    pub fn of(self, experiments: Vec<Experiment>) -> Vec<Experiment> {
        let mut order: Vec<usize> = (0..experiments.len()).collect();
        let minutes = |n: usize| experiments[n].definition.minutes;
        order.sort_by(|&a, &b| minutes(b).total_cmp(&minutes(a)));
        let mut work = vec![0.0_f64; self.of as usize];
        let mut mine = Vec::new();
        for n in order {
            let least = (0..work.len()).min_by(|&a, &b| work[a].total_cmp(&work[b]));
            let least = least.unwrap_or_default();
            // One that takes no time goes round, too.
            work[least] += minutes(n).max(0.01);
            if least + 1 == self.number as usize {
                mine.push(n);
            }
        }
        mine.sort_unstable();
        let kept = |(n, one): (usize, Experiment)| mine.contains(&n).then_some(one);
        experiments
            .into_iter()
            .enumerate()
            .filter_map(kept)
            .collect()
    }
}

/// Estimate of the time that a run takes, which learns from the figures that are done.
#[derive(Debug)]
pub struct Estimate {
    start: Instant,
    /// Minutes of figures that are done, as their definitions say.
    done: f64,
    /// Minutes of figures that are not.
    left: f64,
}

impl Estimate {
    /// Estimates the time of these figures.
    pub fn new(experiments: &[Experiment], options: &Options) -> Estimate {
        Estimate {
            start: Instant::now(),
            done: 0.0,
            left: experiments.iter().map(|one| minutes(one, options)).sum(),
        }
    }

    /// A figure is done, or need not be run.
    pub fn done(&mut self, experiment: &Experiment, options: &Options, was_run: bool) {
        let minutes = minutes(experiment, options);
        self.left = (self.left - minutes).max(0.0);
        if was_run {
            self.done += minutes;
        }
    }

    /// The time that is left, as far as it is known.
    pub fn left(&self) -> Duration {
        let taken = self.start.elapsed().as_secs_f64() / 60.0;
        let pace = match self.done > 0.0 {
            true => taken / self.done,
            false => 1.0,
        };
        Duration::from_secs_f64((self.left * pace * 60.0).max(0.0))
    }
}

/// Minutes that a figure takes in the emulated machine.
fn minutes(experiment: &Experiment, options: &Options) -> f64 {
    let definition = &experiment.definition;
    let part = definition.points(options.quick) as f64 / definition.points(false).max(1) as f64;
    definition.minutes * part * f64::from(options.repeats)
}

/// A time for people: `2 min 30 s`.
pub fn in_words(time: Duration) -> String {
    match (time.as_secs() / 60, time.as_secs() % 60) {
        (0, seconds) => format!("{seconds} s"),
        (minutes, seconds) => format!("{minutes} min {seconds:02} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bundle, experiment};

    #[test]
    fn every_figure_is_in_one_share() {
        let all = experiment::all(bundle::root()).unwrap();
        for of in 1..6 {
            let mut names: Vec<String> = (1..=of)
                .flat_map(|number| Share { number, of }.of(all.clone()))
                .map(|one| one.name)
                .collect();
            names.sort();
            let expected: Vec<_> = all.iter().map(|one| one.name.clone()).collect();
            assert_eq!(names, expected);
        }
    }

    #[test]
    fn shares_are_read_and_others_refused() {
        assert_eq!("2/4".parse::<Share>().unwrap(), Share { number: 2, of: 4 });
        for text in ["", "2", "0/4", "5/4", "a/b", "1/0", "-1/2", "1/2/3"] {
            assert!(text.parse::<Share>().is_err(), "{text}");
        }
    }

    #[test]
    fn estimates_shrink() {
        let all = experiment::all(bundle::root()).unwrap();
        let options = Options::default();
        let mut estimate = Estimate::new(&all, &options);
        let before = estimate.left();
        let thrice = Options {
            repeats: 3,
            ..options.clone()
        };
        let thrice = Estimate::new(&all, &thrice).left();
        assert!(thrice.abs_diff(before * 3) < Duration::from_millis(1));
        for one in &all {
            estimate.done(one, &options, false);
        }
        assert!(estimate.left() < before);
        assert_eq!(in_words(Duration::from_secs(150)), "2 min 30 s");
    }
}
