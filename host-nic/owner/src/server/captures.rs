//! Captures: ports of the owner to which others are mirrored, and the files that their frames go
//! to.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use postern_abi::window::PortId;
use postern_confine::Kind;
use postern_guest::direct::DirectError;
use postern_nic_client::bells::{self, Bells};
use postern_nic_client::control::CaptureInfo;
use postern_nic_client::memory::Memory;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::clock::Clock;
use super::error::{RequestError, explain};
use super::event::ServerEvent;
use super::nic::ServedNic;
use super::policies::{self, PortPolicies};
use super::ports::Ports;
use super::saved_state::SavedCapture;
use crate::capture::{Capture, CaptureError, CaptureOptions, Direction, Tap};
use crate::frame_port::{BATCH, FramePort};
use crate::host_port::HostPort;

/// Length of the longest name of a file, in bytes (PATH_MAX).
const MAX_NAME: usize = 4096;

/// Time for which a capture's thread sleeps when there is no frame, unless it is to be busy. Frames
/// that come meanwhile are stamped by so much too late.
const IDLE_SLEEP: Duration = Duration::from_micros(100);
/// Number of such sleeps without a frame after which it sleeps until a sender rings. The first frame
/// of one that never rings is stamped by [`LONGEST_SLEEP`] too late, at most.
const PATIENT_SLEEPS: u32 = 100;
/// Longest sleep without a look.
const LONGEST_SLEEP: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// A capture that cannot be begun.
#[derive(Debug, thiserror::Error)]
enum CapturePortError {
    #[error(transparent)]
    Capture(#[from] CaptureError),
    #[error("the port cannot be used: {0}")]
    Port(#[from] DirectError),
    #[error("cannot start a thread for the capture")]
    Thread(#[source] io::Error),
}

impl From<CapturePortError> for RequestError {
    fn from(error: CapturePortError) -> RequestError {
        RequestError::failed(explain(&error))
    }
}

/// A port to which others are mirrored, and the file that its frames go to.
#[derive(Debug)]
struct CapturePort {
    saved: SavedCapture,
    capture: Option<Capture>,
    /// The failure that has ended the writing of the file.
    failure: Option<String>,
    stop: Arc<AtomicBool>,
    /// The bells of the NIC, and the port whose thread they wake.
    bells: Arc<Bells>,
    via: PortId,
    thread: Option<JoinHandle<()>>,
}

/// Waits until there may be a frame, or a while; whether there may be one.
fn sleep(port: &mut HostPort) -> bool {
    if !port.arm() {
        return true;
    }
    let bells = port.bells().into_iter();
    let mut fds: Vec<_> = bells
        .map(|bell| PollFd::from_borrowed_fd(bell, PollFlags::IN))
        .collect();
    let woken = poll(&mut fds, Some(&LONGEST_SLEEP)) != Ok(0);
    port.disarm();
    for bell in port.bells() {
        bells::take(bell);
    }
    woken
}

impl CapturePort {
    /// Creates the file. Frames are written from [`CapturePort::start`] on.
    fn create(saved: &SavedCapture) -> Result<Capture, CapturePortError> {
        let mut options = CaptureOptions {
            format: saved.format,
            ..CaptureOptions::default()
        };
        if let Some(snap) = saved.snap {
            options.snap = snap;
        }
        Ok(Capture::create(&saved.file, options)?)
    }

    /// Writes what the port of the present tenancy receives.
    fn start(
        nic: &ServedNic,
        via: PortId,
        saved: &SavedCapture,
        capture: Capture,
    ) -> Result<CapturePort, CapturePortError> {
        let (memory, bells) = (&nic.memory, &nic.bells);
        let mut port = HostPort::with_bells(Arc::clone(memory), via, Arc::clone(bells))?;
        let geometry = memory.geometry();
        let tap_of = |number: u32| capture.interface(&format!("port {number}"));
        let mut taps = SenderTaps {
            taps: match saved.port {
                Some(number) => vec![tap_of(number)],
                None => (0..geometry.ports()).map(tap_of).collect(),
            },
            port: saved.port,
            queues: geometry.queues(),
            lost: BTreeMap::new(),
        };
        let stop = Arc::new(AtomicBool::new(false));
        let wanted = Arc::clone(&stop);
        let (memory, busy) = (Arc::clone(memory), saved.busy);
        let run = move || {
            let mut idle = 0;
            loop {
                // Asked before, so that what came until then is taken.
                let last = wanted.load(Relaxed);
                while port.receive_from(BATCH, |from, frame| taps.frame(from, frame.bytes)) != 0 {
                    idle = 0;
                }
                taps.count_lost(&memory, via);
                if last {
                    return;
                }
                match busy {
                    // Whoever else has this CPU may send the next frame.
                    true => thread::yield_now(),
                    false if idle < PATIENT_SLEEPS => {
                        thread::sleep(IDLE_SLEEP);
                        idle += 1;
                    }
                    // Bells that are rung for nothing do not keep it busy: it is patient again.
                    false if sleep(&mut port) => idle = 0,
                    false => {}
                }
            }
        };
        let thread = postern_confine::spawn(Kind::Capture, "nic-capture", run)
            .map_err(CapturePortError::Thread)?;
        Ok(CapturePort {
            saved: saved.clone(),
            capture: Some(capture),
            failure: None,
            stop,
            bells: Arc::clone(bells),
            via,
            thread: Some(thread),
        })
    }

    fn info(&self, via: u32) -> CaptureInfo {
        let capture = self.capture.as_ref();
        let stats = capture.map(Capture::stats).unwrap_or_default();
        CaptureInfo {
            file: self.saved.file.clone(),
            port: self.saved.port,
            via,
            written: stats.interfaces.iter().map(|one| one.written).sum(),
            lost: stats.interfaces.iter().map(|one| one.lost).sum(),
            failure: self.failure.clone(),
        }
    }

    /// Notices that the file can no longer be written; gives the reason if that was just so.
    fn check(&mut self) -> Option<&str> {
        let error = self.capture.as_mut()?.take_failure()?;
        Some(self.failure.insert(explain(&error)))
    }

    /// Writes what is there and closes the file.
    fn finish(mut self, via: u32) -> CaptureInfo {
        self.end();
        let mut info = self.info(via);
        match self.capture.take().map(Capture::finish) {
            Some(Ok(stats)) => {
                info.written = stats.interfaces.iter().map(|one| one.written).sum();
                info.lost = stats.interfaces.iter().map(|one| one.lost).sum();
            }
            Some(Err(error)) => info.failure = Some(explain(&error)),
            None => {}
        }
        info
    }

    fn end(&mut self) {
        self.stop.store(true, Relaxed);
        self.bells.ring_port(self.via);
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

/// The interfaces of a capture file: one for the captured port, or one for each port.
struct SenderTaps {
    taps: Vec<Tap>,
    /// The captured port; all without one.
    port: Option<u32>,
    /// Number of queues of a port.
    queues: u32,
    /// Frames that the lane of each sender had no room for, as far as they were counted, by sender
    /// and queue.
    lost: BTreeMap<(u32, u32), u64>,
}

impl SenderTaps {
    /// Captures a frame from a sender.
    fn frame(&mut self, from: u32, frame: &[u8]) {
        // A NIC has at least one queue.
        let sender = from.checked_div(self.queues).unwrap_or(0);
        let (tap, direction) = match self.port {
            Some(port) if port == sender => (self.taps.first(), Direction::In),
            Some(_) => (self.taps.first(), Direction::Out),
            None => (self.taps.get(sender as usize), Direction::In),
        };
        if let Some(tap) = tap {
            tap.frame(direction, frame);
        }
    }

    /// Counts what did not fit into the lanes of the port.
    fn count_lost(&mut self, memory: &Memory, via: PortId) {
        let switch = memory.switch();
        let geometry = switch.geometry();
        for number in 0..geometry.lanes() {
            for queue in 0..self.queues {
                let Some(lane) = switch.lane(geometry.rx_queue(via, queue), number) else {
                    continue;
                };
                let now = lane.drops.load(Relaxed);
                let before = self.lost.entry((number, queue)).or_default();
                let more = now.saturating_sub(*before);
                *before = now;
                let sender = lane.holder.load(Relaxed).saturating_sub(1);
                let sender = sender.checked_div(self.queues).unwrap_or(0);
                let tap = match self.port {
                    Some(_) => self.taps.first(),
                    None => self.taps.get(sender as usize),
                };
                if let (Some(tap), true) = (tap, more != 0) {
                    tap.count_lost(more);
                }
            }
        }
    }
}

/// A name for a capture that goes on in another file: the first of NAME.1, NAME.2 ... that is free.
fn successor(file: &Path) -> PathBuf {
    let numbered = (1u32..).map(|number| {
        let mut name = file.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    });
    let mut free = numbered.filter(|name| !name.exists());
    free.next().unwrap_or_else(|| file.to_owned())
}

/// The captures of the NIC, by the port through which their frames come.
#[derive(Debug, Default)]
pub(super) struct Captures {
    captures: BTreeMap<u32, CapturePort>,
}

impl Captures {
    /// The file of the capture that has a port, if one has it.
    pub(super) fn file(&self, port: u32) -> Option<&Path> {
        let capture = self.captures.get(&port)?;
        Some(&capture.saved.file)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.captures.is_empty()
    }

    /// Notices captures whose files can no longer be written. They stay in the list, and count what
    /// they lose, until somebody removes them.
    pub(super) fn check(&mut self) -> Vec<ServerEvent> {
        let failed = self.captures.values_mut().filter_map(|capture| {
            let reason = capture.check()?.to_owned();
            Some(ServerEvent::CaptureFailed { reason })
        });
        failed.collect()
    }

    pub(super) fn list(&self) -> Vec<CaptureInfo> {
        let captures = self.captures.iter();
        captures.map(|(via, capture)| capture.info(*via)).collect()
    }

    /// Begins a capture, whose frames come through the port `via`, or the last one that nobody has.
    pub(super) fn add(
        &mut self,
        ports: &mut Ports,
        clock: &Clock,
        via: Option<u32>,
        saved: SavedCapture,
    ) -> Result<(), RequestError> {
        if !saved.file.is_absolute() || saved.file.as_os_str().len() > MAX_NAME {
            return Err(RequestError::bad(format!(
                "{} is no absolute name of a file",
                saved.file.display()
            )));
        }
        if let Some(number) = saved.port {
            ports.nic.port(number)?;
        }
        let via = port_for_copies(ports, via, saved.port)?;
        self.refuse_second(ports, &saved, via)?;
        let capture = CapturePort::create(&saved)?;
        let begun = self.begin(ports, clock, via, &saved, capture);
        if begun.is_err() {
            let _ = drop_policies(ports, clock, via);
            // It was made here, a moment ago.
            let _ = std::fs::remove_file(&saved.file);
        }
        begun
    }

    fn refuse_second(
        &self,
        ports: &Ports,
        wanted: &SavedCapture,
        via: PortId,
    ) -> Result<(), RequestError> {
        let (geometry, state) = (ports.nic.geometry(), &ports.saver.state);
        let is_captured = |port: &PortId| {
            *port != via && wanted.port.is_none_or(|number| number == port.number())
        };
        for port in geometry.all_ports().filter(is_captured) {
            let number = port.number();
            if self.captures.contains_key(&number) && wanted.port.is_some() {
                let text = format!("port {number} is a capture's own");
                return Err(RequestError::bad(text));
            }
            if let Some(other) = policies::capture_of(state, number) {
                return Err(RequestError::bad(format!(
                    "port {number} is captured already, through port {other}; \
                     end that capture first"
                )));
            }
            if let Some(mirror) = policies::given(state, port).mirror {
                return Err(RequestError::bad(format!(
                    "port {number} has port {mirror} as its mirror, and a port has one; \
                     take that out of its policy"
                )));
            }
        }
        Ok(())
    }

    fn begin(
        &mut self,
        ports: &mut Ports,
        clock: &Clock,
        via: PortId,
        saved: &SavedCapture,
        capture: Capture,
    ) -> Result<(), RequestError> {
        let captures = &mut ports.saver.state.captures;
        captures.insert(via.number(), saved.clone());
        // First closed for all that is no copy, then let.
        PortPolicies { ports, clock }.apply_all()?;
        ports.take(via)?;
        let started = CapturePort::start(&ports.nic, via, saved, capture)?;
        self.captures.insert(via.number(), started);
        Ok(())
    }

    /// Ends the capture into a file; gives what it captured.
    pub(super) fn remove(
        &mut self,
        ports: &mut Ports,
        clock: &Clock,
        file: &Path,
    ) -> Result<Option<CaptureInfo>, RequestError> {
        let mut captures = self.captures.iter();
        let found = captures.find(|(_, capture)| capture.saved.file == file);
        let Some(number) = found.map(|(number, _)| *number) else {
            return Err(RequestError::bad(format!(
                "there is no capture into {}; postern nic show lists those that there are",
                file.display()
            )));
        };
        let via = ports.nic.port(number)?;
        // While the port still gets nothing but copies.
        let capture = self.captures.remove(&number);
        let info = capture.map(|capture| capture.finish(number));
        drop_policies(ports, clock, via)?;
        Ok(info)
    }

    /// Begins captures again, in other files, that ended with another owner; says how that went.
    pub(super) fn resume(&mut self, ports: &mut Ports, clock: &Clock) -> Vec<ServerEvent> {
        let mut events = Vec::new();
        for (via, mut saved) in std::mem::take(&mut ports.saver.state.captures) {
            let former = saved.file.clone();
            let file = successor(&former);
            saved.file.clone_from(&file);
            events.push(match self.add(ports, clock, Some(via), saved) {
                Ok(()) => ServerEvent::CaptureResumed { former, file },
                Err(error) => ServerEvent::CaptureNotResumed {
                    former,
                    reason: error.to_string(),
                },
            });
        }
        events
    }
}

/// The port through which copies are to come: the wanted one, or the last one that nobody has.
fn port_for_copies(
    ports: &Ports,
    wanted: Option<u32>,
    captured: Option<u32>,
) -> Result<PortId, RequestError> {
    let found = match wanted {
        Some(number) => Some(ports.vacant(number)?),
        None => {
            let mut numbers = (0..ports.nic.geometry().ports()).rev();
            numbers.find_map(|number| ports.vacant(number).ok())
        }
    };
    match found {
        Some(via) if Some(via.number()) == captured => Err(RequestError::bad(format!(
            "port {via} is captured and cannot be the capture's own; name another with --via"
        ))),
        Some(via) => Ok(via),
        None => Err(RequestError::bad(
            "a capture needs a port that nobody has, for the copies; there is none",
        )),
    }
}

/// Gives up the port of a capture, and takes back the policies that it needed.
fn drop_policies(ports: &mut Ports, clock: &Clock, via: PortId) -> Result<(), RequestError> {
    ports.saver.state.captures.remove(&via.number());
    ports.vacate(via);
    PortPolicies { ports, clock }.apply_all()?;
    Ok(ports.saver.save()?)
}
