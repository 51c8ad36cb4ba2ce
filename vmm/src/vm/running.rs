//! A VM that runs: a thread for each vCPU, and one that waits for the end.
#![deny(unsafe_code)]

use std::fmt;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, OnceLock};

use kvm_ioctls::VmFd;
use postern_confine::Kind;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::devices::{Devices, Pci};
use super::error::Error;
use super::event::Event;
use super::reset::Restart;
use super::vcpu_thread::{self, Common, VcpuParts, VcpuResult, VcpuThread};
use crate::bells::BellThread;
use crate::console::{self, Console};
use crate::control::LiveStats;
use crate::devices::{Outbox, Serial, Shared};
use crate::event_counters::CounterSource;
use crate::kvm_stats::KvmStats;
use crate::measurement::SnapshotRecorder;
use crate::nic::{NicEnd, NicPort, NicWatch};
use crate::pci::{Bell, ConfigPorts, KvmMachine, Segment};
use crate::run_report::{FinalStats, Outcome, RunReport};
use crate::signals;
use crate::vcpu::VcpuEnd;

/// Where a VM's output goes.
pub struct Outputs {
    /// Where COM1 goes.
    pub console: Console,
    /// Is told what a user at the console asks for by the escape key.
    pub console_action: Box<dyn FnMut(console::Action) + Send>,
    /// What the guest puts in its outbox.
    pub outbox: Option<File>,
    /// Is told when the NIC takes the VM's port back, or its owner goes.
    pub nic_end: Box<dyn FnOnce(&NicEnd) + Send>,
}

impl fmt::Debug for Outputs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outputs")
            .field("outbox", &self.outbox)
            .finish_non_exhaustive()
    }
}

/// Ends a VM from outside.
#[derive(Debug, Clone)]
pub struct Stopper(Sender<Event>);

impl Stopper {
    /// Ends the VM because of that signal; false if it has ended already.
    pub fn stop(&self, signal: i32) -> bool {
        self.0.send(Event::Signal(signal)).is_ok()
    }
}

/// What a VM that is ready to run consists of.
pub(super) struct Parts {
    pub(super) counters: CounterSource,
    pub(super) vcpus: Vec<VcpuParts>,
    pub(super) ram: GuestMemoryMmap,
    pub(super) irq: EventFd,
    pub(super) recorder: Option<Shared<SnapshotRecorder>>,
    pub(super) nic: Option<NicPort>,
    /// What interrupts the driver of the NIC's port.
    pub(super) bell: Option<Arc<Bell>>,
    pub(super) segment: Option<Arc<Segment>>,
    pub(super) machine: Arc<KvmMachine>,
    pub(super) vm: Arc<VmFd>,
    /// What a reset needs, if the VM is to start again then.
    pub(super) restart: Option<Restart>,
}

/// A VM that is ready to run.
pub struct Vm {
    parts: Parts,
    sender: Sender<Event>,
    events: Receiver<Event>,
}

impl fmt::Debug for Vm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vm")
            .field("vcpus", &self.parts.vcpus.len())
            .field("machine", &self.parts.machine)
            .finish_non_exhaustive()
    }
}

impl Vm {
    pub(super) fn new(parts: Parts) -> Vm {
        let (sender, events) = mpsc::channel();
        Vm {
            parts,
            sender,
            events,
        }
    }

    /// A handle that ends the VM.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.sender.clone())
    }

    /// KVM's statistics, to be read while the VM runs.
    ///
    /// # Errors
    ///
    /// When KVM has none.
    pub fn live_stats(&self) -> Result<LiveStats, Error> {
        let own = KvmStats::open("the VM", self.parts.vm.as_ref())?;
        let each = self.parts.vcpus.iter();
        let each = each.map(|parts| KvmStats::open("a vCPU", parts.vcpu.fd()));
        let bell = self.parts.bell.clone();
        Ok(LiveStats::new(own, each.collect::<Result<_, _>>()?, bell))
    }

    /// Runs the VM to its end: the first vCPU that ends, or the first signal, ends all.
    ///
    /// In a process that is to be confined ([`postern_confine::turn_on`]) all threads of the VM are,
    /// before the guest's first instruction, the calling one included, which stays so.
    ///
    /// # Errors
    ///
    /// When threads cannot be started or confined, or the last snapshot cannot be taken.
    pub fn run(self, outputs: Outputs) -> Result<RunReport, Error> {
        let Parts {
            counters: kind,
            vcpus,
            ram,
            irq,
            recorder,
            nic,
            bell,
            segment,
            vm,
            mut restart,
            // Memory, and the VM itself, stay until the vCPUs are gone.
            machine: _machine,
        } = self.parts;
        let stop = Arc::new(AtomicBool::new(false));
        let (writer, pump, wake) = outputs.console.split(Arc::clone(&stop));
        let room = {
            let wake = Arc::clone(&wake);
            Arc::new(move || wake.wake())
        };
        let serial = Serial::new(irq, Box::new(writer), room);
        let outbox = outputs.outbox.map(|file| {
            let stream = console::Stream::new(file, Arc::clone(&stop));
            Box::new(stream) as Box<dyn io::Write + Send>
        });
        let devices = Devices {
            serial: Shared::new(serial),
            outbox: Shared::new(Outbox::new(ram, outbox)),
            recorder,
            pci: segment.map(|segment| Pci {
                ports: ConfigPorts::new(Arc::clone(&segment)),
                segment,
            }),
        };
        let watch = nic.as_ref().map(|nic| nic.watch(outputs.nic_end));
        let watch = watch.transpose().map_err(|source| Error::System {
            what: "watch the connection to the NIC",
            source,
        })?;
        let bells = bell.map(BellThread::start).transpose();
        let bells = bells.map_err(|source| Error::System {
            what: "start a thread for the bells of the NIC's port",
            source,
        })?;
        let console = {
            let (serial, stop, act) = (
                devices.serial.clone(),
                Arc::clone(&stop),
                outputs.console_action,
            );
            let run = move || pump.run(&serial, &stop, act);
            postern_confine::spawn(Kind::Console, "console", run).map_err(|source| {
                Error::System {
                    what: "start a thread for the console",
                    source,
                }
            })?
        };
        let common = Common {
            devices,
            counters: kind,
            halt: Arc::new(AtomicBool::new(false)),
            gate: Arc::new(OnceLock::new()),
            events: self.sender.clone(),
        };
        let mut threads: Vec<VcpuThread> = Vec::new();
        let mut started = Ok(());
        for parts in vcpus {
            let request = nic
                .as_ref()
                .and_then(|nic| nic.request_port(parts.vcpu.number()));
            match vcpu_thread::start(parts, request, common.clone()) {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    started = Err(error);
                    break;
                }
            }
        }
        let started = started.and_then(|()| Ok(postern_confine::enter(Kind::Main)?));
        if started.is_err() {
            common.halt.store(true, Ordering::Relaxed);
        }
        common.gate.get_or_init(|| ());
        let outcome =
            started.and_then(|()| wait(&vm, restart.as_mut(), &threads, &common, &self.events));
        stop.store(true, Ordering::Relaxed);
        common.halt.store(true, Ordering::Relaxed);
        // Without a sender of orders, threads of vCPUs that have stopped end.
        let threads: Vec<_> = threads
            .into_iter()
            .map(|thread| (thread.handle, thread.number))
            .collect();
        signals::kick(&threads);
        let mut results = Vec::with_capacity(threads.len());
        for (thread, _) in threads {
            let ended = thread.join().unwrap_or_else(|_| {
                Err(Error::System {
                    what: "run a vCPU",
                    source: io::Error::other("its thread panicked"),
                })
            });
            results.push(ended);
        }
        wake.wake();
        // A console that panicked has said so; the guest's end counts.
        let _ = console.join();
        let results: Vec<VcpuResult> = results.into_iter().collect::<Result<_, _>>()?;
        let outcome = outcome?;
        let nic_end = watch.and_then(NicWatch::finish);
        Ok(RunReport {
            nic_end,
            bells: bells.as_ref().map(BellThread::counts),
            ..report(&common.devices, outcome, &results)?
        })
    }
}

/// Waits for the VM's end, through resets by the guest.
fn wait(
    vm: &VmFd,
    mut restart: Option<&mut Restart>,
    threads: &[VcpuThread],
    common: &Common,
    events: &Receiver<Event>,
) -> Result<Outcome, Error> {
    loop {
        match (events.recv(), &mut restart) {
            (
                Ok(Event::Ended {
                    end: VcpuEnd::Reset,
                    ..
                }),
                Some(restart),
            ) => {
                let ended = restart.reset(vm, &common.devices, threads, common, events)?;
                if let Some(outcome) = ended {
                    return Ok(outcome);
                }
            }
            (Ok(Event::Ended { vcpu, end }), _) => return Ok(Outcome::Ended { vcpu, end }),
            (Ok(Event::Signal(signal)), _) => return Ok(Outcome::Signal(signal)),
            (Ok(Event::Restored), _) => {}
            (Err(mpsc::RecvError), _) => unreachable!("`common` has a sender"),
        }
    }
}

/// The end of a VM with these devices.
fn report(devices: &Devices, outcome: Outcome, results: &[VcpuResult]) -> Result<RunReport, Error> {
    let flushed = devices.serial.with(Serial::flush);
    let outcome = match (outcome, flushed) {
        (
            Outcome::Ended {
                vcpu,
                end: VcpuEnd::Guest(_) | VcpuEnd::PowerOff,
            },
            Err(error),
        ) => Outcome::Ended {
            vcpu,
            end: VcpuEnd::Device(error),
        },
        (outcome, _) => outcome,
    };
    let views = results.iter().filter_map(|one| one.view).collect();
    let (snapshots, snapshots_dropped, statistics) = match &devices.recorder {
        Some(recorder) => recorder.with(|recorder| {
            let now = recorder.now(views)?;
            Ok::<_, Error>((recorder.taken(), recorder.dropped(), Some(now)))
        })?,
        None => (Vec::new(), 0, None),
    };
    Ok(RunReport {
        outcome,
        nic_end: None,
        bells: None,
        start: results.iter().map(|one| one.start).collect(),
        snapshots,
        snapshots_dropped,
        last: FinalStats {
            statistics,
            counters: results.iter().map(|one| one.counts).collect(),
            stray_accesses: results.iter().map(|one| one.strays).sum(),
            outbox_refused: devices.outbox.with(|outbox| outbox.refused()),
        },
    })
}
