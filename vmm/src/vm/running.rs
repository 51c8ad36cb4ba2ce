//! A VM that runs: a thread for each vCPU, and one that waits for the end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};

use kvm_ioctls::VmFd;
use postern_abi::machine;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::{Error, Outputs};
use crate::counters::{self, Counters, Counts};
use crate::devices::{Bus, ExitPort, MarkPort, Outbox, RequestPort, Serial, Shared};
use crate::memory::Slots;
use crate::nic::NicPort;
use crate::recorder::{Recorder, View};
use crate::report::{Final, Outcome, Report};
use crate::signals;
use crate::vcpu::{End, Vcpu};
use crate::view::VcpuView;

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

/// What a VM that is ready to run consists of.
pub(super) struct Parts {
    pub(super) counters: counters::Kind,
    pub(super) vcpus: Vec<(Vcpu, Option<VcpuView>)>,
    pub(super) ram: GuestMemoryMmap,
    pub(super) irq: EventFd,
    pub(super) recorder: Option<Shared<Recorder>>,
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

/// What a vCPU's thread leaves behind.
struct Remains {
    counts: Counts,
    view: Option<View>,
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
    pub fn run(self, outputs: Outputs) -> Result<Report, Error> {
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
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads: Vec<JoinHandle<Result<Remains, Error>>> = Vec::new();
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
    attached: Option<VcpuView>,
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
