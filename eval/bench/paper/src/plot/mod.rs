//! Plots as SVG: lines along an axis, and bars. They can be read in black and white.
//!
//! | kind of value | line, bar | marker |
//! | --- | --- | --- |
//! | measured | solid | filled |
//! | projected | with its band | filled |
//! | published | thin, outline | hollow |
//!
//! A series has a colour, a dash pattern and a shape of marker ([`look::Look`]), the same in all plots
//! of a figure. Letters are the reader's own font: nothing here needs one.

mod bars;
mod canvas;
mod legend;
mod lines;
pub mod look;
pub mod number;
mod scale;

pub use bars::{Bar, bars};
pub use legend::sample;
pub use lines::{Curve, LinePlot, Point, lines};
pub use look::{Kind, Look};
pub use number::number;
