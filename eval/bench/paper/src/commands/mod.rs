//! The commands of `cargo paper`.

pub mod calibrate;
pub mod list;
pub mod merge;
pub mod model;
pub mod report;
pub mod run;

use std::io::Write;

/// Prints a line. A reader that has gone away is no failure.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}
