//! Testbeds, on which VMs run: this host if it has VMFUNC and the patched KVM, or the emulated
//! machine.

mod emulated;
mod host;

use anyhow::{Context, Result, ensure};
use postern_abi::source::hypervisor_below;
use postern_vmm::event_counters::{CounterSource, EventCounters};

pub use emulated::{EmulatedTestbed, VIEWS};
pub use postern_kvm::has_views as host_has_views;

use crate::job::{Job, JobOutcome};
use crate::setup::{self, Flavour, Programs, Series};
use crate::source::Source;

/// Release of this host's kernel, as `uname -r` prints it.
pub fn host_release() -> String {
    let name = rustix::system::uname();
    name.release().to_string_lossy().into_owned()
}

/// A testbed that is ready to run jobs.
#[derive(Debug)]
pub enum Testbed {
    /// The emulated machine.
    Emulated(Box<EmulatedTestbed>),
    /// This host, with the programs that jobs need.
    Host(Box<Programs>),
}

/// The label of what is measured on the testbed that [`Testbed::prepare`] chooses.
pub fn source() -> Source {
    match host_has_views() {
        true => source_of_this_host(),
        false => Source::Emulated,
    }
}

/// The label of what is measured on this host, which may be the emulated machine itself.
fn source_of_this_host() -> Source {
    let emulated = EventCounters::open(CounterSource::Emulated).is_ok();
    Source::decide(emulated, hypervisor_below())
}

impl Testbed {
    /// Chooses this host if its KVM can make views, else the emulated machine, and makes what is
    /// missing.
    ///
    /// # Errors
    ///
    /// A sentence that says what is missing and what to do.
    pub fn prepare() -> Result<Self> {
        Self::prepare_with(setup::programs)
    }

    /// Likewise, with programs for this host that may have been made elsewhere.
    ///
    /// # Errors
    ///
    /// A sentence that says what is missing and what to do.
    pub fn prepare_with(programs: impl FnOnce() -> Result<Programs>) -> Result<Self> {
        match host_has_views() {
            true => Self::host(programs),
            false => Self::emulated(),
        }
    }

    /// The emulated machine, whatever this host is; what is missing is made.
    ///
    /// # Errors
    ///
    /// A sentence that says what is missing and what to do.
    pub fn emulated() -> Result<Self> {
        let series = Series::default_one(setup::root())?;
        let emulated = EmulatedTestbed::prepare(&series, Flavour::Small)?;
        Ok(Self::Emulated(Box::new(emulated)))
    }

    /// This host, with programs that were made elsewhere or are made now.
    ///
    /// # Errors
    ///
    /// A host whose KVM makes no views, and programs that cannot be made.
    pub fn host(programs: impl FnOnce() -> Result<Programs>) -> Result<Self> {
        ensure!(
            host_has_views(),
            "this host cannot be measured: its KVM makes no views; `postern check` says what is missing"
        );
        Ok(Self::Host(Box::new(programs()?)))
    }

    /// The label of what is measured on it.
    pub fn source(&self) -> Source {
        match self {
            Self::Emulated(_) => Source::Emulated,
            Self::Host(_) => source_of_this_host(),
        }
    }

    /// Programs to give to jobs.
    pub fn programs(&self) -> &Programs {
        match self {
            Self::Emulated(testbed) => &testbed.programs,
            Self::Host(programs) => programs,
        }
    }

    /// Runs jobs one after another, in the emulated machine in one boot, where `kvm-intel` gets
    /// `parameters`. On the host it has those with which its administrator loaded it.
    ///
    /// # Errors
    ///
    /// A testbed that could not run all jobs. A job that fails is no error.
    pub fn run(&self, jobs: &[Job], parameters: &str) -> Result<Vec<JobOutcome>> {
        match self {
            Self::Emulated(testbed) => {
                let outcome = testbed.machine(parameters)?.run_all(jobs)?;
                match outcome.death {
                    None => Ok(outcome.jobs),
                    Some(death) => {
                        let name = jobs
                            .get(outcome.jobs.len())
                            .map_or("its end", |job| &job.name);
                        Err(death).context(format!("the machine did not survive {name}"))
                    }
                }
            }
            Self::Host(_) => jobs.iter().map(host::run).collect(),
        }
    }
}
