//! Frames from one VM to another.

use anyhow::{Result, ensure};
use postern_abi::platform::CallPath;
use postern_abi::window::record_size;
use postern_bench::call_path;
use postern_bench::report::{RingSizes, TrafficRow};
use postern_bench::scenario::definition::memory_mb;
use postern_bench::scenario::{Scenario, Setting, results};
use postern_bench::traffic::{MAX_JUMBO, MAX_LEN, MIN_WIRE_LEN, Trace};
use postern_lab::testbed::Testbed;
use serde::{Deserialize, Serialize};

use super::task::{Task, Values};
use crate::quantity::Quantity;

/// Frames of a run where the experiment does not say.
const FRAMES: u32 = 2000;

/// Most frames of a run.
const MAX_FRAMES: u32 = 100_000;

/// Most frames of a burst.
const MAX_BATCH: u32 = 256;

/// Frames go from one VM to another. All must arrive, once, in order, byte for byte.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Traffic {
    /// Path on which requests reach the NIC.
    #[serde(with = "call_path")]
    pub path: CallPath,
    /// Length of the frames, in bytes without the frame check sequence.
    pub size: u32,
    /// Frames a burst.
    pub batch: u32,
    /// Number of frames.
    #[serde(default = "frames")]
    pub frames: u32,
    /// KiB of each TX ring; room for the largest burst where the experiment does not say.
    pub ring: Option<u32>,
    /// KiB of each lane; room for all frames where the experiment does not say.
    pub lane: Option<u32>,
}

fn frames() -> u32 {
    FRAMES
}

impl Traffic {
    /// Checks the parameters.
    ///
    /// # Errors
    ///
    /// The first one that is out of range.
    pub fn check(&self) -> Result<()> {
        let (size, batch, frames) = (self.size, self.batch, self.frames);
        ensure!(
            (MIN_WIRE_LEN..=MAX_JUMBO).contains(&(size as usize)),
            "size = {size} is not within {MIN_WIRE_LEN} and {MAX_JUMBO}"
        );
        ensure!(
            (1..=MAX_BATCH).contains(&batch),
            "batch = {batch} is not within 1 and {MAX_BATCH}"
        );
        ensure!(
            (1..=MAX_FRAMES).contains(&frames),
            "frames = {frames} is not within 1 and {MAX_FRAMES}"
        );
        Ok(())
    }

    /// Sizes of the rings. Where the experiment does not say otherwise a TX ring takes the largest burst,
    /// and a lane all frames, so that what is seen is what requests and frames cost, not how two VMs on
    /// one CPU wait for each other.
    fn rings(&self) -> RingSizes {
        let all = u64::from(self.frames) * record_size(self.size.max(MAX_LEN as u32));
        let all = all.next_power_of_two().try_into().unwrap_or(u32::MAX);
        let bytes = |kib: u32| kib.saturating_mul(1 << 10);
        let burst = u64::from(MAX_BATCH) * record_size(self.size);
        let burst = burst.next_power_of_two().try_into().unwrap_or(u32::MAX);
        RingSizes {
            ring_bytes: self.ring.map_or(burst.max(1 << 20), bytes),
            lane_bytes: self.lane.map_or(all, bytes),
        }
    }

    /// Its run.
    ///
    /// # Errors
    ///
    /// Sizes that no NIC has.
    pub fn task(&self, testbed: &Testbed) -> Result<Task> {
        let source = testbed.source();
        let setting = Setting::new(source, self.rings());
        let trace = [Trace::synthetic(self.size as usize, self.frames as usize)];
        let scenario = Scenario::traffic(&setting, self.path, &trace, 0, self.batch)?;
        let job = scenario.job(testbed.programs(), &trace)?;
        let memory_mb = memory_mb(&trace);
        Ok(Task::new(job, memory_mb, move |outcome| {
            results::traffic(source, &scenario, &trace, outcome).map(|row| of_row(&row))
        }))
    }
}

/// The values of a row, a packet.
pub fn of_row(row: &TrafficRow) -> Values {
    let mut values = vec![
        (
            Quantity::TotalInstructions,
            row.total_instructions_per_packet,
        ),
        (
            Quantity::GuestInstructions,
            row.guest_instructions_per_packet,
        ),
        (Quantity::VmExits, row.vm_exits_per_packet),
        (Quantity::InterruptExits, row.interrupt_exits_per_packet),
        (Quantity::WaitExits, row.wait_exits_per_packet),
    ];
    let vmfuncs = row.vmfuncs_per_packet;
    values.extend(vmfuncs.map(|value| (Quantity::Vmfuncs, value)));
    values
}
