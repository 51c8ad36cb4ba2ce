//! A VM as a whole: built from a configuration, run to its end.

mod running;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{self, PathBuf};

use kvm_ioctls::VmFd;
use postern_abi::machine;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use crate::boot::{self, StartInfo};
use crate::counters::{self, Counters};
use crate::devices::{SerialOutput, Shared};
use crate::kvm::{self, Host};
use crate::memory::Slots;
use crate::nic::{self, NicPort};
use crate::recorder::Recorder;
use crate::statistics::Statistics;
use crate::vcpu::Vcpu;
use crate::view::VcpuView;
use crate::{loader, memory, signals, statistics, status, vcpu, view};

pub use running::{Stopper, Vm};

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
    Counters(#[from] counters::Error),
    #[error(transparent)]
    Statistics(#[from] statistics::Error),
    #[error(transparent)]
    Signals(#[from] signals::Error),
    /// The host has no thread or event descriptor left.
    #[error("cannot {what}")]
    System {
        /// What cannot be done.
        what: &'static str,
        /// Why not.
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
            | Error::Statistics(_)
            | Error::Memory(memory::Error::SetSlot { .. }) => status::KVM,
            Error::Nic(nic::Error::TooManyVcpus { .. }) => status::CONFIGURATION,
            Error::Nic(_) => status::NIC,
            Error::Memory(_) | Error::Signals(_) | Error::System { .. } => status::INTERNAL,
        }
    }
}

/// What a VM is made of.
#[derive(Clone, Debug)]
pub struct Config {
    /// The guest's kernel, an ELF64 file.
    pub kernel: PathBuf,
    /// The guest's initrd.
    pub initrd: Option<PathBuf>,
    /// The command line; the VMM adds the word that describes the NIC port.
    pub cmdline: String,
    /// RAM in bytes.
    pub memory: u64,
    /// Number of vCPUs.
    pub vcpus: usize,
    /// Which counters are read at marks.
    pub counters: counters::Kind,
    /// Whether marks and final statistics are recorded.
    pub record: bool,
    /// Whether the abort of a call in a view ends the VM, too.
    pub exit_on_abort: bool,
}

/// Where a VM's output goes.
pub struct Outputs {
    /// What the guest writes to COM1.
    pub serial: SerialOutput,
    /// What the guest puts in its outbox.
    pub outbox: Option<File>,
}

/// A VM that has everything but its vCPUs.
pub struct Builder {
    config: Config,
    host: Host,
    vm: VmFd,
    ram: GuestMemoryMmap,
    slots: Slots,
    kernel: loader::Kernel,
    initrd: Option<loader::Module>,
    nic: Option<NicPort>,
}

impl Builder {
    /// Makes a VM and loads its kernel and initrd.
    ///
    /// # Errors
    ///
    /// When the configuration is unfit or KVM refuses.
    pub fn new(config: Config) -> Result<Builder, Error> {
        let ram = memory::reserve_ram(config.memory)?;
        let kernel = loader::load_kernel(&ram, &config.kernel)?;
        let initrd = config
            .initrd
            .as_deref()
            .map(|path| loader::load_initrd(&ram, path, &kernel))
            .transpose()?;
        let host = Host::open()?;
        host.check_vcpus(config.vcpus)?;
        let vm = host.create_vm()?;
        let mut slots = Slots::new();
        slots.add_ram(&ram)?;
        Ok(Builder {
            config,
            host,
            vm,
            ram,
            slots,
            kernel,
            initrd,
            nic: None,
        })
    }

    /// Takes a port of the NIC at `socket` for the VM.
    ///
    /// # Errors
    ///
    /// When the NIC does not give it, or cannot tell the VM's vCPUs apart, or its memory does not fit
    /// into the VM.
    pub fn connect(
        mut self,
        socket: &path::Path,
        port: u32,
        path: machine::Path,
    ) -> Result<Builder, Error> {
        let nic = NicPort::connect(socket, port, path)?;
        nic.check_vcpus(self.config.vcpus)?;
        nic.add_slots(&mut self.slots)?;
        if !self.config.cmdline.is_empty() {
            self.config.cmdline.push(' ');
        }
        self.config.cmdline.push_str(&nic.cmdline_word());
        self.nic = Some(nic);
        Ok(self)
    }

    /// Makes the VM ready to run.
    ///
    /// # Errors
    ///
    /// When KVM refuses, or counters or statistics cannot be had.
    pub fn build(self) -> Result<Vm, Error> {
        let Builder {
            config,
            host,
            vm,
            ram,
            slots,
            kernel,
            initrd,
            nic,
        } = self;
        let info = StartInfo {
            cmdline: &config.cmdline,
            initrd,
        };
        let tables = boot::prepare(&ram, &info)?;
        slots.install(&vm)?;

        let mut vcpus = Vec::with_capacity(config.vcpus);
        for number in 0..config.vcpus {
            let fd = vm
                .create_vcpu(number as u64)
                .map_err(kvm::call("KVM_CREATE_VCPU"))?;
            let vcpu = Vcpu::new(number, fd, &host.cpuid(number, config.vcpus))?;
            let view = nic.as_ref().and_then(|nic| nic.view(config.exit_on_abort));
            let attached = view
                .map(|(view, mode)| VcpuView::attach(number, vcpu.as_fd(), view, mode))
                .transpose()?;
            vcpus.push((vcpu, attached));
        }
        if let Some((first, _)) = vcpus.first() {
            first.start_at(kernel.entry, &tables)?;
        }
        let recorder = if config.record {
            let own = Statistics::open("the VM", &vm)?;
            let each = vcpus
                .iter()
                .map(|(vcpu, _)| Statistics::open("a vCPU", vcpu.fd()))
                .collect::<Result<_, _>>()?;
            Some(Shared::new(Recorder::new(own, each)))
        } else {
            None
        };
        // Counters belong to the threads that will run the vCPUs; here only to see that there are any.
        Counters::open(config.counters)?;
        signals::enable_kicks()?;

        let irq = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(|source| {
            Error::System {
                what: "make an event descriptor for the serial port",
                source,
            }
        })?;
        vm.register_irqfd(&irq, u32::from(machine::IRQ_SERIAL))
            .map_err(kvm::call("KVM_IRQFD"))?;
        Ok(Vm::new(running::Parts {
            counters: config.counters,
            vcpus,
            ram,
            irq,
            recorder,
            nic,
            slots,
            vm,
        }))
    }
}
