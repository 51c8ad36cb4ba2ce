//! Putting a VM together: memory, kernel, NIC port, vCPUs.
#![deny(unsafe_code)]

use std::fmt;
use std::os::fd::AsFd;
use std::path::{self, PathBuf};

use kvm_ioctls::VmFd;
use postern_abi::platform;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::error::Error;
use super::running::{Parts, Vm};
use crate::boot::{self, StartInfo};
use crate::devices::Shared;
use crate::event_counters::{CounterSource, EventCounters};
use crate::kvm::{self, Host};
use crate::kvm_stats::KvmStats;
use crate::measurement::SnapshotRecorder;
use crate::memory::{self, Slots};
use crate::nic::NicPort;
use crate::vcpu::Vcpu;
use crate::view::VcpuView;
use crate::{loader, signals};

/// What a VM is made of.
#[derive(Clone, Debug)]
pub struct BuildConfig {
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
    /// Which counters are read at snapshots.
    pub counters: CounterSource,
    /// Whether snapshots, the last one included, are recorded.
    pub record: bool,
    /// Whether the abort of a call in a view ends the VM, too.
    pub exit_on_abort: bool,
}

/// A VM that has everything but its vCPUs.
pub struct Builder {
    config: BuildConfig,
    host: Host,
    vm: VmFd,
    ram: GuestMemoryMmap,
    slots: Slots,
    kernel: loader::Kernel,
    initrd: Option<loader::Module>,
    nic: Option<NicPort>,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("config", &self.config)
            .field("slots", &self.slots)
            .field("kernel", &self.kernel)
            .field("nic", &self.nic)
            .finish_non_exhaustive()
    }
}

impl Builder {
    /// Makes a VM and loads its kernel and initrd.
    ///
    /// # Errors
    ///
    /// When the configuration is unfit or KVM refuses.
    pub fn new(config: BuildConfig) -> Result<Builder, Error> {
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
    /// When the NIC does not give it, or cannot tell the VM's vCPUs apart, or its memory does not
    /// fit into the VM.
    pub fn connect(
        mut self,
        socket: &path::Path,
        port: u32,
        path: platform::CallPath,
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
            let access = nic
                .as_ref()
                .and_then(|nic| nic.access(config.exit_on_abort));
            let attached = access
                .map(|access| VcpuView::attach(number, vcpu.as_fd(), access))
                .transpose()?;
            vcpus.push((vcpu, attached));
        }
        if let Some((first, _)) = vcpus.first() {
            first.start_at(kernel.entry, &tables)?;
        }
        let recorder = if config.record {
            let own = KvmStats::open("the VM", &vm)?;
            let each = vcpus
                .iter()
                .map(|(vcpu, _)| KvmStats::open("a vCPU", vcpu.fd()))
                .collect::<Result<_, _>>()?;
            Some(Shared::new(SnapshotRecorder::new(own, each)))
        } else {
            None
        };
        // Counters belong to the threads that will run the vCPUs: this only sees whether there are
        // any.
        EventCounters::open(config.counters)?;
        signals::enable_kicks()?;

        let irq = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(|source| {
            Error::System {
                what: "make an event descriptor for the serial port",
                source,
            }
        })?;
        vm.register_irqfd(&irq, u32::from(platform::IRQ_SERIAL))
            .map_err(kvm::call("KVM_IRQFD"))?;
        Ok(Vm::new(Parts {
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
