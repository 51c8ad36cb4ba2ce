//! The CPUs that a thread may run on.
#![deny(unsafe_code)]

use rustix::thread::{CpuSet, sched_getaffinity};

/// The CPUs that the calling thread may run on, in order.
pub fn allowed() -> std::io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU)
        .filter(|&cpu| set.is_set(cpu))
        .collect())
}
