//! Ports that the owner uses itself: uplinks and captures.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use postern_abi::window::PortId;

use crate::capture::{Capture, CaptureError, Direction, Options, Tap};
use crate::frame_port::BATCH;
use crate::host_port::HostPort;
use crate::uplink::{
    PumpThread, PumpWait, Stop, Uplink, UplinkConfig, UplinkError, UplinkSnapshot,
};
use postern_guest::direct::DirectError;
use postern_nic_client::control::{CaptureInfo, UplinkInfo};
use postern_nic_client::memory::Memory;

use super::explain;
use super::notes::CaptureNote;

/// How long a capture's thread sleeps when there is no frame.
const NAP: Duration = Duration::from_micros(100);

/// Why a port is not used so.
#[derive(Debug, thiserror::Error)]
pub(super) enum NativeError {
    #[error(transparent)]
    Uplink(#[from] UplinkError),
    #[error(transparent)]
    Capture(#[from] CaptureError),
    #[error("the port cannot be used: {0}")]
    Port(#[from] DirectError),
    #[error("cannot start a thread for the capture")]
    Thread(#[source] io::Error),
}

/// A port joined to an interface.
#[derive(Debug)]
pub(super) struct UplinkPort {
    interface: String,
    bridge: Option<PumpThread>,
    failure: Option<String>,
    counters: UplinkSnapshot,
}

impl UplinkPort {
    /// Opens the interface. Frames move from [`UplinkPort::start`] on.
    pub(super) fn open(interface: &str) -> Result<Uplink, UplinkError> {
        let config: UplinkConfig = interface.parse()?;
        Uplink::open(&config)
    }

    /// Joins the port of the present tenancy to the interface.
    pub(super) fn start(
        memory: &Arc<Memory>,
        port: PortId,
        interface: &str,
        device: Uplink,
        busy: bool,
    ) -> Result<UplinkPort, NativeError> {
        let native = HostPort::open(Arc::clone(memory), port)?;
        let drive = if busy {
            PumpWait::Busy
        } else {
            PumpWait::default()
        };
        Ok(UplinkPort {
            interface: interface.to_owned(),
            bridge: Some(PumpThread::start(device, native, drive)?),
            failure: None,
            counters: UplinkSnapshot::default(),
        })
    }

    /// Notices when the pump has ended; whether it just did.
    pub(super) fn check(&mut self) -> bool {
        let Some(bridge) = self.bridge.take_if(|bridge| bridge.has_ended()) else {
            return false;
        };
        self.counters = bridge.counters().snapshot();
        self.failure = Some(match bridge.stop() {
            Ok(()) => "it was stopped".to_owned(),
            Err(error) => explain(&error),
        });
        true
    }

    pub(super) fn interface(&self) -> &str {
        &self.interface
    }

    pub(super) fn info(&self, port: u32) -> UplinkInfo {
        let bridge = self.bridge.as_ref();
        let counters = bridge.map_or(self.counters, |bridge| bridge.counters().snapshot());
        UplinkInfo {
            port,
            interface: self.interface.clone(),
            failure: self.failure.clone(),
            counters: serde_json::to_value(counters).unwrap_or_default(),
        }
    }
}

/// A port to which others are mirrored, and what is written of it.
#[derive(Debug)]
pub(super) struct CapturePort {
    note: CaptureNote,
    capture: Option<Capture>,
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

impl CapturePort {
    /// Creates the file. Frames are written from [`CapturePort::start`] on.
    pub(super) fn create(note: &CaptureNote) -> Result<Capture, CaptureError> {
        let mut options = Options {
            format: note.format,
            ..Options::default()
        };
        if let Some(snap) = note.snap {
            options.snap = snap;
        }
        Capture::create(&note.file, options)
    }

    /// Writes what the port of the present tenancy receives.
    pub(super) fn start(
        memory: &Arc<Memory>,
        via: PortId,
        note: &CaptureNote,
        capture: Capture,
    ) -> Result<CapturePort, NativeError> {
        let mut port = HostPort::open(Arc::clone(memory), via)?;
        let geometry = memory.geometry();
        let tap_of = |number: u32| capture.interface(&format!("port {number}"));
        let mut taps: Taps = Taps {
            of: match note.port {
                Some(number) => vec![tap_of(number)],
                None => (0..geometry.ports()).map(tap_of).collect(),
            },
            port: note.port,
            queues: geometry.queues(),
            lost: BTreeMap::new(),
        };
        let stop = Stop::new()?;
        let wanted = stop.clone();
        let memory = Arc::clone(memory);
        let run = move || {
            loop {
                // Asked before, so that what came until then is taken.
                let last = wanted.is_stopped();
                while port.receive_from(BATCH, |from, frame| taps.frame(from, frame.bytes)) != 0 {}
                taps.count_lost(&memory, via);
                if last {
                    return;
                }
                thread::sleep(NAP);
            }
        };
        let thread = thread::Builder::new().name("nic-capture".to_owned());
        let thread = thread.spawn(run).map_err(NativeError::Thread)?;
        Ok(CapturePort {
            note: note.clone(),
            capture: Some(capture),
            stop,
            thread: Some(thread),
        })
    }

    pub(super) fn file(&self) -> &Path {
        &self.note.file
    }

    pub(super) fn info(&self, via: u32) -> CaptureInfo {
        let capture = self.capture.as_ref();
        let stats = capture.map(Capture::stats).unwrap_or_default();
        let failed = capture.is_some_and(Capture::has_failed);
        CaptureInfo {
            file: self.note.file.clone(),
            port: self.note.port,
            via,
            written: stats.interfaces.iter().map(|one| one.written).sum(),
            lost: stats.interfaces.iter().map(|one| one.lost).sum(),
            failure: failed.then(|| "the file cannot be written any more".to_owned()),
        }
    }

    /// Writes what is there and closes the file.
    pub(super) fn finish(mut self, via: u32) -> CaptureInfo {
        self.end();
        let mut info = self.info(via);
        match self.capture.take().map(Capture::finish) {
            Some(Ok(stats)) => {
                info.written = stats.interfaces.iter().map(|one| one.written).sum();
                info.lost = stats.interfaces.iter().map(|one| one.lost).sum();
                info.failure = None;
            }
            Some(Err(error)) => info.failure = Some(explain(&error)),
            None => {}
        }
        info
    }

    fn end(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for CapturePort {
    fn drop(&mut self) {
        self.end();
    }
}

/// One interface of the file for the captured port, or one for each.
struct Taps {
    of: Vec<Tap>,
    port: Option<u32>,
    queues: u32,
    /// Frames that the lane of each sender had no room for, as far as they were counted.
    lost: BTreeMap<(u32, u32), u64>,
}

impl Taps {
    /// A frame from a sender.
    fn frame(&mut self, from: u32, frame: &[u8]) {
        // A NIC has at least one queue.
        let sender = from.checked_div(self.queues).unwrap_or(0);
        let (tap, direction) = match self.port {
            Some(port) if port == sender => (self.of.first(), Direction::In),
            Some(_) => (self.of.first(), Direction::Out),
            None => (self.of.get(sender as usize), Direction::In),
        };
        if let Some(tap) = tap {
            tap.frame(direction, frame);
        }
    }

    /// Counts what did not fit into the lanes of the port.
    fn count_lost(&mut self, memory: &Memory, via: PortId) {
        let switch = memory.switch();
        let geometry = switch.geometry();
        for sender in 0..geometry.senders() {
            for queue in 0..self.queues {
                let Some(lane) = switch.lane(sender, geometry.rx_queue(via, queue)) else {
                    continue;
                };
                let now = lane.drops.load(Relaxed);
                let before = self.lost.entry((sender, queue)).or_default();
                let more = now.saturating_sub(*before);
                *before = now;
                let sender = sender.checked_div(self.queues).unwrap_or(0);
                let tap = match self.port {
                    Some(_) => self.of.first(),
                    None => self.of.get(sender as usize),
                };
                if let (Some(tap), true) = (tap, more != 0) {
                    tap.count_lost(more);
                }
            }
        }
    }
}

/// A name for what goes on in another file: the first of NAME.1, NAME.2 ... that is free.
pub(super) fn successor(file: &Path) -> PathBuf {
    let numbered = (1u32..).map(|number| {
        let mut name = file.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    });
    let mut free = numbered.filter(|name| !name.exists());
    free.next().unwrap_or_else(|| file.to_owned())
}
