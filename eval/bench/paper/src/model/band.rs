//! Values that are known within limits.

use std::fmt;

use serde::Serialize;

/// A value that is known within limits: the least that it can be, what is most likely, and the most.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Band {
    /// Least.
    pub low: f64,
    /// Most likely.
    pub middle: f64,
    /// Most.
    pub high: f64,
}

impl Band {
    /// A value that is known exactly.
    pub const fn exact(value: f64) -> Band {
        Band {
            low: value,
            middle: value,
            high: value,
        }
    }

    /// All three of them by one function, which keeps or turns their order.
    pub fn map(self, function: impl Fn(f64) -> f64) -> Band {
        let (a, b) = (function(self.low), function(self.high));
        Band {
            low: a.min(b),
            middle: function(self.middle),
            high: a.max(b),
        }
    }

    /// Whether a value is within the limits.
    pub fn contains(self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }

    /// Whether a value may be the same as another one.
    pub fn overlaps(self, other: Band) -> bool {
        self.low <= other.high && other.low <= self.high
    }

    /// By how much of the nearest limit a value is outside: 0 within them, 0.1 for a value that is 10 %
    /// more than the most, -0.1 for one that is 10 % less than the least.
    pub fn miss(self, value: f64) -> f64 {
        if value > self.high {
            value / self.high - 1.0
        } else if value < self.low {
            value / self.low - 1.0
        } else {
            0.0
        }
    }

    /// The distance between the limits.
    pub fn width(self) -> f64 {
        self.high - self.low
    }
}

/// The middle, then the limits: `1.50 (1.20 to 2.10)`, with the precision of the format and its sign.
impl fmt::Display for Band {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(2);
        let Band { low, middle, high } = self;
        if f.sign_plus() {
            return write!(
                f,
                "{middle:+.digits$} ({low:+.digits$} to {high:+.digits$})"
            );
        }
        write!(f, "{middle:.digits$} ({low:.digits$} to {high:.digits$})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BAND: Band = Band {
        low: 1.0,
        middle: 2.0,
        high: 4.0,
    };

    #[test]
    fn a_miss_is_a_share_of_the_nearest_limit() {
        for (value, miss) in [(1.0, 0.0), (3.0, 0.0), (5.0, 0.25), (0.5, -0.5)] {
            assert_eq!(BAND.miss(value), miss);
            assert_eq!(BAND.contains(value), miss == 0.0);
        }
    }

    #[test]
    fn limits_stay_in_order() {
        let turned = BAND.map(|value| 1.0 / value);
        assert_eq!((turned.low, turned.middle, turned.high), (0.25, 0.5, 1.0));
        assert_eq!(BAND.width(), 3.0);
        assert_eq!(format!("{BAND:.1}"), "2.0 (1.0 to 4.0)");
        assert_eq!(format!("{BAND:+.0}"), "+2 (+1 to +4)");
    }
}
