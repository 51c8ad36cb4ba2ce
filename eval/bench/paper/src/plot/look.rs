//! What a series looks like.

use plotters::prelude::*;

/// Colours by series, of different brightness (Okabe and Ito, "Color Universal Design").
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 90, 160),
    RGBColor(200, 80, 0),
    RGBColor(0, 0, 0),
    RGBColor(0, 140, 100),
    RGBColor(170, 70, 140),
    RGBColor(120, 100, 0),
];

/// Lengths of dash and gap by series, in pixels.
const DASHES: [Option<(i32, i32)>; 5] = [
    None,
    Some((12, 5)),
    Some((3, 4)),
    Some((7, 3)),
    Some((16, 9)),
];

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Measured: counted or timed.
    Measured,
    /// Projected by the cost model.
    Projected,
    /// Published by others.
    Published,
}

/// The looks of a series: those of its number in the figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look(pub usize);

/// Shapes of markers by series; each can be filled or hollow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// ●
    Circle,
    /// ■
    Square,
    /// ▲
    Triangle,
    /// ◆
    Diamond,
    /// ▼
    Inverted,
}

impl Look {
    /// Colour of line and marker.
    pub fn colour(self) -> RGBColor {
        COLOURS[self.0 % COLOURS.len()]
    }

    /// Dash and gap of the line, in pixels; none if it has no gaps.
    pub fn dash(self) -> Option<(i32, i32)> {
        DASHES[self.0 % DASHES.len()]
    }

    /// Shape of the marker.
    pub fn shape(self) -> Shape {
        use Shape::{Circle, Diamond, Inverted, Square, Triangle};
        [Circle, Square, Triangle, Diamond, Inverted][self.0 % 5]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_of_thirty_series_look_alike_and_five_differ_without_colours() {
        let look = |n| {
            let look = Look(n);
            (look.colour(), look.dash(), look.shape() as u8)
        };
        for n in 0..30 {
            for other in 0..n {
                assert_ne!(look(n), look(other));
                if n < 5 {
                    assert_ne!(Look(n).dash(), Look(other).dash());
                    assert_ne!(Look(n).shape(), Look(other).shape());
                }
            }
        }
    }
}
