//! Repeated runs: their order, and what their values say together.

use crate::model::Band;

/// Samples that are drawn of the values for an interval.
const RESAMPLES: usize = 2000;
/// Share of the samples' medians on each side that is outside of the interval.
const TAIL: f64 = 0.025;

/// The median of some values, and the interval of 95 % that it is within: by the percentiles of the
/// medians of samples drawn from the values (Efron and Tibshirani, "An Introduction to the Bootstrap",
/// 1993, chapter 13). Equal values have equal intervals; a single value is its own. None of no values.
pub fn median(values: &[f64]) -> Option<Band> {
    let middle = middle_of(values.to_vec())?;
    let mut random = Random(values.len() as u64);
    let mut medians: Vec<f64> = (0..RESAMPLES)
        .filter_map(|_| {
            let sample = values.iter().map(|_| values[random.below(values.len())]);
            middle_of(sample.collect())
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    let at = |share: f64| medians[((medians.len() - 1) as f64 * share).round() as usize];
    Some(Band {
        low: at(TAIL),
        middle,
        high: at(1.0 - TAIL),
    })
}

/// The value in the middle, or the mean of the two there.
fn middle_of(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    Some((values[last / 2] + values[values.len() / 2]) / 2.0)
}

/// The order of `count` runs in a round of all of them: another one in each round, so that what drifts
/// with time or follows from the run before does not always meet the same run.
pub fn order(count: usize, round: u32) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    let mut random = Random(round.into());
    // (Knuth, "The Art of Computer Programming", volume 2, algorithm P.)
    for last in (1..count).rev() {
        order.swap(last, random.below(last + 1));
    }
    order
}

/// Numbers that look random and are the same each time: SplitMix64 (Steele, Lea and Flood, "Fast
/// Splittable Pseudorandom Number Generators", 2014).
struct Random(u64);

impl Random {
    /// A number below `bound`, which is not 0.
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^= word >> 31;
        ((u128::from(word) * bound as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_have_no_width() {
        for count in 1..6 {
            let band = median(&vec![27.25; count]).unwrap();
            assert_eq!((band.low, band.middle, band.high), (27.25, 27.25, 27.25));
        }
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn an_interval_holds_the_median_and_leaves_outliers_out() {
        let mut values: Vec<f64> = (0..30).map(|n| 100.0 + f64::from(n % 5)).collect();
        let without = median(&values).unwrap();
        assert_eq!(without.middle, 102.0);
        assert!(without.low < 102.0 || without.high > 102.0, "{without}");
        assert!(without.low >= 101.0 && without.high <= 103.0, "{without}");
        values.push(1e6);
        let with = median(&values).unwrap();
        assert!(with.high <= 103.0, "{with}");
        // Of two values nothing is known but that it lies between them.
        let band = median(&[1.0, 3.0]).unwrap();
        assert_eq!((band.low, band.middle, band.high), (1.0, 2.0, 3.0));
    }

    #[test]
    fn each_round_has_all_runs_in_an_order_of_its_own() {
        let (first, second) = (order(20, 0), order(20, 1));
        assert_ne!(first, second);
        assert_eq!(first, order(20, 0));
        for mut order in [first, second] {
            order.sort_unstable();
            assert_eq!(order, (0..20).collect::<Vec<_>>());
        }
        assert!(order(0, 0).is_empty());
    }
}
