//! What can fail when the self-test is set up: then there is nothing to judge.

use std::io;

use crate::{kvm, kvm_stats, memory};

/// A step of the self-test that did not work, other than what it judges.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// KVM of this host.
    #[error("the self-test's VM cannot be made")]
    Host(#[source] kvm::Error),
    /// The VM's memory.
    #[error("the self-test's VM cannot be made")]
    Memory(#[source] memory::Error),
    /// The VM's state.
    #[error("the self-test's VM cannot be set up: {0}")]
    Guest(String),
    /// KVM's counters.
    #[error("the vCPU's statistics cannot be read")]
    Statistics(#[source] kvm_stats::Error),
    /// A call that KVM refused.
    #[error("{call} failed")]
    Call {
        /// The call.
        call: &'static str,
        /// KVM's error.
        source: kvm_ioctls::Error,
    },
    /// A call of views that KVM refused.
    #[error("{call} failed")]
    View {
        /// The call.
        call: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

pub(super) fn call(call: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Error {
    move |source| Error::Call { call, source }
}

pub(super) fn view(call: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::View { call, source }
}

/// An error with all that caused it, in one line.
pub(super) fn in_full(error: &Error) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text += &format!(": {cause}");
        next = cause.source();
    }
    text
}
