//! A rung of the ladder: one thing that views need.
#![deny(unsafe_code)]

use serde::Serialize;

/// Whether a rung is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The host has it.
    Ok,
    /// The host has what views need, with a limit to know.
    Note,
    /// The host lacks it.
    Missing,
    /// It cannot be seen, mostly because an earlier rung is missing.
    Unknown,
}

impl State {
    /// The word for people.
    pub fn name(self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::Note => "note",
            State::Missing => "missing",
            State::Unknown => "unknown",
        }
    }

    /// Whether views work in spite of it.
    pub fn suffices(self) -> bool {
        matches!(self, State::Ok | State::Note)
    }

    pub(super) fn of(there: Option<bool>) -> State {
        match there {
            Some(true) => State::Ok,
            Some(false) => State::Missing,
            None => State::Unknown,
        }
    }
}

/// One thing that views need.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rung {
    /// Name of the rung, the same in each version.
    pub name: &'static str,
    /// Whether the host has it.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What it is needed for, or what it means.
    pub meaning: &'static str,
    /// What to do where it is not there, or limited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

pub(super) fn rung(
    name: &'static str,
    state: State,
    found: impl Into<String>,
    meaning: &'static str,
    remedy: impl Into<String>,
) -> Rung {
    Rung {
        name,
        state,
        found: found.into(),
        meaning,
        remedy: (state != State::Ok).then(|| remedy.into()),
    }
}
