//! A VM as a whole: built from a configuration, run to its end.

use std::fs::File;
use std::io;
use std::path::{self, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};

use kvm_ioctls::VmFd;
use postern_abi::machine;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use crate::boot::{self, StartInfo};
use crate::counters::{self, Counters, Counts};
use crate::devices::{Bus, ExitPort, MarkPort, Outbox, RequestPort, Serial, SerialOutput, Shared};
use crate::kvm::{self, Host};
use crate::memory::Slots;
use crate::nic::{self, NicPort};
use crate::recorder::{Recorder, View};
use crate::report::{Final, Outcome, Report};
use crate::statistics::Statistics;
use crate::vcpu::{End, Vcpu};
use crate::view::Attached;
use crate::{loader, memory, signals, statistics, status, vcpu, view};

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
    /// When the NIC does not give it, or its memory does not fit into the VM.
    pub fn connect(
        mut self,
        socket: &path::Path,
        port: u32,
        path: machine::Path,
    ) -> Result<Builder, Error> {
        let nic = NicPort::connect(socket, port, path)?;
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
                .map(|(view, usage)| Attached::attach(number, vcpu.fd(), view, usage))
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
        let (sender, events) = mpsc::channel();
        Ok(Vm {
            counters: config.counters,
            vcpus,
            ram,
            irq,
            recorder,
            nic,
            sender,
            events,
            _slots: slots,
            _vm: vm,
        })
    }
}

/// What the threads of a VM tell the one that waits for its end.
enum Event {
    Ended { vcpu: usize, end: End },
    Signal(i32),
}

/// Ends a VM from outside.
#[derive(Clone)]
pub struct Stopper(Sender<Event>);

impl Stopper {
    /// Ends the VM because of that signal.
    pub fn stop(&self, signal: i32) {
        // If nobody listens any more, the VM has ended.
        let _ = self.0.send(Event::Signal(signal));
    }
}

/// A VM that is ready to run.
pub struct Vm {
    counters: counters::Kind,
    vcpus: Vec<(Vcpu, Option<Attached>)>,
    ram: GuestMemoryMmap,
    irq: EventFd,
    recorder: Option<Shared<Recorder>>,
    nic: Option<NicPort>,
    sender: Sender<Event>,
    events: Receiver<Event>,
    // After the vCPUs: memory stays until they are gone.
    _slots: Slots,
    _vm: VmFd,
}

/// What a vCPU's thread leaves behind.
struct Remains {
    counts: Counts,
    view: Option<View>,
    strays: u64,
}

impl Vm {
    /// A handle that ends the VM.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.sender.clone())
    }

    /// Runs the VM to its end: the first vCPU that ends, or the first signal, ends all.
    ///
    /// # Errors
    ///
    /// When threads cannot be started, or the last snapshot cannot be taken.
    pub fn run(self, outputs: Outputs) -> Result<Report, Error> {
        let devices = Devices {
            serial: Shared::new(Serial::new(self.irq, outputs.serial)),
            outbox: Shared::new(Outbox::new(self.ram, outputs.outbox)),
            recorder: self.recorder,
        };
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads: Vec<JoinHandle<Result<Remains, Error>>> = Vec::new();
        let mut started = Ok(());
        for (vcpu, attached) in self.vcpus {
            let (devices, stop, sender) = (devices.clone(), Arc::clone(&stop), self.sender.clone());
            let own = VcpuDevices {
                request: self.nic.as_ref().and_then(NicPort::request_port),
                attached,
            };
            let kind = self.counters;
            let thread = thread::Builder::new()
                .name(format!("vcpu{}", vcpu.number()))
                .spawn(move || run_vcpu(vcpu, &devices, own, kind, &stop, &sender));
            match thread {
                Ok(thread) => threads.push(thread),
                Err(source) => {
                    let what = "start a thread for a vCPU";
                    started = Err(Error::System { what, source });
                    break;
                }
            }
        }
        let event = started.map(|()| self.events.recv());
        stop.store(true, Ordering::Relaxed);
        signals::kick(&threads);
        let mut remains = Vec::with_capacity(threads.len());
        for thread in threads {
            let ended = thread.join().unwrap_or_else(|_| {
                Err(Error::System {
                    what: "run a vCPU",
                    source: io::Error::other("its thread panicked"),
                })
            });
            remains.push(ended?);
        }
        let outcome = match event? {
            Ok(Event::Ended { vcpu, end }) => Outcome::Ended { vcpu, end },
            Ok(Event::Signal(signal)) => Outcome::Signal(signal),
            Err(mpsc::RecvError) => unreachable!("`sender` is still here"),
        };
        devices.report(outcome, &remains)
    }
}

/// The devices that all vCPUs of a VM share.
#[derive(Clone)]
struct Devices {
    serial: Shared<Serial>,
    outbox: Shared<Outbox>,
    recorder: Option<Shared<Recorder>>,
}

/// The devices of one vCPU.
struct VcpuDevices {
    request: Option<RequestPort>,
    attached: Option<Attached>,
}

impl Devices {
    fn bus(&self, request: Option<RequestPort>, mark: Shared<MarkPort>) -> Bus {
        let mut bus = Bus::new();
        if let Some(request) = request {
            bus.add(machine::PORT_REQUEST, 4, Box::new(request));
        }
        bus.add(machine::PORT_MARK, 4, Box::new(mark));
        bus.add(machine::PORT_EXIT, 4, Box::new(ExitPort));
        bus.add(machine::PORT_OUTBOX, 4, Box::new(self.outbox.clone()));
        bus.add(
            machine::PORT_SERIAL,
            Serial::PORTS,
            Box::new(self.serial.clone()),
        );
        bus
    }

    fn report(&self, outcome: Outcome, remains: &[Remains]) -> Result<Report, Error> {
        let flushed = self.serial.with(Serial::flush);
        let outcome = match (outcome, flushed) {
            (
                Outcome::Ended {
                    vcpu,
                    end: End::Guest(_),
                },
                Err(failure),
            ) => Outcome::Ended {
                vcpu,
                end: End::Failed(failure),
            },
            (outcome, _) => outcome,
        };
        let views = remains.iter().filter_map(|one| one.view).collect();
        let (marks, marks_dropped, statistics) = match &self.recorder {
            Some(recorder) => recorder.with(|recorder| {
                let now = recorder.now(views)?;
                Ok::<_, Error>((recorder.marks(), recorder.dropped(), Some(now)))
            })?,
            None => (Vec::new(), 0, None),
        };
        Ok(Report {
            outcome,
            marks,
            marks_dropped,
            last: Final {
                statistics,
                counters: remains.iter().map(|one| one.counts).collect(),
                stray_accesses: remains.iter().map(|one| one.strays).sum(),
                outbox_refused: self.outbox.with(|outbox| outbox.refused()),
            },
        })
    }
}

/// Tells that a vCPU has ended, however its thread ends.
struct Announcement<'a> {
    events: &'a Sender<Event>,
    vcpu: usize,
    end: Option<End>,
}

impl Drop for Announcement<'_> {
    fn drop(&mut self) {
        // Without an end, the thread's own result says what happened.
        let end = self.end.take().unwrap_or(End::Stopped);
        // Who listens is gone only once all threads have ended.
        let _ = self.events.send(Event::Ended {
            vcpu: self.vcpu,
            end,
        });
    }
}

/// The thread of a vCPU.
fn run_vcpu(
    mut vcpu: Vcpu,
    devices: &Devices,
    own: VcpuDevices,
    kind: counters::Kind,
    stop: &AtomicBool,
    events: &Sender<Event>,
) -> Result<Remains, Error> {
    let number = vcpu.number();
    let mut announcement = Announcement {
        events,
        vcpu: number,
        end: None,
    };
    let counters = Counters::open(kind)?;
    let mark = MarkPort::new(number, counters, own.attached, devices.recorder.clone());
    let mark = Shared::new(mark);
    let mut bus = devices.bus(own.request, mark.clone());
    announcement.end = Some(vcpu.run(&mut bus, stop));
    let (counts, view) = mark.with(MarkPort::last)?;
    Ok(Remains {
        counts,
        view,
        strays: bus.strays(),
    })
}
