//! The revision that a measurement is made of.

use std::path::Path;

use postern_lab::setup;

/// The revision of the checkout, as git names it.
pub fn revision() -> String {
    let git = |folder: &Path| {
        let output = std::process::Command::new("git")
            .arg("-C")
            .arg(folder)
            .args(["describe", "--always", "--dirty", "--abbrev=12"])
            .output()
            .ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let text = text.trim();
        (output.status.success() && !text.is_empty()).then(|| text.to_owned())
    };
    git(setup::root()).unwrap_or_else(|| "unknown".to_owned())
}
