//! Definition of a test that runs in a machine: what boots, what runs, and how its outcome is
//! judged; and the same test on the kernels of a series.

use anyhow::Result;
use postern_lab::job::{Job, JobOutcome};
use postern_lab::setup::{Flavour, Programs, Series};
use postern_lab::testbed::VIEWS;

/// Kernel and KVM that a test boots. Tests for which they are equal share a boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Boot {
    /// The kernel.
    pub flavour: Flavour,
    /// The modules.
    pub kvm: Kvm,
}

impl Boot {
    /// The small kernel with the patched KVM: what everything else is made for. Tests of it run on
    /// hardware, too.
    pub const VIEWS: Boot = Boot {
        flavour: Flavour::Small,
        kvm: Kvm::Patched(VIEWS),
    };
}

/// A kind of KVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kvm {
    /// None.
    None,
    /// The one that comes with the kernel.
    Stock,
    /// With Postern's patches, and these parameters.
    Patched(&'static str),
    /// With Postern's patches and views, less these defences, bits of [`omit`](crate::omit).
    Weakened(u32),
}

/// A test, whichever series its kernel is of.
#[derive(Debug)]
pub struct Test {
    /// `area/what holds`.
    pub name: &'static str,
    /// Kernel and KVM that it needs.
    pub boot: Boot,
    /// Job that it runs.
    pub job: fn(&Programs) -> Job,
    /// Judge of the job's outcome.
    pub judge: Judge,
}

/// A test on a kernel of a series.
#[derive(Debug)]
pub struct SeriesTest<'a> {
    /// The test.
    pub test: &'static Test,
    /// The series.
    pub series: &'a Series,
    /// `area/what holds`, or `area/SERIES/what holds` for a test that runs on all series.
    pub name: String,
}

impl<'a> SeriesTest<'a> {
    /// A test that runs on one series only.
    pub fn alone(test: &'static Test, series: &'a Series) -> Self {
        let name = test.name.to_owned();
        Self { test, series, name }
    }

    /// One of the tests that a test becomes by running on several series.
    pub fn of_many(test: &'static Test, series: &'a Series) -> Self {
        let name = match test.name.split_once('/') {
            Some((area, what)) => format!("{area}/{}/{what}", series.name()),
            None => format!("{}/{}", test.name, series.name()),
        };
        Self { test, series, name }
    }

    /// Its name, and the one that it has whatever the series is.
    pub fn names(&self) -> Vec<&str> {
        vec![&self.name, self.test.name]
    }
}

/// Judge who makes verdicts of a job's outcome.
#[derive(Clone, Copy, Debug)]
pub enum Judge {
    /// One verdict.
    Whole(fn(JobOutcome) -> Result<()>),
    /// The job is a test program of the VMM, which the job finds as `test`; each test of it has a
    /// verdict.
    VmmTests(&'static str),
    /// The job is the series' selftest, which the job finds as `test`; it tells by its status.
    Selftest,
    /// The job is a test program; each line `ok NAME`, `FAILED NAME: REASON` or `SKIP NAME: REASON`
    /// is the verdict of a test.
    Lines,
}
