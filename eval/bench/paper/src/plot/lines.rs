//! Lines along an axis.

use anyhow::Result;

use super::canvas::{self, Align, Canvas, Place};
use super::look::{Kind, Look};
use super::number::tick;
use super::scale::Scale;
use crate::experiment::Scale as Division;

/// Width and height, in pixels.
const SIZE: (u32, u32) = (640, 400);
/// Pixels that the plot begins and ends at.
const LEFT: i32 = 76;
const RIGHT: i32 = 622;
const TOP: i32 = 14;
const BOTTOM: i32 = 336;
/// Room of a label at the horizontal axis, in pixels.
const LABEL: i32 = 44;
/// Distance between the bands of two curves at the same place, in pixels.
const ASIDE: i32 = 7;

/// Places that are marked on the axis; where curves have more, round ones are.
const MAX_PLACES: usize = 16;

/// A point of a curve.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Its place on the axis.
    pub x: f64,
    /// The value.
    pub y: f64,
    /// Ends of its band, if it has one.
    pub band: Option<(f64, f64)>,
}

/// A curve.
#[derive(Clone, Debug)]
pub struct Curve {
    /// Looks of its series.
    pub look: Look,
    /// Where its values come from.
    pub kind: Kind,
    /// Its points, from left to right.
    pub points: Vec<Point>,
}

/// Curves along an axis.
#[derive(Clone, Debug)]
pub struct LinePlot<'a> {
    /// What it shows, for those who cannot see it.
    pub title: &'a str,
    /// Name of the horizontal axis.
    pub x_name: &'a str,
    /// How that is divided.
    pub x_division: Division,
    /// The curves.
    pub curves: Vec<Curve>,
}

/// Draws curves along an axis.
///
/// # Errors
///
/// Those of drawing.
pub fn lines(plot: &LinePlot<'_>) -> Result<String> {
    canvas::svg(SIZE, plot.title, |canvas| draw(plot, canvas))
}

fn draw(plot: &LinePlot<'_>, canvas: &Canvas<'_>) -> Result<()> {
    let points = || plot.curves.iter().flat_map(|curve| &curve.points);
    let mut places: Vec<f64> = points().map(|point| point.x).collect();
    places.sort_by(f64::total_cmp);
    places.dedup();
    let values: Vec<f64> = points()
        .flat_map(|point| {
            let (low, high) = point.band.unwrap_or((point.y, point.y));
            [low, point.y, high]
        })
        .collect();
    let x = Scale::of_axis(&places, plot.x_division, (LEFT, RIGHT));
    let y = Scale::of_values(&values, (BOTTOM, TOP));

    for value in y.ticks() {
        let at = y.pixel(value);
        canvas.grid((LEFT, at), (RIGHT, at))?;
        canvas.text(&tick(value), (LEFT - 8, at), Align::Right)?;
    }
    if places.len() > MAX_PLACES {
        places = x.ticks();
    }
    for &place in &places {
        let at = x.pixel(place);
        canvas.edge((at, BOTTOM), (at, BOTTOM + 5))?;
    }
    for place in x.apart(&places, LABEL) {
        canvas.text(&tick(place), (x.pixel(place), BOTTOM + 18), Align::Middle)?;
    }
    if y.is_logarithmic() {
        let note = "vertical axis: logarithmic";
        canvas.text(note, (RIGHT, BOTTOM + 46), Align::Right)?;
    }
    canvas.edge((LEFT, TOP), (LEFT, BOTTOM))?;
    canvas.edge((LEFT, BOTTOM), (RIGHT, BOTTOM))?;
    canvas.text(
        plot.x_name,
        ((LEFT + RIGHT) / 2, BOTTOM + 46),
        Align::Middle,
    )?;

    let projected = plot.curves.iter();
    let projected = projected
        .filter(|curve| curve.kind == Kind::Projected)
        .count();
    let mut banded = 0;
    for curve in &plot.curves {
        // Bands of several curves would hide each other: side by side they can be told apart.
        let mut aside = 0;
        if curve.kind == Kind::Projected {
            aside = (2 * banded + 1 - projected as i32) * ASIDE / 2;
            banded += 1;
        }
        let place = |at: f64, value: f64| -> Place { (x.pixel(at) + aside, y.pixel(value)) };
        let points = curve.points.iter();
        let ends = points.filter_map(|point| Some((point.x, point.band?)));
        let ends: Vec<(Place, Place)> = ends
            .map(|(at, (low, high))| (place(at, low), place(at, high)))
            .collect();
        if projected == 1 {
            let (lower, upper): (Vec<Place>, Vec<Place>) = ends.iter().copied().unzip();
            canvas.band(&lower, &upper, curve.look)?;
        }
        for (lower, upper) in ends {
            canvas.whisker(lower, upper, curve.look)?;
        }
        let points = curve.points.iter();
        let places: Vec<Place> = points.map(|point| place(point.x, point.y)).collect();
        canvas.curve(&places, curve.look, curve.kind)?;
        for at in places {
            canvas.marker(at, curve.look, curve.kind)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(curves: Vec<Curve>) -> String {
        let plot = LinePlot {
            title: "Rate & <size>",
            x_name: "bytes",
            x_division: Division::Linear,
            curves,
        };
        lines(&plot).unwrap()
    }

    #[test]
    fn curves_have_their_kinds_looks() {
        let curve = |kind, band| Curve {
            look: Look(1),
            kind,
            points: [64.0, 1472.0].map(|x| Point { x, y: 5.0, band }).to_vec(),
        };
        let measured = plot(vec![curve(Kind::Measured, None)]);
        let published = plot(vec![curve(Kind::Published, None)]);
        let projected = plot(vec![curve(Kind::Projected, Some((4.0, 6.0)))]);
        assert!(published.contains("fill=\"#FFFFFF\"") && !measured.contains("fill=\"#FFFFFF\""));
        assert!(projected.contains("opacity=\"0.13\"") && !measured.contains("opacity=\"0.13\""));
        assert!(measured.contains("1472") && measured.contains("bytes"));
    }

    #[test]
    fn words_are_escaped_and_nothing_is_no_failure() {
        let svg = plot(Vec::new());
        assert!(svg.contains("aria-label=\"Rate &amp; &lt;size>\""), "{svg}");
        assert!(!svg.contains("http"));
    }
}
