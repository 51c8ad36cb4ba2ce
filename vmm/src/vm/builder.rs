//! Putting a VM together: memory, kernel, NIC port, vCPUs.
#![deny(unsafe_code)]

use std::fmt;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{self, PathBuf};
use std::sync::Arc;

use kvm_ioctls::VmFd;
use postern_abi::{nic_device, platform};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::error::Error;
use super::guest::{Guest, GuestFiles, Loaded};
use super::on_reboot::OnReboot;
use super::reset::{InterruptControllers, Restart};
use super::running::{Parts, Vm};
use super::vcpu_thread::VcpuParts;
use crate::acpi;
use crate::cpuid::CpuModel;
use crate::devices::Shared;
use crate::event_counters::{CounterSource, EventCounters};
use crate::kvm::{self, Host};
use crate::kvm_stats::KvmStats;
use crate::loader::{InitrdFile, KernelFile};
use crate::measurement::SnapshotRecorder;
use crate::memory::{self, Slots};
use crate::nic::NicPort;
use crate::pci::{Bell, Ivshmem, KvmMachine, PciFunction, Segment};
use crate::signals;
use crate::vcpu::Vcpu;
use crate::view::VcpuView;
use crate::virtio::VirtioDevice;
use crate::virtio::blk::{Blk, DiskConfig};
use crate::virtio::net::{Net, NetConfig};
use crate::virtio::pci::VirtioPci;
use crate::virtio::vsock::{Vsock, VsockConfig};

/// What a VM is made of.
#[derive(Clone, Debug)]
pub struct BuildConfig {
    /// The guest's kernel: a bzImage or an ELF64 file.
    pub kernel: PathBuf,
    /// The guest's initrd.
    pub initrd: Option<PathBuf>,
    /// The command line; the VMM adds the word that describes the NIC port.
    pub cmdline: String,
    /// RAM in bytes.
    pub memory: u64,
    /// Number of vCPUs.
    pub vcpus: usize,
    /// Features of the processor; without it what the path of the NIC port allows.
    pub cpu: Option<CpuModel>,
    /// Which counters are read at snapshots.
    pub counters: CounterSource,
    /// Whether snapshots, the last one included, are recorded.
    pub record: bool,
    /// What becomes of the VM when the guest resets it.
    pub on_reboot: OnReboot,
    /// Whether the abort of a call in a view ends the VM, too.
    pub exit_on_abort: bool,
}

/// A VM that has everything but its vCPUs.
pub struct Builder {
    config: BuildConfig,
    host: Host,
    vm: Arc<VmFd>,
    ram: GuestMemoryMmap,
    machine: Arc<KvmMachine>,
    segment: Option<Arc<Segment>>,
    files: GuestFiles,
    loaded: Loaded,
    nic: Option<NicPort>,
    /// What interrupts the driver of the NIC's port, where that has a doorbell.
    bell: Option<Arc<Bell>>,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("config", &self.config)
            .field("machine", &self.machine)
            .field("loaded", &self.loaded)
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
        let initrd = config.initrd.as_deref().map(InitrdFile::open).transpose()?;
        let mut files = GuestFiles {
            kernel: KernelFile::open(&config.kernel)?,
            initrd,
        };
        let loaded = files.load(&ram)?;
        let host = Host::open()?;
        host.check_vcpus(config.vcpus)?;
        let vm = Arc::new(host.create_vm()?);
        let mut slots = Slots::new();
        slots.add_ram(&ram)?;
        let machine = Arc::new(KvmMachine::new(Arc::clone(&vm), slots));
        Ok(Builder {
            config,
            host,
            vm,
            ram,
            machine,
            segment: None,
            files,
            loaded,
            nic: None,
            bell: None,
        })
    }

    /// Puts a function on the VM's PCI bus, as the next device. A VM without one has no PCI bus.
    ///
    /// # Errors
    ///
    /// When the bus is full, or KVM refuses what the function needs.
    pub fn add_function(mut self, function: Box<dyn PciFunction>) -> Result<Builder, Error> {
        self.plug(function)?;
        Ok(self)
    }

    /// Puts a virtio device on the VM's PCI bus, as the next one.
    ///
    /// # Errors
    ///
    /// As [`Builder::add_function`]; or the device has more queues than a function can have.
    pub fn add_virtio(self, device: Box<dyn VirtioDevice>) -> Result<Builder, Error> {
        // One who does not read it any more is no reason to end.
        let tell = Box::new(|text: &str| {
            let _ = io::stderr().write_all(format!("postern: {text}\n").as_bytes());
        });
        let function = VirtioPci::new(device, self.ram.clone(), tell)?;
        self.add_function(Box::new(function))
    }

    /// Gives the VM a disk, as its next PCI device.
    ///
    /// # Errors
    ///
    /// When there is no such image, it is unfit, or another VM has it; or as
    /// [`Builder::add_virtio`].
    pub fn add_disk(self, config: &DiskConfig) -> Result<Builder, Error> {
        let disk = Blk::open(config)?;
        self.add_virtio(Box::new(disk))
    }

    /// Gives the VM a network device over a TAP, as the next one on its PCI bus.
    ///
    /// # Errors
    ///
    /// As [`Builder::add_virtio`]; or the TAP, or the backend that is to move its packets, cannot be
    /// had.
    pub fn add_net(self, config: &NetConfig) -> Result<Builder, Error> {
        let device = Net::open(config)?;
        self.add_virtio(Box::new(device))
    }

    /// Gives the VM sockets to its host, as the next device on its PCI bus.
    ///
    /// # Errors
    ///
    /// As [`Builder::add_virtio`]; or the host has no vhost-vsock, or the address is another VM's.
    pub fn add_vsock(self, config: VsockConfig) -> Result<Builder, Error> {
        let device = Vsock::open(config)?;
        self.add_virtio(Box::new(device))
    }

    /// Puts a function on the bus; returns the bus and the number of the function's device.
    fn plug(&mut self, function: Box<dyn PciFunction>) -> Result<(&Segment, usize), Error> {
        let segment = match self.segment.take() {
            Some(segment) => segment,
            None => Arc::new(Segment::new(Arc::clone(&self.machine) as Arc<_>)?),
        };
        let segment = &**self.segment.insert(segment);
        let device = segment.plug(function)?;
        Ok((segment, device))
    }

    /// Takes a port of the NIC at `socket` for the VM, as the next function of its PCI bus. With a
    /// doorbell the function has MSI-X vectors. Its memory is where guests without PCI look for it
    /// ([`platform::NIC_GPA`]) if it is put on the bus before other memory.
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
        doorbell: bool,
    ) -> Result<Builder, Error> {
        let nic = NicPort::connect(socket, port, path)?;
        nic.check_vcpus(self.config.vcpus)?;
        let device = nic.device(doorbell);
        let function = Ivshmem::new(device, nic.memory(), nic.peers());
        let function = function.map_err(|source| Error::System {
            what: "make event descriptors for the NIC's port",
            source,
        })?;
        self.bell = doorbell.then(|| function.bell());
        let (segment, number) = self.plug(Box::new(function))?;
        let gpa = segment.bar(number, nic_device::BAR_WINDOW);
        let gpa = gpa.ok_or(Error::NoWindow)?;
        if !self.config.cmdline.is_empty() {
            self.config.cmdline.push(' ');
        }
        let word = device.port_word(gpa).to_string();
        self.config.cmdline.push_str(&word);
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
            machine,
            segment,
            files,
            loaded,
            nic,
            bell,
        } = self;
        let platform = acpi::Platform {
            vcpus: config.vcpus,
            pci: segment.is_some(),
            own_pin: segment.as_ref().and_then(|segment| segment.own_pin()),
        };
        let guest = Guest {
            files,
            ram: ram.clone(),
            cmdline: config.cmdline,
            platform,
        };
        let start = guest.prepare(&loaded)?;
        machine.with_slots(|slots| slots.install(&vm))?;

        let model = cpu_model(config.cpu, nic.as_ref())?;
        let restarts = config.on_reboot == OnReboot::Restart;
        let msrs = restarts.then(|| host.msrs()).transpose()?;
        let mut vcpus = Vec::with_capacity(config.vcpus);
        for number in 0..config.vcpus {
            let fd = vm
                .create_vcpu(number as u64)
                .map_err(kvm::call("KVM_CREATE_VCPU"))?;
            let khz = fd.get_tsc_khz().ok().filter(|&khz| khz != 0);
            let cpuid = host.cpuid(number, config.vcpus, model, khz)?;
            let vcpu = Vcpu::new(number, fd, &cpuid)?;
            let initial = msrs.as_deref().map(|msrs| vcpu.state(msrs)).transpose()?;
            let access = nic
                .as_ref()
                .and_then(|nic| nic.access(config.exit_on_abort));
            let attached = access
                .map(|access| VcpuView::attach(number, vcpu.as_fd(), access))
                .transpose()?;
            vcpus.push(VcpuParts {
                vcpu,
                attached,
                initial,
            });
        }
        if let Some(VcpuParts { vcpu: first, .. }) = vcpus.first() {
            first.start_at(start.entry, &start.tables)?;
        }
        let restart = match restarts {
            true => Some(Restart {
                guest,
                controllers: InterruptControllers::of(&vm)?,
            }),
            false => None,
        };
        let recorder = if config.record {
            let own = KvmStats::open("the VM", &*vm)?;
            let each = vcpus
                .iter()
                .map(|parts| KvmStats::open("a vCPU", parts.vcpu.fd()))
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
            bell,
            segment,
            machine,
            vm,
            restart,
        }))
    }
}

/// The features of the processor of a VM with this port.
fn cpu_model(asked: Option<CpuModel>, nic: Option<&NicPort>) -> Result<CpuModel, Error> {
    let path = nic.map(NicPort::path).filter(|path| path.needs_view());
    match (asked, path) {
        (Some(CpuModel::Host), Some(path)) => Err(Error::CpuModel(path)),
        (Some(model), _) => Ok(model),
        (None, Some(_)) => Ok(CpuModel::ViewCompatible),
        (None, None) => Ok(CpuModel::Host),
    }
}
