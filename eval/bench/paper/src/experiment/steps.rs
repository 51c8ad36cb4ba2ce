//! Steps of a unit of work, from an experiment's `steps.csv`: what its instructions are for, where the code
//! says it.

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::lines;

/// A step of a unit of work: one line of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Series whose work it is a step of.
    pub series: String,
    /// What is done.
    pub step: String,
    /// Number of instructions, VMFUNCs among them.
    pub instructions: u32,
    /// Number of VMFUNCs.
    pub vmfuncs: u32,
}

/// Reads the file's content: steps of these series.
///
/// # Errors
///
/// The first line that is no step, or one of another series.
pub fn parse(text: &str, series: &[&str]) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    for read in lines::read(text) {
        let (line, step): (usize, Step) = read.context("a line is no step")?;
        ensure!(
            series.contains(&&step.series[..]),
            "line {line}: there is no series {:?}",
            step.series
        );
        ensure!(
            step.vmfuncs <= step.instructions,
            "line {line}: of {} instructions {} are VMFUNCs",
            step.instructions,
            step.vmfuncs
        );
        steps.push(step);
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "series,step,instructions,vmfuncs\n";

    #[test]
    fn steps_are_read() {
        let steps = parse(&format!("{HEAD}elisa,\"in, and on\",5,1\n"), &["elisa"]).unwrap();
        assert_eq!(steps.len(), 1);
        assert_eq!(steps[0].step, "in, and on");
    }

    #[test]
    fn mistakes_are_told() {
        for (line, part) in [
            ("elsa,in,5,1", "no series \"elsa\""),
            ("elisa,in,1,2", "of 1 instructions 2"),
            ("elisa,in,-1,0", "no step"),
            ("elisa,in,1", "no step"),
        ] {
            let error = format!(
                "{:#}",
                parse(&format!("{HEAD}{line}\n"), &["elisa"]).unwrap_err()
            );
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
