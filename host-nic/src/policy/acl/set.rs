//! Setting access lists: the host's side.

use std::sync::atomic::Ordering::{Acquire, Relaxed};

use super::{Acl, DEFAULT_DENY, MAX_RULES, Verdict};
use crate::policy::rule_spec::{RuleError, RuleSpec};

impl Acl {
    /// Replaces the list as a whole: rules, default, hits. Callers meanwhile decide by the old list or
    /// by the new one. Only one thread of the host may do this at a time.
    ///
    /// # Errors
    /// [`RuleError::TooMany`], or [`RuleError::InList`] with the first rule that is wrong; the old list
    /// stays then.
    pub fn replace(&self, rules: &[RuleSpec], default: Verdict) -> Result<(), RuleError> {
        if rules.len() > MAX_RULES {
            return Err(RuleError::TooMany { count: rules.len() });
        }
        let mut compiled = Vec::with_capacity(rules.len());
        for (index, rule) in rules.iter().enumerate() {
            let words = rule.compile().map_err(|reason| RuleError::InList {
                number: index + 1,
                rule: rule.to_string(),
                reason: Box::new(reason),
            })?;
            compiled.push(words);
        }
        self.install(&compiled, default);
        Ok(())
    }

    /// How many frames each rule of the list decided on.
    pub fn hits(&self) -> Vec<u64> {
        let bank = self.bank(self.generation.load(Acquire));
        let count = bank.header.load(Relaxed) & !DEFAULT_DENY;
        let hits = bank.hits.iter().take(count as usize);
        hits.map(|hits| hits.load(Relaxed)).collect()
    }
}
