//! The switch beside Linux' bridge with VLANs: the owner's test of that, `bridge`, in a machine with
//! Debian's kernel. Few hosts' kernels have a bridge that knows VLANs.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use postern_lab::job::Job;
use postern_lab::machine::EmulatedMachine;
use postern_lab::setup::dynamic;
use postern_lab::setup::{self, Flavour, Series, Setup};
use postern_lab::testbed::EmulatedTestbed;

use crate::libtest;
use crate::report::Verdict;

/// Name of the test.
pub const NAME: &str =
    "linux/bridge: what comes out of the switch comes out of Linux' bridge, with VLANs";

/// Name of the test program, which also runs on the host as far as its kernel has such a bridge.
pub const PROGRAM: &str = "bridge";

/// What the kernel needs to have: the bridge, and TAPs between which it is.
const MODULES: [&str; 2] = ["bridge", "tun"];

/// Programs of the host's that the test calls.
const PROGRAMS: [&str; 2] = ["bridge", "ip"];

/// All frames come out of the switch as they come out of Linux' bridge, with VLANs and without. A test
/// that does not run is a failure: here is all that it needs.
pub fn same_frames(testbed: &EmulatedTestbed) -> Result<()> {
    let series = Series::default_one(setup::root())?;
    let setup = Setup::of(&series)?;
    let tree = setup.kernel(Flavour::Debian)?;
    let job = Job::new(
        PROGRAM,
        "PATH=$PWD/programs:$PATH ./test --test-threads 1 --show-output",
    )
    .file("test", setup.bridge_test()?)
    .timeout(Duration::from_secs(900));
    let mut machine = EmulatedMachine::new(&testbed.files, &tree.kernel);
    for module in setup.own_modules(&tree, &MODULES)? {
        machine = machine.module(module, "");
    }
    let machine = machine.timeout(Duration::from_secs(1200));
    let outcome = machine.run(dynamic::add_host_programs(job, &PROGRAMS)?)?;
    let tests = libtest::parse_program(PROGRAM, &outcome.text());
    for test in &tests {
        match &test.verdict {
            Verdict::Passed => {}
            Verdict::Failed(reason) => bail!("{}: {reason}", test.name),
            Verdict::Skipped(reason) => bail!("{} did not run: {reason}", test.name),
        }
    }
    let text = outcome.success()?.text();
    let with_vlans = |test: &libtest::LibTest| test.name.ends_with("with_vlans");
    ensure!(tests.iter().any(with_vlans), "it printed {text}");
    Ok(())
}
