//! Samples of series, for legends.

use anyhow::Result;

use super::canvas;
use super::look::{Kind, Look};

/// Width and height of a sample, in pixels.
const SIZE: (u32, u32) = (44, 18);

/// Draws a line with a marker.
///
/// # Errors
///
/// Those of drawing.
pub fn sample(look: Look, kind: Kind) -> Result<String> {
    let (width, middle) = (SIZE.0 as i32, SIZE.1 as i32 / 2);
    canvas::svg(SIZE, "", |canvas| {
        canvas.curve(&[(0, middle), (width, middle)], look, kind)?;
        canvas.marker((width / 2, middle), look, kind)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_markers_are_hollow() {
        let hollow = |kind| sample(Look(0), kind).unwrap().contains("#FFFFFF");
        assert!(hollow(Kind::Published));
        assert!(!hollow(Kind::Measured) && !hollow(Kind::Projected));
    }
}
