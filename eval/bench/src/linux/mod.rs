//! `cargo demo --linux`: programs of Debian in two Linux guests, on each path of the exit-less NIC and
//! over both backends of virtio-net.
//!
//! ```text
//!   server VM: Debian, iperf3, redis ---- network ---- client VM: Debian, ping, iperf3, redis-benchmark
//!                                            |
//!              path of the NIC: postern-bridge in each guest, a TAP of the guest, the NIC
//!              virtio-net: eth0 of each guest, a TAP of the host for each, the host's bridge
//! ```
//!
//! The same programs run with the same arguments whatever joins the guests, told by a script in the
//! machine (`pair.sh`, `measure.sh`). What each unit of a kind of work costs (a round trip, a byte, a
//! request) is what a long run costs more than a short one, divided by the units that it has more.

mod network;
mod options;
mod report;
mod samples;

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use postern_lab::job::Job;
use postern_lab::machine::EmulatedMachine;
use postern_lab::output;
use postern_lab::setup::{self, Flavour, Programs, Series};
use postern_lab::testbed::{EmulatedTestbed, VIEWS};
use postern_lab::topology_files::{self, DEBIAN};

pub use network::Network;
pub use options::{LinuxOptions, SIZES};
pub use report::{LinuxReport, Row};
pub use samples::{Samples, SamplesError};

use crate::revision::revision;
use crate::say::say;

/// Functions for scripts with two guests.
const PAIR: &str = include_str!("pair.sh");
/// What is counted.
const MEASURE: &str = include_str!("measure.sh");

/// The guest that is booted twice.
pub const GUEST: &str = "debian-12";

/// Memory of a machine with two guests, in MiB.
const MEMORY_MB: u32 = 2048;

/// Real time that a machine has.
const REAL_TIME: Duration = Duration::from_secs(3600);

/// Time of the machine's clock that a job has.
const TIMEOUT: Duration = Duration::from_secs(1800);

/// Machines that run side by side, with one CPU each. Networks are dealt to them in turn, so that the
/// same run gives the same counts.
const MACHINES: usize = 2;

/// Parameter of kvm-intel, besides those with which it makes views. Without `preemption_timer` each
/// tick of a guest's timer costs an exit that KVM counts as an interrupt.
const PARAMETER: &str = "preemption_timer=0";

/// A job with two guests over a network: `script` finds the functions of `pair.sh`, and what
/// `variables` sets, words `NAME=VALUE` of the shell.
///
/// # Errors
///
/// A guest that cannot be made.
pub fn pair_job(
    programs: &Programs,
    network: Network,
    variables: &str,
    script: &str,
) -> Result<Job> {
    let guest = topology_files::guest(GUEST)?;
    let guest = guest.with_context(|| format!("there is no guest {GUEST}"))?;
    let script = format!(
        "{DEBIAN}\nguest={GUEST} network={}\n{variables}\n{PAIR}\n{script}",
        network.name()
    );
    let mut job = Job::new(network.name(), &script)
        .file("postern", &programs.postern)
        .file("postern-init", &programs.init)
        .file("nic-image", &programs.nic_image)
        .file(&format!("{GUEST}/kernel"), guest.kernel)
        .file(&format!("{GUEST}/initrd"), guest.initrd)
        .timeout(TIMEOUT);
    if let Some(image) = guest.image {
        job = job.file(&format!("{GUEST}/root.erofs"), image);
    }
    Ok(job)
}

/// The machine that [`pair_job`]s run in.
///
/// # Errors
///
/// The patched KVM has not been made.
pub fn pair_machine(testbed: &EmulatedTestbed) -> Result<EmulatedMachine<'_>> {
    let machine = testbed.machine(&format!("{VIEWS} {PARAMETER}"))?;
    Ok(machine.memory_mb(MEMORY_MB).timeout(REAL_TIME))
}

/// Runs the demo with Linux guests: prints progress and the table, and writes what the options ask
/// for. It runs in the emulated machine wherever it is, since its counters are that machine's.
///
/// # Errors
///
/// A sentence for what is missing, refused or failed. Results that are not whole are not written.
pub fn run(options: &LinuxOptions) -> Result<()> {
    let start = Instant::now();
    if let Some(file) = &options.json {
        output::check_writable(file)?;
    }
    let series = Series::default_one(setup::root())?;
    let testbed = EmulatedTestbed::prepare(&series, Flavour::Small)?;
    let networks = options.networks();
    let results = measure(&testbed, &networks, SIZES, &say)?;
    let mut rows = Vec::new();
    let mut failures = Vec::new();
    for (network, result) in networks.iter().zip(results) {
        match result.and_then(|samples| Ok(Row::new(*network, &samples)?)) {
            Ok(row) => rows.push(row),
            Err(error) => failures.push(format!("{}: {error:#}", network.name())),
        }
    }
    let report = LinuxReport::new(rows, revision(), start.elapsed().as_secs_f64());
    say(&format!("\n{report}"));
    if !failures.is_empty() {
        bail!(
            "{} of {} networks failed:\n{}",
            failures.len(),
            networks.len(),
            failures.join("\n")
        );
    }
    if let Some(file) = &options.json {
        report
            .write_json(file)
            .with_context(|| format!("cannot write {}", file.display()))?;
        say(&format!("Results: {}", file.display()));
    }
    Ok(())
}

/// Measures these networks, in machines side by side; the outcomes are in their order. `progress` gets
/// a line for each as it begins.
///
/// # Errors
///
/// When nothing can be run at all.
pub fn measure(
    testbed: &EmulatedTestbed,
    networks: &[Network],
    sizes: &str,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<Vec<Result<Samples>>> {
    // Guests are made once, not by machines side by side.
    topology_files::guest(GUEST)?;
    let one = |network: &Network| -> Result<Samples> {
        progress(network.name());
        let script = format!("unjoined=yes\nstart_pair\n{MEASURE}");
        let job = pair_job(&testbed.programs, *network, sizes, &script)?;
        let text = pair_machine(testbed)?.run(job)?.success()?.text();
        Ok(Samples::read(&text)?)
    };
    let mut shares = thread::scope(|scope| {
        let machines: Vec<_> = (0..MACHINES)
            .map(|first| {
                let share = networks.iter().skip(first).step_by(MACHINES);
                let one = &one;
                scope.spawn(move || share.map(one).collect::<Vec<_>>())
            })
            .collect();
        let join = |machine: thread::ScopedJoinHandle<'_, Vec<_>>| match machine.join() {
            Ok(results) => results.into_iter(),
            Err(panic) => std::panic::resume_unwind(panic),
        };
        machines.into_iter().map(join).collect::<Vec<_>>()
    });
    let of = |n: usize| shares[n % MACHINES].next().expect("each has its outcome");
    Ok((0..networks.len()).map(of).collect())
}
