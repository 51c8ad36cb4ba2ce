//! Why there is no VM, and which exit status says so.
#![deny(unsafe_code)]

use std::io;

use postern_abi::platform::CallPath;
use postern_confine as confine;

use crate::{
    acpi, boot, event_counters, kvm, kvm_stats, loader, memory, nic, pci, signals, status, vcpu,
    view, virtio,
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
    Acpi(#[from] acpi::Error),
    #[error(transparent)]
    Kvm(#[from] kvm::Error),
    #[error(transparent)]
    Vcpu(#[from] vcpu::Error),
    #[error(transparent)]
    Nic(#[from] nic::Error),
    #[error(transparent)]
    View(#[from] view::Error),
    #[error(transparent)]
    Pci(#[from] pci::Error),
    #[error(transparent)]
    Virtio(#[from] virtio::pci::Error),
    #[error(transparent)]
    Disk(#[from] virtio::blk::Error),
    #[error(transparent)]
    Net(#[from] virtio::net::NetError),
    #[error(transparent)]
    Vsock(#[from] virtio::vsock::VsockError),
    #[error(transparent)]
    Counters(#[from] event_counters::Error),
    #[error(transparent)]
    Stats(#[from] kvm_stats::Error),
    #[error(transparent)]
    Signals(#[from] signals::Error),
    /// The bus has lost the NIC's memory.
    #[error("the NIC's window is not where the VM's PCI bus put it")]
    NoWindow,
    /// A processor with features that views forbid, in a VM that has a view.
    #[error(
        "a VM with a port on the path {path} cannot have the processor `host`: it has features that \
         views forbid; leave it out, or use `view-compatible`",
        path = .0.name()
    )]
    CpuModel(CallPath),
    #[error(transparent)]
    Confine(#[from] confine::Error),
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
            | Error::CpuModel(_)
            | Error::Pci(pci::Error::Full | pci::Error::NoRoom { .. })
            | Error::Disk(_)
            | Error::Counters(_) => status::CONFIGURATION,
            Error::Kvm(_)
            | Error::Vcpu(_)
            | Error::View(_)
            | Error::Stats(_)
            | Error::Memory(memory::Error::SetSlot { .. })
            | Error::Pci(pci::Error::Map { .. }) => status::KVM,
            Error::Nic(nic::Error::TooManyVcpus { .. }) => status::CONFIGURATION,
            Error::Net(error) if error.is_configuration() => status::CONFIGURATION,
            Error::Vsock(error) if error.is_configuration() => status::CONFIGURATION,
            Error::Nic(_) => status::NIC,
            Error::Confine(confine::Error::NoFilters(_)) => status::CONFIGURATION,
            Error::Acpi(_)
            | Error::Confine(_)
            | Error::Memory(_)
            | Error::Pci(_)
            | Error::Virtio(_)
            | Error::NoWindow
            | Error::Net(_)
            | Error::Vsock(_)
            | Error::Signals(_)
            | Error::System { .. } => status::INTERNAL,
        }
    }
}
