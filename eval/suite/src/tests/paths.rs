//! What each path promises: every frame arrives, and a call costs so much and no more.

use std::sync::LazyLock;

use anyhow::{Result, ensure};
use postern_abi::platform::CallPath;
use postern_abi::view::{VMFUNCS_FAST, VMFUNCS_STRICT};
use postern_bench::report::{CallRow, RingSizes};
use postern_bench::scenario::{Scenario, Setting, results};
use postern_bench::traffic::{Frame, HEADER_LEN, MAX_LEN, Trace};
use postern_lab::job::{Job, JobOutcome};
use postern_lab::setup::Programs;
use postern_lab::source::Source;
use postern_lab::testbed::source;

use crate::machine_test::{Boot, Judge, Test};

/// Empty calls without exits.
const CALLS: u64 = 100_000;
/// Empty calls with exits, each of which takes the emulated machine far longer.
const CALLS_WITH_EXITS: u64 = 5_000;

/// Frames a burst: neither a divisor nor a multiple of what the rings hold.
const BATCH: u32 = 7;
/// Small rings, of some ten frames, so that they are full most of the time and wrap often.
const RINGS: RingSizes = RingSizes {
    ring_bytes: 8 << 10,
    lane_bytes: 8 << 10,
};

macro_rules! traffic {
    ($name:literal, $path:expr) => {
        Test {
            name: concat!(
                "paths/",
                $name,
                ": every frame arrives, once, in order, unaltered"
            ),
            boot: Boot::VIEWS,
            job: |programs| traffic_job(programs, $path),
            judge: Judge::Whole(|outcome| traffic_is_intact(outcome, $path)),
        }
    };
}

macro_rules! calls {
    ($name:literal, $what:literal, $path:expr, $calls:expr, $check:expr) => {
        Test {
            name: concat!("paths/", $name, ": ", $what),
            boot: Boot::VIEWS,
            job: |programs| calls_job(programs, $path, $calls),
            judge: Judge::Whole(|outcome| {
                let check: fn(&CallRow) -> Result<()> = $check;
                check(&results::call(&calls_scenario($path, $calls), outcome)?)
            }),
        }
    };
}

pub(super) const TESTS: &[Test] = &[
    traffic!("elisa", CallPath::Elisa),
    traffic!("elisa-strict", CallPath::ElisaStrict),
    traffic!("exit-kernel", CallPath::ExitKernel),
    traffic!("exit-user", CallPath::ExitUser),
    traffic!("direct", CallPath::Direct),
    calls!(
        "elisa",
        "100000 calls make no exit, 3 VMFUNCs and at most 30 instructions each",
        CallPath::Elisa,
        CALLS,
        |call| exitless(call, VMFUNCS_FAST, 30.0)
    ),
    calls!(
        "elisa-strict",
        "100000 calls make no exit, 4 VMFUNCs and at most 36 instructions each",
        CallPath::ElisaStrict,
        CALLS,
        |call| exitless(call, VMFUNCS_STRICT, 36.0)
    ),
    calls!(
        "direct",
        "100000 calls make neither exits nor VMFUNCs",
        CallPath::Direct,
        CALLS,
        |call| exitless(call, 0, 30.0)
    ),
    calls!(
        "exit-kernel",
        "a call is one exit, and costs more than 20 times 30 instructions",
        CallPath::ExitKernel,
        CALLS_WITH_EXITS,
        one_exit
    ),
    calls!(
        "exit-user",
        "a call is one exit, and costs more than 20 times 30 instructions",
        CallPath::ExitUser,
        CALLS_WITH_EXITS,
        one_exit
    ),
];

/// Frames of all lengths, to one station, to another, and to all; some of them more than once.
static FRAMES: LazyLock<Trace> = LazyLock::new(|| {
    let frame = |n: usize| -> Frame {
        let lengths = [HEADER_LEN, 60, 61, 64, 127, 577, 1024, 1513, MAX_LEN];
        let destinations = [
            [2, 0, 0, 0, 1, 1],
            [0xff; 6],
            [2, 0, 0, 0, 1, 2],
            [1, 0, 0x5e, 0, 0, 1],
        ];
        let mut frame: Vec<u8> = (0..lengths[n % lengths.len()])
            .map(|byte| (byte * 7 + n) as u8)
            .collect();
        frame[..6].copy_from_slice(&destinations[n % destinations.len()]);
        // Both sides of a conversation, as in a capture.
        frame[6..12].copy_from_slice(&destinations[2 * (n % 2)]);
        frame.into_boxed_slice()
    };
    Trace::new("all lengths", (0..97).map(frame).collect()).cycle_to(400)
});

fn inputs() -> &'static [Trace] {
    std::slice::from_ref(&FRAMES)
}

fn traffic_scenario(path: CallPath) -> Scenario {
    let setting = Setting::new(source(), RINGS);
    Scenario::traffic(&setting, path, inputs(), 0, BATCH).expect("a NIC can have such rings")
}

fn calls_scenario(path: CallPath, calls: u64) -> Scenario {
    let setting = Setting::new(source(), RINGS);
    Scenario::calls(&setting, path, calls).expect("a NIC can have such rings")
}

fn job(programs: &Programs, scenario: &Scenario) -> Job {
    let job = scenario.job(programs, inputs());
    job.expect("a topology and a capture can be written to memory")
}

fn traffic_job(programs: &Programs, path: CallPath) -> Job {
    job(programs, &traffic_scenario(path))
}

fn traffic_is_intact(outcome: JobOutcome, path: CallPath) -> Result<()> {
    let row = results::traffic(source(), &traffic_scenario(path), inputs(), outcome)?;
    let dropped: u64 = row.dropped.values().sum();
    ensure!(dropped == 0, "the NIC dropped {:?}", row.dropped);
    let exits = row.vm_exits_per_packet;
    match path {
        // A call that finds no room is an exit, too, so there are more than one in seven.
        CallPath::ExitKernel | CallPath::ExitUser => {
            ensure!(exits >= 1.0 / f64::from(BATCH), "{exits} exits a packet");
        }
        _ => ensure!(exits == 0.0, "{exits} exits a packet"),
    }
    Ok(())
}

fn calls_job(programs: &Programs, path: CallPath, calls: u64) -> Job {
    job(programs, &calls_scenario(path, calls))
}

fn exitless(call: &CallRow, vmfuncs: u64, instructions: f64) -> Result<()> {
    ensure!(
        call.vm_exits_of_run == 0,
        "{} exits, {} more for interrupts",
        call.vm_exits_of_run,
        call.interrupt_exits
    );
    if let Some(found) = call.vmfuncs {
        ensure!(found == vmfuncs as f64, "{found} VMFUNCs a call");
    }
    // On hardware the host's interrupts are among what is counted.
    if source() == Source::Emulated {
        let found = call.guest_instructions;
        ensure!(found <= instructions, "{found} instructions a call");
    }
    Ok(())
}

fn one_exit(call: &CallRow) -> Result<()> {
    ensure!(call.vm_exits == 1.0, "{} exits a call", call.vm_exits);
    let vmfuncs = call.vmfuncs.unwrap_or(0.0);
    ensure!(vmfuncs == 0.0, "{vmfuncs} VMFUNCs a call");
    let instructions = call.total_instructions;
    ensure!(
        instructions >= 20.0 * 30.0,
        "{instructions} instructions a call"
    );
    Ok(())
}
