//! What plots are drawn on: an SVG, with the few strokes that plots consist of.
//!
//! Text is placed by its anchor and never measured, so that no font is needed.

use anyhow::Result;
use plotters::coord::Shift;
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::IntoFont;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::look::{Kind, Look, Shape};

/// Height of letters, in pixels.
pub const LETTERS: i32 = 15;
/// What the SVG backend divides sizes of letters by.
const POINTS: f64 = 1.24;
/// Distance from a marker's middle to its edge, in pixels.
const MARKER: i32 = 5;
/// Colour of the lines behind the values.
const GRID: RGBColor = RGBColor(215, 215, 215);
/// How much of a band covers what is behind it.
const BAND: f64 = 0.13;

/// A place, in pixels from the upper left corner.
pub type Place = (i32, i32);

/// An SVG in the making.
pub struct Canvas<'a>(DrawingArea<SVGBackend<'a>, Shift>);

/// Draws an SVG of a size in pixels, to be put into HTML. `title` is read out by screen readers.
///
/// # Errors
///
/// Those of drawing.
pub fn svg(
    size: (u32, u32),
    title: &str,
    draw: impl FnOnce(&Canvas<'_>) -> Result<()>,
) -> Result<String> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        draw(&Canvas(area.clone()))?;
        area.present()?;
    }
    // It scales with the page. In HTML it needs no name space.
    let (_, content) = text.split_once(">\n").unwrap_or_default();
    let (width, height) = size;
    let role = match title {
        "" => "aria-hidden=\"true\"".to_owned(),
        title => format!("role=\"img\" aria-label=\"{}\"", escape(title)),
    };
    Ok(format!(
        "<svg viewBox=\"0 0 {width} {height}\" width=\"{width}\" {role}>\n{content}"
    ))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('"', "&quot;")
}

/// Where a text stands: the place is at its left, middle or right.
#[derive(Clone, Copy, Debug)]
pub enum Align {
    /// The place is at its left.
    Left,
    /// In its middle.
    Middle,
    /// At its right.
    Right,
}

impl Canvas<'_> {
    /// A text on a place at half of its height.
    pub fn text(&self, text: &str, place: Place, align: Align) -> Result<()> {
        let horizontal = match align {
            Align::Left => HPos::Left,
            Align::Middle => HPos::Center,
            Align::Right => HPos::Right,
        };
        let style = TextStyle::from(("sans-serif", f64::from(LETTERS) * POINTS).into_font());
        let style = style.pos(Pos::new(horizontal, VPos::Center));
        Ok(self.0.draw_text(text, &style, place)?)
    }

    /// A line of the grid.
    pub fn grid(&self, from: Place, to: Place) -> Result<()> {
        Ok(self.0.draw(&PathElement::new([from, to], GRID))?)
    }

    /// A line of the frame.
    pub fn edge(&self, from: Place, to: Place) -> Result<()> {
        Ok(self.0.draw(&PathElement::new([from, to], BLACK))?)
    }

    /// The curve of a series.
    pub fn curve(&self, places: &[Place], look: Look, kind: Kind) -> Result<()> {
        let width = match kind {
            Kind::Published => 1,
            Kind::Measured | Kind::Projected => 2,
        };
        let style = look.colour().stroke_width(width);
        match look.dash() {
            None => self.0.draw(&PathElement::new(places.to_vec(), style))?,
            Some((dash, gap)) => {
                let places = places.iter().copied();
                let element = DashedPathElement::new(places, dash, gap, style);
                self.0.draw(&element)?;
            }
        }
        Ok(())
    }

    /// The area between the lower and the upper ends of a curve's bands.
    pub fn band(&self, lower: &[Place], upper: &[Place], look: Look) -> Result<()> {
        let edge: Vec<Place> = lower.iter().chain(upper.iter().rev()).copied().collect();
        let style = look.colour().mix(BAND).filled();
        Ok(self.0.draw(&Polygon::new(edge, style))?)
    }

    /// A band at one place: a line with ends across.
    pub fn whisker(&self, from: Place, to: Place, look: Look) -> Result<()> {
        let style = look.colour().stroke_width(1);
        let across = if from.0 == to.0 { (4, 0) } else { (0, 4) };
        let mut lines = vec![[from, to]];
        for (x, y) in [from, to] {
            lines.push([(x - across.0, y - across.1), (x + across.0, y + across.1)]);
        }
        for line in lines {
            self.0.draw(&PathElement::new(line, style))?;
        }
        Ok(())
    }

    /// The marker of a point.
    pub fn marker(&self, (x, y): Place, look: Look, kind: Kind) -> Result<()> {
        let fill = match kind {
            Kind::Published => WHITE.filled(),
            Kind::Measured | Kind::Projected => look.colour().filled(),
        };
        let outline = look.colour().stroke_width(2);
        let m = MARKER;
        let mut corners = match look.shape() {
            Shape::Circle => {
                self.0.draw(&Circle::new((x, y), m, fill))?;
                self.0.draw(&Circle::new((x, y), m, outline))?;
                return Ok(());
            }
            Shape::Square => vec![
                (x - m, y - m),
                (x + m, y - m),
                (x + m, y + m),
                (x - m, y + m),
            ],
            Shape::Triangle => vec![(x - m, y + m), (x, y - m), (x + m, y + m)],
            Shape::Diamond => vec![(x - m, y), (x, y - m), (x + m, y), (x, y + m)],
            Shape::Inverted => vec![(x - m, y - m), (x + m, y - m), (x, y + m)],
        };
        self.0.draw(&Polygon::new(corners.clone(), fill))?;
        corners.push(corners[0]);
        Ok(self.0.draw(&PathElement::new(corners, outline))?)
    }

    /// A bar between two corners.
    pub fn bar(&self, from: Place, to: Place, look: Look, kind: Kind) -> Result<()> {
        let fill = match kind {
            Kind::Published => WHITE.filled(),
            Kind::Measured => look.colour().filled(),
            Kind::Projected => look.colour().mix(0.45).filled(),
        };
        self.0.draw(&Rectangle::new([from, to], fill))?;
        Ok(self.0.draw(&Rectangle::new([from, to], look.colour()))?)
    }
}
