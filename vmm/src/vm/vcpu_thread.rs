//! The thread of a vCPU, which runs it, and brings it back to its first state when the VM is reset.
#![deny(unsafe_code)]

use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use postern_confine::Kind;

use super::devices::Devices;
use super::error::Error;
use super::event::Event;
use super::guest::Start;
use crate::devices::{RequestPort, Shared, SnapshotPort};
use crate::event_counters::{self, CounterSource, EventCounters, EventCounts};
use crate::measurement::ViewStats;
use crate::signals::ThreadNumber;
use crate::vcpu::{Vcpu, VcpuEnd};
use crate::vcpu_state::VcpuState;
use crate::view::VcpuView;

/// A vCPU and what is its alone.
pub(super) struct VcpuParts {
    pub(super) vcpu: Vcpu,
    pub(super) attached: Option<VcpuView>,
    /// Its state before it ran, if the VM is to restart after a reset.
    pub(super) initial: Option<VcpuState>,
}

/// What the thread of a vCPU that has stopped is to do. Without an order it ends.
pub(super) enum Order {
    /// Bring the vCPU back to its first state; it is to start there, if it is the first.
    Restore(Option<Start>),
    /// Run it on.
    Run,
}

/// What the thread of a vCPU has counted when it ends.
pub(super) struct VcpuResult {
    /// Before the vCPU first ran.
    pub(super) start: EventCounts,
    pub(super) counts: EventCounts,
    pub(super) view: Option<ViewStats>,
    pub(super) strays: u64,
}

/// The thread, as the one that waits for the VM's end has it.
pub(super) struct VcpuThread {
    pub(super) orders: Sender<Order>,
    pub(super) handle: JoinHandle<Result<VcpuResult, Error>>,
    pub(super) number: ThreadNumber,
}

/// What all threads share.
#[derive(Clone)]
pub(super) struct Common {
    pub(super) devices: Devices,
    pub(super) counters: CounterSource,
    /// Set to have all vCPUs stop.
    pub(super) halt: Arc<AtomicBool>,
    /// Set when all threads are there, and confined if they are to be: no guest runs before.
    pub(super) gate: Arc<OnceLock<()>>,
    pub(super) events: Sender<Event>,
}

/// Starts the thread of a vCPU.
pub(super) fn start(
    parts: VcpuParts,
    request: Option<RequestPort>,
    common: Common,
) -> Result<VcpuThread, Error> {
    let (sender, orders) = mpsc::channel();
    let (number, name) = (
        ThreadNumber::default(),
        format!("vcpu{}", parts.vcpu.number()),
    );
    let (noted, counters) = (number.clone(), common.counters);
    // It takes more than a confined thread may do.
    let prepare = move || EventCounters::open(counters);
    let run = move |counters| {
        noted.note();
        common.gate.wait();
        run(parts, request, counters, &common, &orders)
    };
    let handle =
        postern_confine::spawn_prepared(Kind::Vcpu, name, prepare, run).map_err(|source| {
            Error::System {
                what: "start a thread for a vCPU",
                source,
            }
        })?;
    Ok(VcpuThread {
        orders: sender,
        handle,
        number,
    })
}

/// Tells the waiting thread that a vCPU has ended if its own thread ends without having said so.
struct EndNotice<'a> {
    events: &'a Sender<Event>,
    vcpu: usize,
    told: bool,
}

impl EndNotice<'_> {
    fn tell(&mut self, end: VcpuEnd) {
        self.told = true;
        // Who listens is gone only once all threads have ended.
        let _ = self.events.send(Event::Ended {
            vcpu: self.vcpu,
            end,
        });
    }
}

impl Drop for EndNotice<'_> {
    fn drop(&mut self) {
        if !self.told {
            // The thread's own result says what happened.
            self.tell(VcpuEnd::Stopped);
        }
    }
}

fn run(
    parts: VcpuParts,
    mut request: Option<RequestPort>,
    counters: Result<EventCounters, event_counters::Error>,
    common: &Common,
    orders: &Receiver<Order>,
) -> Result<VcpuResult, Error> {
    let VcpuParts {
        mut vcpu,
        attached,
        initial,
    } = parts;
    let number = vcpu.number();
    let mut notice = EndNotice {
        events: &common.events,
        vcpu: number,
        told: false,
    };
    let mut counters = counters?;
    let first = counters.read();
    let recorder = common.devices.recorder.clone();
    let snapshot = Shared::new(SnapshotPort::new(number, counters, attached, recorder));
    let mut bus = common.devices.bus(snapshot.clone());
    loop {
        let end = vcpu.run(request.as_mut(), &mut bus, &common.halt);
        notice.tell(end);
        let Ok(Order::Restore(start)) = orders.recv() else {
            break;
        };
        notice.told = false;
        if let Some(initial) = &initial {
            vcpu.restore(initial)?;
        }
        if let Some(Start { entry, tables }) = &start {
            vcpu.start_at(*entry, tables)?;
        }
        let _ = common.events.send(Event::Restored);
        let Ok(Order::Run) = orders.recv() else {
            break;
        };
    }
    notice.told = true;
    let (counts, view) = snapshot.with(SnapshotPort::last)?;
    Ok(VcpuResult {
        start: first,
        counts,
        view,
        strays: bus.strays(),
    })
}
