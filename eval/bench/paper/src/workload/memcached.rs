//! memcached in a Linux guest, asked from another.

use anyhow::{Context, Result, ensure};
use postern_bench::linux::{Network, pair_job};
use postern_lab::testbed::Testbed;
use serde::{Deserialize, Serialize};

use super::task::{LINUX_MEMORY_MB, Task, Values};
use crate::quantity::Quantity;

/// Requests at each rate.
const REQUESTS: u32 = 400;

/// What is run at each of `$rates`.
const SCRIPT: &str = include_str!("memcached.sh");

/// Debian's memcached, unmodified, in a Linux guest, and a client in another that asks by a schedule,
/// whether answers come or not (an open loop). The time of an answer counts from when it was due to be
/// asked for.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Memcached {
    /// Network that joins the guests.
    pub network: Network,
    /// Requests a second, by the guests' clock.
    pub rate: u32,
}

impl Memcached {
    /// Checks the parameters.
    ///
    /// # Errors
    ///
    /// A rate out of range.
    pub fn check(&self) -> Result<()> {
        let rate = self.rate;
        ensure!(
            (1..=1_000_000).contains(&rate),
            "rate = {rate} is not within 1 and 1000000"
        );
        Ok(())
    }

    /// The run of several rates on one network.
    ///
    /// # Errors
    ///
    /// Guests that cannot be made.
    pub fn task(network: Network, rates: Vec<u32>, testbed: &Testbed) -> Result<Task> {
        let list: Vec<_> = rates.iter().map(u32::to_string).collect();
        let variables = format!("rates='{}' requests={REQUESTS}", list.join(" "));
        let mut job = pair_job(testbed.programs(), network, &variables, SCRIPT)?;
        job = job.file("programs/postern-nettest", &testbed.programs().nettest);
        job.name = format!(
            "{}: memcached at {} requests a second",
            network.name(),
            list.join(", ")
        );
        Ok(Task::of_several(job, LINUX_MEMORY_MB, move |outcome| {
            let text = outcome.success()?.text();
            rates.iter().map(|&rate| read(&text, rate)).collect()
        }))
    }
}

/// The values of one rate.
fn read(text: &str, rate: u32) -> Result<Values> {
    let begin = format!("rate {rate} ANSWERED {REQUESTS} of {REQUESTS},");
    let line = text.lines().find_map(|line| line.strip_prefix(&begin));
    let line = line.with_context(|| format!("no answers at rate {rate} in {text}"))?;
    let number = |words: &str| -> Result<f64> {
        let rest = line.split_once(words).map(|(_, rest)| rest);
        let digits = rest.and_then(|rest| rest.split(|byte: char| !byte.is_ascii_digit()).next());
        let number = digits.and_then(|digits| digits.parse().ok());
        number.with_context(|| format!("no number behind {words:?} in {line:?}"))
    };
    Ok(vec![
        (Quantity::MedianMicroseconds, number("median ")?),
        (Quantity::P99Microseconds, number("99 of 100 ")?),
        (Quantity::MaxMicroseconds, number("most ")?),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_rate_are_read() {
        let line = "ANSWERED 400 of 400, 3 asked late; microseconds: median 900, 99 of 100 1500, most 2100";
        let text = format!("x\nrate 200 {line}\n");
        let values = read(&text, 200).unwrap();
        assert_eq!(values[1], (Quantity::P99Microseconds, 1500.0));
        assert!(read(&text, 100).is_err());
        assert!(read(&text.replace("400 of", "399 of"), 200).is_err());
    }
}
