//! Frames between two Linux guests.

use anyhow::{Result, ensure};
use postern_bench::linux::{Network, Samples, pair_job};
use postern_lab::testbed::Testbed;
use serde::{Deserialize, Serialize};

use super::task::{LINUX_MEMORY_MB, Task, Values};
use crate::quantity::Quantity;

/// Frames of the short run and of the long one.
const FRAMES: [u32; 2] = [320, 1600];

/// What is run at each of `$sizes`.
const SCRIPT: &str = include_str!("linux_packets.sh");

/// A program of a Linux guest sends frames by a packet socket, 32 a call, and one of another guest
/// receives them: all, in order, unchanged. What is counted is what a long run has more than a short one.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LinuxPackets {
    /// Network that joins the guests.
    pub network: Network,
    /// Length of the frames, in bytes without the frame check sequence.
    pub size: u32,
}

impl LinuxPackets {
    /// Checks the parameters.
    ///
    /// # Errors
    ///
    /// A size that no interface of these takes.
    pub fn check(&self) -> Result<()> {
        let size = self.size;
        ensure!(
            (60..=1514).contains(&size),
            "size = {size} is not within 60 and 1514"
        );
        Ok(())
    }

    /// The run of several sizes on one network.
    ///
    /// # Errors
    ///
    /// Guests that cannot be made.
    pub fn task(network: Network, sizes: Vec<u32>, testbed: &Testbed) -> Result<Task> {
        let list: Vec<_> = sizes.iter().map(u32::to_string).collect();
        let counts = FRAMES.map(|count| count.to_string());
        let variables = format!("sizes='{}' counts='{}'", list.join(" "), counts.join(" "));
        let mut job = pair_job(testbed.programs(), network, &variables, SCRIPT)?;
        job = job.file("programs/postern-nettest", &testbed.programs().nettest);
        job.name = format!("{}: frames of {} bytes", network.name(), list.join(", "));
        Ok(Task::of_several(job, LINUX_MEMORY_MB, move |outcome| {
            let samples = Samples::read(&outcome.success()?.text())?;
            sizes.iter().map(|&size| read(&samples, size)).collect()
        }))
    }
}

/// The values of one size. Exits are all exits, of both guests.
fn read(samples: &Samples, size: u32) -> Result<Values> {
    let what = format!("frames-{size}");
    let of = |counter| samples.per_unit(&what, counter);
    Ok(vec![
        (Quantity::TotalInstructions, of("instructions")?),
        (Quantity::GuestInstructions, of("guest")?),
        (Quantity::AllExits, of("exits")?),
        (Quantity::Vmfuncs, of("vmfuncs")?),
    ])
}
