//! Scales: from values to pixels, and the values that are written beside an axis.

use crate::experiment::Scale as Division;

/// Ratio of the largest to the smallest value from which on a scale of values is logarithmic.
const WIDE: f64 = 40.0;

/// A scale from values to pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    division: Division,
    /// Values at the ends.
    values: (f64, f64),
    /// Pixels at the ends.
    pixels: (i32, i32),
}

impl Scale {
    /// A scale for places on an axis, with a little room at its ends.
    pub fn of_axis(places: &[f64], division: Division, pixels: (i32, i32)) -> Scale {
        let (low, high) = ends(places).unwrap_or((1.0, 2.0));
        let values = match division {
            Division::Linear => {
                let room = ((high - low) * 0.04).max(high.abs() * 0.01).max(1e-9);
                (low - room, high + room)
            }
            Division::Log => {
                let (low, high) = (low.max(1e-9), high.max(1e-9));
                let room = (high / low).powf(0.04).max(1.01);
                (low / room, high * room)
            }
        };
        Scale {
            division,
            values,
            pixels,
        }
    }

    /// Whether equal steps are equal ratios.
    pub fn is_logarithmic(&self) -> bool {
        self.division == Division::Log
    }

    /// The value at the beginning.
    pub fn begin(&self) -> f64 {
        self.values.0
    }

    /// A scale for values from 0 on, or a logarithmic one where they are far apart.
    pub fn of_values(values: &[f64], pixels: (i32, i32)) -> Scale {
        let (low, high) = ends(values).unwrap_or((0.0, 1.0));
        let wide = low > 0.0 && high / low > WIDE;
        let (division, values) = match wide {
            true => {
                let power = |exponent: f64| 10f64.powf(exponent);
                (Division::Log, (power(low.log10().floor()), high * 1.3))
            }
            false => (
                Division::Linear,
                (low.min(0.0), if high > 0.0 { high * 1.08 } else { 1.0 }),
            ),
        };
        Scale {
            division,
            values,
            pixels,
        }
    }

    /// The pixel of a value.
    pub fn pixel(&self, value: f64) -> i32 {
        let (low, high) = self.values;
        let part = match self.division {
            Division::Linear => (value - low) / (high - low),
            Division::Log => (value.max(low) / low).ln() / (high / low).ln(),
        };
        let (begin, end) = (f64::from(self.pixels.0), f64::from(self.pixels.1));
        (begin + part.clamp(0.0, 1.0) * (end - begin)).round() as i32
    }

    /// Round values to write beside the axis, about five of them.
    pub fn ticks(&self) -> Vec<f64> {
        let (low, high) = self.values;
        match self.division {
            Division::Linear => {
                let raw = (high - low) / 5.0;
                let power = 10f64.powf(raw.log10().floor());
                let step = [1.0, 2.0, 2.5, 5.0, 10.0]
                    .map(|digit| digit * power)
                    .into_iter()
                    .find(|step| *step >= raw)
                    .unwrap_or(raw);
                let first = (low / step).ceil() as i64;
                let last = (high / step).floor() as i64;
                (first..=last).map(|n| n as f64 * step).collect()
            }
            Division::Log => {
                let first = low.log10().floor() as i32;
                let last = high.log10().ceil() as i32;
                let digits: &[f64] = if last - first > 3 {
                    &[1.0]
                } else {
                    &[1.0, 3.0]
                };
                (first..=last)
                    .flat_map(|power| digits.iter().map(move |digit| digit * 10f64.powi(power)))
                    .filter(|tick| (low * 0.999..=high * 1.001).contains(tick))
                    .collect()
            }
        }
    }

    /// Those places whose labels do not touch each other, `room` pixels apart: the first, the last, and
    /// what fits between them.
    pub fn apart(&self, places: &[f64], room: i32) -> Vec<f64> {
        let [first, between @ .., last] = places else {
            return places.to_vec();
        };
        let free = |a: f64, b: f64| (self.pixel(a) - self.pixel(b)).abs() >= room;
        let mut kept = vec![*first];
        for &place in between {
            if kept.last().is_some_and(|&before| free(before, place)) && free(place, *last) {
                kept.push(place);
            }
        }
        kept.push(*last);
        kept
    }
}

fn ends(values: &[f64]) -> Option<(f64, f64)> {
    let finite = values.iter().copied().filter(|value| value.is_finite());
    finite.fold(None, |ends, value| match ends {
        None => Some((value, value)),
        Some((low, high)) => Some((f64::min(low, value), f64::max(high, value))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_lie_between_the_ends() {
        let scale = Scale::of_values(&[3.0, 10.0], (300, 0));
        assert_eq!(scale.pixel(0.0), 300);
        assert!((1..30).contains(&scale.pixel(10.0)));
        assert_eq!(scale.ticks(), [0.0, 2.5, 5.0, 7.5, 10.0]);
        let scale = Scale::of_values(&[3.0, 10_000.0], (300, 0));
        assert_eq!(scale.ticks(), [1.0, 10.0, 100.0, 1000.0, 10_000.0]);
        assert!(scale.pixel(3.0) < 300 && scale.pixel(10_000.0) > 0);
    }

    #[test]
    fn steps_of_a_logarithmic_axis_are_ratios() {
        let places = [1.0, 16.0, 256.0];
        let scale = Scale::of_axis(&places, Division::Log, (0, 1000));
        let [a, b, c] = places.map(|place| scale.pixel(place));
        assert!((b - a - (c - b)).abs() <= 1, "{a} {b} {c}");
    }

    #[test]
    fn nothing_and_one_value_have_a_scale_too() {
        for values in [&[][..], &[0.0], &[5.0], &[f64::NAN]] {
            let scale = Scale::of_values(values, (100, 0));
            assert!((0..=100).contains(&scale.pixel(5.0)));
            assert!(!scale.ticks().is_empty());
            let scale = Scale::of_axis(values, Division::Linear, (0, 100));
            assert!((0..=100).contains(&scale.pixel(5.0)));
        }
    }

    #[test]
    fn labels_do_not_touch() {
        let places = [64.0, 128.0, 256.0, 512.0, 1024.0, 1472.0];
        let scale = Scale::of_axis(&places, Division::Linear, (0, 500));
        assert_eq!(
            scale.apart(&places, 40),
            [64.0, 256.0, 512.0, 1024.0, 1472.0]
        );
    }
}
