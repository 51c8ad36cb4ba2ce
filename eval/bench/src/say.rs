//! What the demos say, line by line.

use std::io::{Write, stdout};

/// Prints a line. A reader that has gone away is no failure of the demo.
pub(crate) fn say(text: &str) {
    let _ = writeln!(stdout(), "{text}");
}
