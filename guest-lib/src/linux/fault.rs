//! The signals by which a program learns that a call was aborted.
//!
//! | signal, address (`si_addr`) | what happened |
//! | --- | --- |
//! | SIGILL at [`VMFUNC_GVA`] | the call was aborted, or views are not armed on this vCPU |
//! | SIGSEGV at the gate's page B | a jump there, which the default view never maps |
//! | SIGSEGV in `OUT`, on exit-user | the thread has no right to the I/O port ([`Port::allow_thread`](super::Port::allow_thread)) |
//!
//! After an abort all registers but RSP are zero, and nothing can be resumed: a handler reports it
//! and ends the process, or leaves by a jump to a place that was saved before the call. The frames of
//! that call may have been sent, and the others wait in the ring.

#![deny(unsafe_code)]

use postern_abi::PAGE_SIZE;
use postern_abi::view::GATE_GVA;

use crate::gate::VMFUNC_GVA;

/// A fault that has to do with the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateFault {
    /// A call was aborted by the host, or VMFUNC is refused on this vCPU.
    Aborted,
    /// Control came to page B in the default view.
    PageB,
}

impl GateFault {
    /// The fault that a signal with this number and address (`si_signo`, `si_addr`) reports, if it has
    /// to do with the gate. It is async-signal-safe.
    pub const fn of(signal: i32, address: u64) -> Option<GateFault> {
        match signal {
            libc::SIGILL if address == VMFUNC_GVA => Some(GateFault::Aborted),
            libc::SIGSEGV if address >= GATE_GVA && address < GATE_GVA + PAGE_SIZE => {
                Some(GateFault::PageB)
            }
            _ => None,
        }
    }

    /// What to tell the user.
    pub const fn message(self) -> &'static str {
        match self {
            GateFault::Aborted => {
                "a call into the NIC's view was aborted: it broke the rules, the port was taken \
                 away, or a hardware breakpoint is set"
            }
            GateFault::PageB => "a jump into the gate's page, which exists inside views alone",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_faults_have_nothing_to_do_with_the_gate() {
        assert_eq!(
            GateFault::of(libc::SIGILL, VMFUNC_GVA),
            Some(GateFault::Aborted)
        );
        assert_eq!(GateFault::of(libc::SIGSEGV, VMFUNC_GVA), None);
        assert_eq!(GateFault::of(libc::SIGILL, VMFUNC_GVA + 3), None);
        assert_eq!(
            GateFault::of(libc::SIGSEGV, GATE_GVA + 5),
            Some(GateFault::PageB)
        );
        assert_eq!(GateFault::of(libc::SIGSEGV, GATE_GVA + PAGE_SIZE), None);
        assert_eq!(GateFault::of(libc::SIGBUS, GATE_GVA), None);
    }
}
