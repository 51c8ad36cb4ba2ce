//! Programs of Debian, unmodified, between two Debian guests: over each path of the exit-less NIC, and
//! over virtio-net with either backend.

use anyhow::{Result, ensure};
use postern_abi::platform::CallPath;
use postern_bench::linux::{self, LinuxReport, Network, Row, SIZES, pair_job, pair_machine};
use postern_lab::testbed::EmulatedTestbed;

use super::checks;
use crate::own_boots::OwnBootTest;

/// What is done, beside ping, iperf3, curl and MTUs.
#[derive(Clone, Copy)]
enum Size {
    /// Nothing.
    Some,
    /// All other programs, with little to do.
    All,
    /// All other programs, with files of 100 MB.
    Whole,
}

impl Size {
    /// Words of the shell for `programs.sh`.
    const fn variables(self) -> &'static str {
        match self {
            Size::Some => "mtu=9000 all=no megabytes=4 requests=0 answers=0",
            Size::All => "mtu=9000 all=yes megabytes=8 requests=100 answers=1000",
            Size::Whole => "mtu=9000 all=yes megabytes=100 requests=1000 answers=10000",
        }
    }
}

macro_rules! programs {
    ($name:literal, $network:expr) => {
        OwnBootTest::new(
            concat!("linux/programs ", $name, ": ping, iperf3, curl, every MTU"),
            |testbed| programs(testbed, $network, Size::Some),
        )
    };
    ($name:literal, $network:expr, $size:expr, $what:literal) => {
        OwnBootTest::new(
            concat!("linux/programs ", $name, ": all of them", $what),
            |testbed| programs(testbed, $network, $size),
        )
    };
}

/// The tests.
#[rustfmt::skip] // A row each.
pub const TESTS: &[OwnBootTest] = &[
    programs!("elisa", Network::Nic(CallPath::Elisa), Size::All, ""),
    programs!("elisa-strict", Network::Nic(CallPath::ElisaStrict)).on_request(),
    programs!("exit-kernel", Network::Nic(CallPath::ExitKernel)),
    programs!("exit-user", Network::Nic(CallPath::ExitUser)).on_request(),
    programs!("vhost-net", Network::VhostNet).on_request(),
    programs!("virtio-user", Network::VirtioUser).on_request(),
    OwnBootTest::new("linux/demo: programs over elisa cost what they may beside vhost-net", goals).on_request(),
    OwnBootTest::new("linux/bridge: dies, is moved, loses owner and port: traffic goes on", life),
    OwnBootTest::new("linux/bridge: a peer that never rings costs one look of the owner", silent),
    programs!("elisa", Network::Nic(CallPath::Elisa), Size::Whole, ", 100 MB").on_request(),
    programs!("elisa-strict", Network::Nic(CallPath::ElisaStrict), Size::Whole, ", 100 MB").on_request(),
    programs!("exit-kernel", Network::Nic(CallPath::ExitKernel), Size::Whole, ", 100 MB").on_request(),
    programs!("exit-user", Network::Nic(CallPath::ExitUser), Size::Whole, ", 100 MB").on_request(),
    programs!("vhost-net", Network::VhostNet, Size::Whole, ", 100 MB").on_request(),
    programs!("virtio-user", Network::VirtioUser, Size::Whole, ", 100 MB").on_request(),
];

fn programs(testbed: &EmulatedTestbed, network: Network, size: Size) -> Result<()> {
    let script = format!("start_pair\n{}", include_str!("programs.sh"));
    let job = pair_job(&testbed.programs, network, size.variables(), &script)?;
    let job = job.file("programs/postern-nettest", &testbed.programs.nettest);
    checks(pair_machine(testbed)?.run(job)?)
}

/// All that can happen to `postern-bridge`.
fn life(testbed: &EmulatedTestbed) -> Result<()> {
    play(
        testbed,
        "vcpus=2 bridge_server=--persist",
        include_str!("bridge-life.sh"),
    )
}

/// A guest whose device has no doorbell, and a peer that sleeps.
fn silent(testbed: &EmulatedTestbed) -> Result<()> {
    let variables = "flags_client=--nic-plain bridge_client='--interval 1000'";
    play(testbed, variables, include_str!("bridge-silent.sh"))
}

fn play(testbed: &EmulatedTestbed, variables: &str, script: &str) -> Result<()> {
    let network = Network::Nic(CallPath::Elisa);
    let script = format!("start_pair\n{script}");
    let job = pair_job(&testbed.programs, network, variables, &script)?;
    checks(pair_machine(testbed)?.run(job)?)
}

/// The goals of `cargo demo --linux`.
fn goals(testbed: &EmulatedTestbed) -> Result<()> {
    let networks = [Network::Nic(CallPath::Elisa), Network::VhostNet];
    let results = linux::measure(testbed, &networks, SIZES, &|_| ())?;
    let row = |(network, samples): (&Network, Result<_>)| Ok(Row::new(*network, &samples?)?);
    let rows = networks
        .iter()
        .zip(results)
        .map(row)
        .collect::<Result<_>>()?;
    let report = LinuxReport::new(rows, String::new(), 0.0);
    println!("{report}");
    ensure!(report.goals.len() == 4, "goals are missing: {report}");
    let missed = report.goals.iter().find(|goal| goal.is > goal.at_most);
    ensure!(missed.is_none(), "{missed:?} in\n{report}");
    Ok(())
}
