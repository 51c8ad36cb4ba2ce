//! What becomes of a VM that its guest resets.
#![deny(unsafe_code)]

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What becomes of a VM that its guest resets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnReboot {
    /// It starts afresh: memory is cleared, devices are reset, the kernel is read again. The port of
    /// the NIC stays the VM's.
    #[default]
    Restart,
    /// It ends ([`crate::status::RESET`]).
    Exit,
}

impl OnReboot {
    /// The name that people write.
    pub const fn name(self) -> &'static str {
        match self {
            OnReboot::Restart => "restart",
            OnReboot::Exit => "exit",
        }
    }
}

impl fmt::Display for OnReboot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that names nothing that can become of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a VM that is reset cannot {0:?}: use restart or exit")]
pub struct UnknownAction(String);

impl FromStr for OnReboot {
    type Err = UnknownAction;

    fn from_str(text: &str) -> Result<OnReboot, UnknownAction> {
        let all = [OnReboot::Restart, OnReboot::Exit];
        let found = all.into_iter().find(|one| one.name() == text);
        found.ok_or_else(|| UnknownAction(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read() {
        assert_eq!("exit".parse(), Ok(OnReboot::Exit));
        assert_eq!("restart".parse(), Ok(OnReboot::default()));
        assert!("halt".parse::<OnReboot>().is_err());
    }
}
