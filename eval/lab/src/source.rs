//! Where a figure comes from.

use serde::Serialize;

/// Origin of a measured figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The emulated machine: instruction counts are exact, there are no times.
    Emulated,
    /// The CPU of this host.
    Hardware,
}

impl Source {
    /// The label of a figure.
    pub const fn name(self) -> &'static str {
        match self {
            Source::Emulated => "emulated",
            Source::Hardware => "hardware",
        }
    }
}
