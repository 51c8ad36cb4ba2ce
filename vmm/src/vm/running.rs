//! A VM that runs: a thread for each vCPU, and one that waits for the end.
#![deny(unsafe_code)]

use std::fmt;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};

use kvm_ioctls::VmFd;
use postern_abi::platform;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::error::Error;
use crate::devices::{
    Bus, ExitPort, Outbox, RequestPort, Serial, SerialOutput, Shared, SnapshotPort,
};
use crate::event_counters::{CounterSource, EventCounters, EventCounts};
use crate::measurement::{SnapshotRecorder, ViewStats};
use crate::memory::Slots;
use crate::nic::{NicEnd, NicPort, NicWatch};
use crate::run_report::{FinalStats, Outcome, RunReport};
use crate::signals;
use crate::vcpu::{Vcpu, VcpuEnd};
use crate::view::VcpuView;

/// Where a VM's output goes.
pub struct Outputs {
    /// What the guest writes to COM1.
    pub serial: SerialOutput,
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

/// What the threads of a VM tell the one that waits for its end.
#[derive(Debug)]
enum Event {
    Ended { vcpu: usize, end: VcpuEnd },
    Signal(i32),
}

/// Ends a VM from outside.
#[derive(Debug, Clone)]
pub struct Stopper(Sender<Event>);

impl Stopper {
    /// Ends the VM because of that signal.
    pub fn stop(&self, signal: i32) {
        // If nobody listens any more, the VM has ended.
        let _ = self.0.send(Event::Signal(signal));
    }
}

/// What a VM that is ready to run consists of.
pub(super) struct Parts {
    pub(super) counters: CounterSource,
    pub(super) vcpus: Vec<(Vcpu, Option<VcpuView>)>,
    pub(super) ram: GuestMemoryMmap,
    pub(super) irq: EventFd,
    pub(super) recorder: Option<Shared<SnapshotRecorder>>,
    pub(super) nic: Option<NicPort>,
    pub(super) slots: Slots,
    pub(super) vm: VmFd,
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
            .field("slots", &self.parts.slots)
            .finish_non_exhaustive()
    }
}

/// What the thread of a vCPU has counted when it ends.
struct VcpuResult {
    counts: EventCounts,
    view: Option<ViewStats>,
    strays: u64,
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

    /// Runs the VM to its end: the first vCPU that ends, or the first signal, ends all.
    ///
    /// # Errors
    ///
    /// When threads cannot be started, or the last snapshot cannot be taken.
    pub fn run(self, outputs: Outputs) -> Result<RunReport, Error> {
        let Parts {
            counters: kind,
            vcpus,
            ram,
            irq,
            recorder,
            nic,
            // Memory, and the VM itself, stay until the vCPUs are gone.
            slots: _slots,
            vm: _vm,
        } = self.parts;
        let devices = Devices {
            serial: Shared::new(Serial::new(irq, outputs.serial)),
            outbox: Shared::new(Outbox::new(ram, outputs.outbox)),
            recorder,
        };
        let watch = nic.as_ref().map(|nic| nic.watch(outputs.nic_end));
        let watch = watch.transpose().map_err(|source| Error::System {
            what: "watch the connection to the NIC",
            source,
        })?;
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads: Vec<JoinHandle<Result<VcpuResult, Error>>> = Vec::new();
        let mut started = Ok(());
        for (vcpu, attached) in vcpus {
            let (devices, stop, sender) = (devices.clone(), Arc::clone(&stop), self.sender.clone());
            let own = VcpuDevices {
                request: nic.as_ref().and_then(|nic| nic.request_port(vcpu.number())),
                attached,
            };
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
        let mut results = Vec::with_capacity(threads.len());
        for thread in threads {
            let ended = thread.join().unwrap_or_else(|_| {
                Err(Error::System {
                    what: "run a vCPU",
                    source: io::Error::other("its thread panicked"),
                })
            });
            results.push(ended?);
        }
        let outcome = match event? {
            Ok(Event::Ended { vcpu, end }) => Outcome::Ended { vcpu, end },
            Ok(Event::Signal(signal)) => Outcome::Signal(signal),
            Err(mpsc::RecvError) => unreachable!("`sender` is still here"),
        };
        let nic_end = watch.and_then(NicWatch::finish);
        Ok(RunReport {
            nic_end,
            ..devices.report(outcome, &results)?
        })
    }
}

/// The devices that all vCPUs of a VM share.
#[derive(Clone)]
struct Devices {
    serial: Shared<Serial>,
    outbox: Shared<Outbox>,
    recorder: Option<Shared<SnapshotRecorder>>,
}

/// The devices of one vCPU.
struct VcpuDevices {
    request: Option<RequestPort>,
    attached: Option<VcpuView>,
}

impl Devices {
    fn bus(&self, snapshot: Shared<SnapshotPort>) -> Bus {
        let mut bus = Bus::new();
        bus.add(platform::PORT_SNAPSHOT, 4, Box::new(snapshot));
        bus.add(platform::PORT_EXIT, 4, Box::new(ExitPort));
        bus.add(platform::PORT_OUTBOX, 4, Box::new(self.outbox.clone()));
        bus.add(
            platform::PORT_SERIAL,
            Serial::PORTS,
            Box::new(self.serial.clone()),
        );
        bus
    }

    fn report(&self, outcome: Outcome, results: &[VcpuResult]) -> Result<RunReport, Error> {
        let flushed = self.serial.with(Serial::flush);
        let outcome = match (outcome, flushed) {
            (
                Outcome::Ended {
                    vcpu,
                    end: VcpuEnd::Guest(_),
                },
                Err(error),
            ) => Outcome::Ended {
                vcpu,
                end: VcpuEnd::Device(error),
            },
            (outcome, _) => outcome,
        };
        let views = results.iter().filter_map(|one| one.view).collect();
        let (snapshots, snapshots_dropped, statistics) = match &self.recorder {
            Some(recorder) => recorder.with(|recorder| {
                let now = recorder.now(views)?;
                Ok::<_, Error>((recorder.taken(), recorder.dropped(), Some(now)))
            })?,
            None => (Vec::new(), 0, None),
        };
        Ok(RunReport {
            outcome,
            nic_end: None,
            snapshots,
            snapshots_dropped,
            last: FinalStats {
                statistics,
                counters: results.iter().map(|one| one.counts).collect(),
                stray_accesses: results.iter().map(|one| one.strays).sum(),
                outbox_refused: self.outbox.with(|outbox| outbox.refused()),
            },
        })
    }
}

/// Tells the waiting thread that a vCPU has ended, however its own thread ends.
struct EndNotice<'a> {
    events: &'a Sender<Event>,
    vcpu: usize,
    end: Option<VcpuEnd>,
}

impl Drop for EndNotice<'_> {
    fn drop(&mut self) {
        // Without an end, the thread's own result says what happened.
        let end = self.end.take().unwrap_or(VcpuEnd::Stopped);
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
    kind: CounterSource,
    stop: &AtomicBool,
    events: &Sender<Event>,
) -> Result<VcpuResult, Error> {
    let number = vcpu.number();
    let mut notice = EndNotice {
        events,
        vcpu: number,
        end: None,
    };
    let counters = EventCounters::open(kind)?;
    let snapshot = SnapshotPort::new(number, counters, own.attached, devices.recorder.clone());
    let snapshot = Shared::new(snapshot);
    let mut bus = devices.bus(snapshot.clone());
    notice.end = Some(vcpu.run(own.request, &mut bus, stop));
    let (counts, view) = snapshot.with(SnapshotPort::last)?;
    Ok(VcpuResult {
        counts,
        view,
        strays: bus.strays(),
    })
}
