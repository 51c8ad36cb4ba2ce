//! What happens to a VM that runs.
#![deny(unsafe_code)]

use crate::vcpu::VcpuEnd;

/// What the threads of a VM tell the one that waits for its end.
#[derive(Debug)]
pub(super) enum Event {
    /// A vCPU has stopped.
    Ended { vcpu: usize, end: VcpuEnd },
    /// A vCPU is in its first state again.
    Restored,
    /// A signal came that ends the VMM.
    Signal(i32),
}
