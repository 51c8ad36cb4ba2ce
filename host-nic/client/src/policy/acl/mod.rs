//! Access lists as people and programs write them: rules, and what happens to the other frames.
#![deny(unsafe_code)]

use std::fmt;

use postern_switch::policy::acl::{Acl, Direction, MAX_RULES, RuleWords, Verdict};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::rule::{RuleError, RuleSpec};

/// An access list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AclSpec {
    /// The rules, of which the first one that matches a frame decides. A rule is read as its parts
    /// or as text, such as `"deny in ipv4 tcp dport 22"`.
    #[serde(default, deserialize_with = "read_rules")]
    pub rules: Vec<RuleSpec>,
    /// The verdict on frames that match no rule.
    #[serde(default = "permit", with = "super::rule::verdict")]
    pub default: Verdict,
}

/// Reads rules, each as its parts or as text.
fn read_rules<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<RuleSpec>, D::Error> {
    struct Rule(RuleSpec);
    struct RuleVisitor;

    impl<'de> Visitor<'de> for RuleVisitor {
        type Value = Rule;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a rule, as text or as its parts")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Rule, E> {
            text.parse().map(Rule).map_err(E::custom)
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Rule, A::Error> {
            RuleSpec::deserialize(MapAccessDeserializer::new(map)).map(Rule)
        }
    }

    impl<'de> Deserialize<'de> for Rule {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Rule, D::Error> {
            deserializer.deserialize_any(RuleVisitor)
        }
    }

    let rules = Vec::<Rule>::deserialize(deserializer)?;
    Ok(rules.into_iter().map(|Rule(rule)| rule).collect())
}

const fn permit() -> Verdict {
    Verdict::Permit
}

impl Default for AclSpec {
    fn default() -> AclSpec {
        AclSpec {
            rules: Vec::new(),
            default: permit(),
        }
    }
}

impl AclSpec {
    /// Whether it may refuse what the port receives.
    pub fn affects_egress(&self) -> bool {
        let ingress = |rule: &RuleSpec| rule.direction == Some(Direction::Ingress);
        self.default == Verdict::Deny || !self.rules.iter().all(ingress)
    }

    /// Replaces the list of a port as a whole: rules, default, hits. Callers meanwhile decide by
    /// the old list or by the new one. Only one thread of the host may do this at a time.
    ///
    /// # Errors
    ///
    /// [`RuleError::TooMany`], or [`RuleError::InList`] with the first rule that is wrong; the old
    /// list stays then.
    pub fn install(&self, acl: &Acl) -> Result<(), RuleError> {
        acl.install(&self.compile()?, self.default);
        Ok(())
    }

    fn compile(&self) -> Result<Vec<RuleWords>, RuleError> {
        if self.rules.len() > MAX_RULES {
            let count = self.rules.len();
            return Err(RuleError::TooMany { count });
        }
        let numbered = self.rules.iter().enumerate();
        let words = numbered.map(|(index, rule)| {
            rule.compile().map_err(|reason| RuleError::InList {
                number: index + 1,
                rule: rule.to_string(),
                reason: Box::new(reason),
            })
        });
        words.collect()
    }
}

#[cfg(test)]
#[expect(
    unsafe_code,
    reason = "words of the switch are made and looked at directly"
)]
pub(super) mod tests;
