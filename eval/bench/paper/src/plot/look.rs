//! What a series looks like.

use anyhow::Result;
use plotters::prelude::*;

use super::canvas::{self, Canvas};

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

/// Width and height of a sample, in pixels.
const SAMPLE: (u32, u32) = (44, 18);

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

    /// A line with a marker, for a legend.
    ///
    /// # Errors
    ///
    /// Those of drawing.
    pub fn sample(self, kind: Kind) -> Result<String> {
        canvas::svg(SAMPLE, "", |canvas| self.draw_sample(kind, canvas))
    }

    fn draw_sample(self, kind: Kind, canvas: &Canvas<'_>) -> Result<()> {
        let (width, middle) = (SAMPLE.0 as i32, SAMPLE.1 as i32 / 2);
        canvas.curve(&[(0, middle), (width, middle)], self, kind)?;
        canvas.marker((width / 2, middle), self, kind)
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

    #[test]
    fn published_markers_are_hollow() {
        let sample = |kind| Look(0).sample(kind).unwrap();
        assert!(sample(Kind::Published).contains("#FFFFFF"));
        assert!(!sample(Kind::Measured).contains("#FFFFFF"));
    }
}
