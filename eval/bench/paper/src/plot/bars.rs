//! Bars, from top to bottom.

use anyhow::Result;

use super::canvas::{self, Align, Canvas};
use super::look::{Kind, Look};
use super::number::{number, tick};
use super::scale::Scale;

/// Width, in pixels.
const WIDTH: u32 = 640;
/// Pixels that bars end at: behind them is room for a number, and for its limits.
const RIGHT: (i32, i32) = (570, 490);
/// Least and most room for names, and what a letter takes of it, roughly, in pixels.
const NAMES: (i32, i32) = (110, 350);
const LETTER: i32 = 8;
/// Height of a row, and of the bar in it, in pixels.
const ROW: i32 = 30;
const BAR: i32 = 18;
/// Room above and below the rows, in pixels.
const TOP: i32 = 8;
const BOTTOM: i32 = 58;

/// A bar.
#[derive(Clone, Debug)]
pub struct Bar {
    /// Name at its left.
    pub name: String,
    /// Looks of its series.
    pub look: Look,
    /// Where the value comes from.
    pub kind: Kind,
    /// The value.
    pub value: f64,
    /// Ends of its band, if it has one.
    pub band: Option<(f64, f64)>,
}

/// Draws bars from the top to the bottom. `title` says what they show to those who cannot see it;
/// `axis` is the name of the axis below.
///
/// # Errors
///
/// Those of drawing.
pub fn bars(title: &str, axis: &str, bars: &[Bar]) -> Result<String> {
    let height = TOP + ROW * bars.len() as i32 + BOTTOM;
    canvas::svg((WIDTH, height as u32), title, |canvas| {
        draw(axis, bars, canvas)
    })
}

fn draw(axis: &str, bars: &[Bar], canvas: &Canvas<'_>) -> Result<()> {
    let longest = bars.iter().map(|bar| bar.name.chars().count()).max();
    let left = (longest.unwrap_or(0) as i32 * LETTER + 16).clamp(NAMES.0, NAMES.1);
    let right = match bars.iter().any(|bar| bar.band.is_some()) {
        false => RIGHT.0,
        true => RIGHT.1,
    };
    let mut values = Vec::new();
    for bar in bars {
        let (low, high) = bar.band.unwrap_or((bar.value, bar.value));
        values.extend([low, high, bar.value]);
    }
    let x = Scale::of_values(&values, (left, right));
    let axis = match x.is_logarithmic() {
        true => format!("{axis} (logarithmic)"),
        false => axis.to_owned(),
    };
    let bottom = TOP + ROW * bars.len() as i32;
    for value in x.ticks() {
        let at = x.pixel(value);
        canvas.grid((at, TOP), (at, bottom + 5))?;
        canvas.text(&tick(value), (at, bottom + 17), Align::Middle)?;
    }
    canvas.text(&axis, ((left + right) / 2, bottom + 42), Align::Middle)?;
    for (n, bar) in bars.iter().enumerate() {
        let middle = TOP + ROW * n as i32 + ROW / 2;
        let (upper, lower) = (middle - BAR / 2, middle + BAR / 2);
        let end = x.pixel(bar.value);
        canvas.bar(
            (x.pixel(x.begin()), upper),
            (end, lower),
            bar.look,
            bar.kind,
        )?;
        canvas.text(&bar.name, (left - 8, middle), Align::Right)?;
        let mut behind = end;
        let mut text = number(bar.value);
        if let Some((low, high)) = bar.band.filter(|(low, high)| low < high) {
            canvas.whisker((x.pixel(low), middle), (x.pixel(high), middle), bar.look)?;
            behind = x.pixel(high);
            text = format!("{text} ({} to {})", number(low), number(high));
        }
        canvas.text(&text, (behind + 9, middle), Align::Left)?;
    }
    canvas.edge((left, TOP), (left, bottom))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_has_its_value_and_band_behind_it() {
        let bar = Bar {
            name: "elisa".into(),
            look: Look(0),
            kind: Kind::Projected,
            value: 3.5,
            band: Some((2.5, 4.5)),
        };
        let svg = bars("Calls", "times", &[bar]).unwrap();
        assert!(svg.contains("3.50 (2.50 to 4.50)"), "{svg}");
        assert!(bars("Nothing", "times", &[]).is_ok());
    }
}
