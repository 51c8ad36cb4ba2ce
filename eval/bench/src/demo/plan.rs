//! The scenarios of the demo, and its constants.

use anyhow::Result;
use postern_abi::platform::CallPath;
use postern_abi::window::record_size;

use super::options::{DEFAULT_FRAMES, MAX_BATCH};
use crate::report::RingSizes;
use crate::scenario::{Scenario, Setting};
use crate::traffic::{MAX_LEN, Trace};

/// Size of the frames of the input that is not captured, in bytes without the frame check sequence.
pub const SMALL: usize = 64;

/// Empty calls on the paths that do not exit.
const CALLS: u64 = 100_000;

/// Empty calls on the paths that exit: each takes the emulated machine up to a hundred times as
/// long.
const CALLS_WITH_EXITS: u64 = 10_000;

/// Sizes of the demo's rings: a TX ring takes the largest burst, and a lane all frames unless the
/// user asks for more than the default, so that what is seen is what requests and frames cost, not
/// how two VMs on one CPU wait for each other.
pub const RINGS: RingSizes = RingSizes {
    ring_bytes: 1 << 20,
    lane_bytes: 4 << 20,
};

const _: () = {
    let record = record_size(MAX_LEN as u32);
    assert!(RINGS.ring_bytes as u64 >= MAX_BATCH as u64 * record);
    assert!(RINGS.lane_bytes as u64 >= DEFAULT_FRAMES as u64 * record);
};

/// All scenarios: on each path the calls, then each input with each batch.
///
/// # Errors
///
/// Rings of sizes that no NIC has.
pub fn scenarios(setting: &Setting, inputs: &[Trace], batches: &[u32]) -> Result<Vec<Scenario>> {
    let mut scenarios = Vec::new();
    for path in CallPath::ALL {
        let calls = match path {
            CallPath::ExitKernel | CallPath::ExitUser => CALLS_WITH_EXITS,
            CallPath::Elisa | CallPath::ElisaStrict | CallPath::Direct => CALLS,
        };
        scenarios.push(Scenario::calls(setting, path, calls)?);
        for input in 0..inputs.len() {
            for &batch in batches {
                scenarios.push(Scenario::traffic(setting, path, inputs, input, batch)?);
            }
        }
    }
    Ok(scenarios)
}

#[cfg(test)]
mod tests {
    use postern_lab::source::Source;

    use super::*;

    #[test]
    fn every_path_input_and_batch_has_one_scenario() {
        let inputs = [Trace::synthetic(64, 3), Trace::synthetic(128, 3)];
        let setting = Setting::new(Source::Emulated, RINGS);
        let scenarios = scenarios(&setting, &inputs, &[1, 32]).unwrap();
        assert_eq!(scenarios.len(), CallPath::ALL.len() * (1 + 2 * 2));
        for (n, scenario) in scenarios.iter().enumerate() {
            assert!(!scenarios[..n].contains(scenario), "{scenario:?} twice");
        }
    }
}
