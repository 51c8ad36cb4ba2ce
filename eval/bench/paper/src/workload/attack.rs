//! Attacks of a hostile guest.

use anyhow::{Result, ensure};
use postern_abi::guest_words::attack as names;
use postern_abi::platform::CallPath;
use postern_bench::{attack, call_path};
use postern_lab::testbed::Testbed;
use serde::{Deserialize, Serialize};

use super::task::Task;
use crate::quantity::Quantity;

/// A guest attacks, while another waits for frames and a third one exchanges frames with it afterwards.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Attack {
    /// Path on which the attacker has its port.
    #[serde(with = "call_path")]
    pub path: CallPath,
    /// Name of the attack ([`postern_abi::guest_words::attack`]).
    pub attack: String,
}

/// Attacks that exchange frames with the VM that waits, which has to know the other one before.
const BESIDE_ECHO: [&str; 2] = [names::DIRECTION_FLAG, names::VECTOR_REGISTERS];

impl Attack {
    /// Checks the parameters.
    ///
    /// # Errors
    ///
    /// An attack that no guest knows.
    pub fn check(&self) -> Result<()> {
        ensure!(
            names::ALL.contains(&self.attack.as_str()),
            "there is no attack {:?}; there are {}",
            self.attack,
            names::ALL.join(", ")
        );
        Ok(())
    }

    /// Its run.
    pub fn task(&self, testbed: &Testbed) -> Task {
        let make = match BESIDE_ECHO.contains(&self.attack.as_str()) {
            true => attack::beside_echo,
            false => attack::job,
        };
        let programs = testbed.programs();
        let mut job = make(
            programs,
            &programs.nic_image,
            &self.attack,
            self.path.name(),
        );
        job.name = format!("{} on {}", self.attack, self.path.name());
        Task::new(job, 0, |outcome| {
            attack::check_repelled(&outcome.success()?.text())?;
            Ok(vec![(Quantity::Repelled, 1.0)])
        })
    }
}
