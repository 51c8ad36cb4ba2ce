//! Instructions of a frame, counted by callgrind: equal on every host with AVX, whatever else it
//! does.
//!
//! The program `steps` is built with the profile of the freestanding builds, and run twice under
//! valgrind for each case, the second time with twice the steps. The difference is the count of as
//! many calls as the first run has. Instructions of the call and all that it calls are counted, and
//! none of the harness.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use postern_abi::window::{Geometry, MAX_PORTS, MAX_QUEUES, MAX_SENDERS};
use postern_switch::layout;
use postern_switch::state;

/// Number of frames of the shorter run: several laps of rings and lanes, whose ends cost a little.
const FRAMES: u64 = 1 << 15;

/// Whether there is valgrind. Prints that a test is skipped where there is none.
fn can_count() -> bool {
    let found = Command::new("valgrind").arg("--version").output().is_ok();
    if !found {
        println!("SKIP: valgrind is missing; apt-get install valgrind");
    }
    found
}

/// The switch that the program is built with.
#[derive(Clone, Copy)]
enum Switch {
    /// The whole switch.
    Whole,
    /// The switch without policy.
    WithoutPolicy,
}

impl Switch {
    /// The program, built once for a run of the tests.
    fn program(self) -> &'static Path {
        static WHOLE: OnceLock<PathBuf> = OnceLock::new();
        static WITHOUT_POLICY: OnceLock<PathBuf> = OnceLock::new();
        match self {
            Switch::Whole => WHOLE.get_or_init(|| build("whole", &[])),
            Switch::WithoutPolicy => WITHOUT_POLICY
                .get_or_init(|| build("without-policy", &["--features", "without-policy"])),
        }
    }
}

/// Builds the program under a name of its own.
fn build(name: &str, arguments: &[&str]) -> PathBuf {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let target = scratch.join("instructions");
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--locked", "--profile", "freestanding"])
        .args(["--package", env!("CARGO_PKG_NAME"), "--bin", "steps"])
        .args(arguments)
        .arg("--target-dir")
        .arg(&target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("run cargo");
    assert!(status.success(), "cargo failed; it says why above");
    // The next build overwrites cargo's output.
    let program = scratch.join(format!("steps-{name}"));
    fs::copy(target.join("freestanding/steps"), &program).unwrap();
    program
}

/// The function whose instructions count in a scope of the program.
fn function(scope: &str) -> &'static str {
    match scope {
        "whole" => "*Exchange*step*",
        "poll" => "*Exchange*poll*",
        _ => "*nic::request*",
    }
}

/// Number of instructions of `steps` steps and those that precede them.
fn count(switch: Switch, case: &str, steps: u64) -> u64 {
    static RUN: AtomicU32 = AtomicU32::new(0);
    let name = format!("callgrind-{}", RUN.fetch_add(1, Relaxed));
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let mut argument = std::ffi::OsString::from("--callgrind-out-file=");
    argument.push(&out);
    let scope = case.split(' ').next().unwrap();
    let output = Command::new("valgrind")
        .arg("--tool=callgrind")
        .arg(format!("--toggle-collect={}", function(scope)))
        .arg(argument)
        .arg(switch.program())
        .args(case.split(' '))
        .arg(steps.to_string())
        .output()
        .expect("run valgrind");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{case}: {said}");
    let text = fs::read_to_string(&out).unwrap();
    fs::remove_file(&out).unwrap();
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    let total = total.and_then(|total| total.trim().parse().ok());
    total.unwrap_or_else(|| panic!("{case}: callgrind counted nothing: {said}"))
}

/// Number of instructions of a frame in a case, `SCOPE PATTERN PORTS LENGTH BATCH SLOTS`, or of a poll.
fn instructions(switch: Switch, case: &str) -> f64 {
    let batch: u64 = match case.starts_with("poll") {
        true => 1,
        false => case.split(' ').nth(4).unwrap().parse().unwrap(),
    };
    let count = |frames| count(switch, case, frames / batch);
    let (once, twice) = (count(FRAMES), count(2 * FRAMES));
    // A count far above zero shows that callgrind found the call by its name.
    assert!(twice > once + FRAMES * 10, "{case}: {once}, then {twice}");
    let each = (twice - once) as f64 / FRAMES as f64;
    println!("{case}: {each:.1} instructions");
    each
}

/// Checks that a frame of a case takes at most `most` instructions.
fn at_most(case: &str, most: f64) {
    if can_count() {
        let found = instructions(Switch::Whole, case);
        assert!(
            found <= most,
            "{case}: {found:.1} instructions, {most} are allowed"
        );
    }
}

#[test]
fn short_frames_in_batches() {
    at_most("switch unicast 2 64 32 128", 65.0);
    at_most("whole unicast 2 64 32 128", 150.0);
}

/// The goals are 125 and 300, and missed. In the switch, some 25 instructions save and restore
/// registers, 30 check the caller and the cached route, 50 find ring, lane and words, and 50 are those
/// of the frame.
#[test]
fn short_frames_one_by_one() {
    at_most("switch unicast 2 64 1 128", 170.0);
    at_most("whole unicast 2 64 1 128", 430.0);
}

#[test]
fn long_frames_in_batches() {
    at_most("switch unicast 2 1500 32 128", 260.0);
}

#[test]
fn an_rx_queue_that_is_empty() {
    for ports in [2, 64] {
        at_most(&format!("poll unicast {ports} 64 1 128"), 60.0);
    }
}

#[test]
fn more_ports_cost_nothing() {
    if !can_count() {
        return;
    }
    for (scope, batch) in [("switch", 32), ("switch", 1), ("whole", 32), ("whole", 1)] {
        let case = |ports| {
            let case = format!("{scope} unicast {ports} 64 {batch} 128");
            instructions(Switch::Whole, &case)
        };
        let (two, many) = (case(2), case(64));
        assert!(
            many <= two * 1.05,
            "{two:.1} with 2 ports, {many:.1} with 64"
        );
    }
}

#[test]
fn policy_that_is_off_costs_nothing() {
    if !can_count() {
        return;
    }
    for case in [
        "switch unicast 2 64 32 128",
        "switch unicast 2 64 1 128",
        "switch unicast 2 1500 32 128",
    ] {
        let with = instructions(Switch::Whole, case);
        let without = instructions(Switch::WithoutPolicy, case);
        assert!(
            with <= without * 1.02,
            "{case}: {with:.1}, without it {without:.1}"
        );
    }
}

/// Two counts of one program are equal.
#[test]
fn counts_repeat() {
    if can_count() {
        let case = "switch unicast 2 64 8 128";
        let [first, second] = [(); 2].map(|()| count(Switch::Whole, case, 2048));
        assert_eq!(first, second);
    }
}

/// The memory of a port in state and window is bounded, without its rings and lanes, and without
/// what lies between the state and a first window that begins at a large page, once a NIC.
#[test]
fn memory_of_a_port() {
    let mut most = 0;
    for ports in 2..=MAX_PORTS {
        for queues in 1..=MAX_QUEUES.min(MAX_SENDERS / ports) {
            let geometry = Geometry::new(ports, queues, 1 << 18, 1 << 14).unwrap();
            let rings = u64::from(queues * geometry.ring());
            let lanes = u64::from(queues * geometry.lanes() * geometry.lane());
            let window = geometry.window_size() - rings - lanes;
            let shared = size_of::<state::State>() as u64;
            let state = layout::lane_offset(geometry, geometry.senders(), 0);
            assert!(layout::state_size(geometry) - state < layout::LARGE_PAGE);
            let own = (state - shared).div_ceil(ports.into());
            if queues == 1 {
                most = most.max(window + own);
            }
            let each = (window + own).div_ceil(queues.into());
            assert!(
                each <= 64 << 10,
                "{ports} ports of {queues} queues: {each} bytes a port and queue"
            );
        }
    }
    println!("up to {most} bytes a port of one queue, beyond its rings");
}
