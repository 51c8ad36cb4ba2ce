//! What was found out about published and measured values.

use super::band::Band;

/// What holding a hypothesis against published values gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is what the values are, not why.
    Observed,
    /// It can be the whole cause.
    Explains,
    /// It can be a part of the cause, not the whole.
    ExplainsPart,
    /// It can be no noticeable part of the cause.
    DoesNotExplain,
}

impl Verdict {
    /// The verdict in words.
    pub const fn words(self) -> &'static str {
        match self {
            Verdict::Observed => "observed",
            Verdict::Explains => "could be all of it",
            Verdict::ExplainsPart => "could be a part of it",
            Verdict::DoesNotExplain => "is not it",
        }
    }

    /// The verdict on a cause that makes up this share of what is to be explained.
    pub fn of_share(share: Band) -> Verdict {
        /// A smaller share is no noticeable part.
        const NOTICEABLE: f64 = 0.1;
        if share.contains(1.0) {
            Verdict::Explains
        } else if share.high >= NOTICEABLE {
            Verdict::ExplainsPart
        } else {
            Verdict::DoesNotExplain
        }
    }
}

/// Something that was found out, computed from published and measured values.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// What it is about: a hypothesis, or what is observed.
    pub about: String,
    /// What came out.
    pub verdict: Verdict,
    /// Why, with the values.
    pub says: String,
    /// Share of what is to be explained that this would make up, where it makes up one.
    pub share: Option<Band>,
}
