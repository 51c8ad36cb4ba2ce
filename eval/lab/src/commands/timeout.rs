//! What helps where a machine was not done in time.

use anyhow::anyhow;
use postern_lab::machine::MachineError;

/// An error, with the flags that help.
pub fn with_remedy(error: MachineError) -> anyhow::Error {
    match error {
        MachineError::Timeout { .. } => anyhow!(
            "{}\n--timeout SECONDS gives it longer; --keep leaves its console and the emulator's log",
            error.to_string().trim_end()
        ),
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_timeout_names_the_flags() {
        let error = with_remedy(MachineError::Timeout {
            after: Duration::from_secs(3),
            tail: String::new(),
        });
        let told = format!("{error:#}");
        assert!(
            told.contains("its console is empty\n--timeout SECONDS"),
            "{told}"
        );
        assert!(told.contains("--keep"), "{told}");
    }
}
