//! The spread of measured values: median, 10th and 90th percentile.

use std::fmt;

use serde::Serialize;

/// The spread of some values.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The 10th percentile: nine tenths of the values are above it.
    pub p10: f64,
    /// The 90th percentile: nine tenths of the values are below it.
    pub p90: f64,
}

impl Spread {
    /// The spread of one value or more.
    pub fn of(mut values: Vec<f64>) -> Spread {
        values.sort_unstable_by(f64::total_cmp);
        let at = |share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
        Spread {
            median: at(0.5),
            p10: at(0.1),
            p90: at(0.9),
        }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} ({:.2} .. {:.2})", self.median, self.p10, self.p90)
    }
}
