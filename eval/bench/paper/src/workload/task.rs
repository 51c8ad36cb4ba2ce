//! The run of points, and how its outcome is read.

use std::fmt;

use anyhow::Result;
use postern_lab::job::{Job, JobOutcome};

use crate::quantity::Quantity;

/// The values that a point gave.
pub type Values = Vec<(Quantity, f64)>;

/// Memory in MiB that two Linux guests need of an emulated machine, beyond what every machine has.
pub const LINUX_MEMORY_MB: u64 = 1536;

/// What reads the outcome of a job: the values of each of its points.
type Reader = Box<dyn Fn(JobOutcome) -> Result<Vec<Values>>>;

/// A run that gives the values of a point, or of several.
pub struct Task {
    /// What is run.
    pub job: Job,
    /// Memory in MiB that the job needs of an emulated machine, beyond what every machine has.
    pub memory_mb: u64,
    read: Reader,
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task")
            .field("job", &self.job)
            .finish_non_exhaustive()
    }
}

impl Task {
    /// A job of one point, whose outcome is read by `read`.
    pub fn new(
        job: Job,
        memory_mb: u64,
        read: impl Fn(JobOutcome) -> Result<Values> + 'static,
    ) -> Task {
        Task::of_several(job, memory_mb, move |outcome| Ok(vec![read(outcome)?]))
    }

    /// A job of several points, whose values `read` gives in their order.
    pub fn of_several(
        job: Job,
        memory_mb: u64,
        read: impl Fn(JobOutcome) -> Result<Vec<Values>> + 'static,
    ) -> Task {
        Task {
            job,
            memory_mb,
            read: Box::new(read),
        }
    }

    /// What the outcome of the job says of each of its points.
    ///
    /// # Errors
    ///
    /// A run that failed, or in which not everything was as it must be.
    pub fn read(&self, outcome: JobOutcome) -> Result<Vec<Values>> {
        (self.read)(outcome)
    }
}
