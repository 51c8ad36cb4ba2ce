//! Why there is no VM, and which exit status says so.
#![deny(unsafe_code)]

use std::io;

use crate::{
    boot, event_counters, kvm, kvm_stats, loader, memory, nic, signals, status, vcpu, view,
};

/// What can fail before a VM runs, or at its end.
#[derive(Debug, thiserror::Error)]
#[allow(
    missing_docs,
    reason = "each variant names the module whose error it is"
)]
pub enum Error {
    #[error(transparent)]
    Memory(#[from] memory::Error),
    #[error(transparent)]
    Loader(#[from] loader::Error),
    #[error(transparent)]
    Boot(#[from] boot::Error),
    #[error(transparent)]
    Kvm(#[from] kvm::Error),
    #[error(transparent)]
    Vcpu(#[from] vcpu::Error),
    #[error(transparent)]
    Nic(#[from] nic::Error),
    #[error(transparent)]
    View(#[from] view::Error),
    #[error(transparent)]
    Counters(#[from] event_counters::Error),
    #[error(transparent)]
    Stats(#[from] kvm_stats::Error),
    #[error(transparent)]
    Signals(#[from] signals::Error),
    /// The host has no thread or event descriptor left.
    #[error("cannot {what}")]
    System {
        /// The operation that failed.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

impl Error {
    /// The exit status that stands for the error.
    pub fn status(&self) -> u8 {
        match self {
            Error::Kvm(kvm::Error::NoVcpus | kvm::Error::TooManyVcpus { .. })
            | Error::Memory(
                memory::Error::TooSmall(_)
                | memory::Error::TooLarge(_)
                | memory::Error::Unaligned(_)
                | memory::Error::Overlap { .. },
            )
            | Error::Loader(_)
            | Error::Boot(_)
            | Error::Counters(_) => status::CONFIGURATION,
            Error::Kvm(_)
            | Error::Vcpu(_)
            | Error::View(_)
            | Error::Stats(_)
            | Error::Memory(memory::Error::SetSlot { .. }) => status::KVM,
            Error::Nic(nic::Error::TooManyVcpus { .. }) => status::CONFIGURATION,
            Error::Nic(_) => status::NIC,
            Error::Memory(_) | Error::Signals(_) | Error::System { .. } => status::INTERNAL,
        }
    }
}
