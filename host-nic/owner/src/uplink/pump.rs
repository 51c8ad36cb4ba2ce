//! The pump: one thread that moves frames between a device and a port, in batches.
#![forbid(unsafe_code)]

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use postern_abi::window::{FEATURE_CSUM, FEATURES, MAX_SEGMENT, MIN_FRAME, RecordHeader};
use postern_confine::Kind;
use postern_nic_client::bells;
use postern_switch::policy::headers::{ETHERTYPE_CUSTOMER_TAG, ETHERTYPE_SERVICE_TAG};
use postern_tap::batch::Batch;
use postern_tap::work::{self, Finishing};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::net::sockopt::socket_error;

use super::counters::{LiveCounters, UplinkCounters, add};
use super::device::{Device, Flushed};
use super::error::{UplinkError, failed};
use super::link::LinkState;
use crate::frame_port::{BATCH, Frame, FramePort};

/// Time between two looks of a pump whether its interface is still there and has a link.
const CHECK: Duration = Duration::from_millis(100);
/// Shortest wait of [`PumpWait::Events`].
const SHORT: Duration = Duration::from_micros(50);
/// EtherTypes of VLAN tags (IEEE 802.1Q, 802.1ad).
const TAGS: [u16; 2] = [ETHERTYPE_CUSTOMER_TAG, ETHERTYPE_SERVICE_TAG];

/// The way in which a pump waits for frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PumpWait {
    /// The pump does not wait: one CPU looks for frames all the time.
    Busy,
    /// The pump waits until the interface has a frame, or for a time, since looking for frames of the
    /// port costs its senders nothing: 50 microseconds after the last frame, twice as long with each
    /// wait, up to this (at most [`PumpWait::LONGEST`]). Then it sleeps until the interface has a
    /// frame or somebody rings the port's bell, if it has one ([`FramePort::bells`]).
    Events(Duration),
}

impl PumpWait {
    /// The longest wait.
    pub const LONGEST: Duration = CHECK;
}

impl Default for PumpWait {
    /// Waits of up to 1 millisecond.
    fn default() -> PumpWait {
        PumpWait::Events(Duration::from_millis(1))
    }
}

/// What a pump has last seen of its link, for other threads to read.
#[derive(Debug, Default)]
struct SeenLink(AtomicU8);

impl SeenLink {
    fn set(&self, state: LinkState) {
        self.0.store(state as u8, Relaxed);
    }

    fn get(&self) -> LinkState {
        let states = [LinkState::Up, LinkState::NoCarrier, LinkState::Down];
        let seen = self.0.load(Relaxed);
        let found = states.into_iter().find(|state| *state as u8 == seen);
        found.unwrap_or(LinkState::Up)
    }
}

/// Ends a pump from another thread.
#[derive(Clone, Debug)]
pub struct Stop(Arc<StopState>);

#[derive(Debug)]
struct StopState {
    wanted: AtomicBool,
    event: OwnedFd,
}

impl Stop {
    /// An event that was not yet used.
    ///
    /// # Errors
    ///
    /// The system has no descriptor left.
    pub fn new() -> Result<Stop, UplinkError> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| failed("make the stop event of", "the uplink", "", errno.into()))?;
        Ok(Stop(Arc::new(StopState {
            wanted: AtomicBool::new(false),
            event,
        })))
    }

    /// Ends every pump that has this event.
    pub fn stop(&self) {
        self.0.wanted.store(true, Relaxed);
        // It fails only when the event is already there 2^64 - 2 times.
        let _ = rustix::io::write(&self.0.event, &1u64.to_ne_bytes());
    }

    /// Whether the event was used.
    pub fn is_stopped(&self) -> bool {
        self.0.wanted.load(Relaxed)
    }
}

/// A device and a port, joined.
#[derive(Debug)]
pub struct Pump<D, P> {
    device: D,
    port: P,
    wait_mode: PumpWait,
    segments: Arc<AtomicBool>,
    /// The features that device and port agree on; `None` before the first frame.
    agreed: Option<Agreed>,
    /// Frames that the port did not take unfinished.
    finished: Batch,
    link: Arc<SeenLink>,
    counters: Arc<UplinkCounters>,
}

/// The features that a device and a port agree on.
#[derive(Clone, Copy, Debug)]
struct Agreed {
    /// Whether large segments were allowed.
    segments: bool,
    /// `FEATURE_*` of [`postern_abi::window`].
    features: u32,
}

impl<D: Device, P: FramePort> Pump<D, P> {
    /// Joins `device` and `port`.
    pub fn new(device: D, port: P, wait: PumpWait) -> Pump<D, P> {
        Pump {
            device,
            port,
            wait_mode: wait,
            segments: Arc::new(AtomicBool::new(true)),
            agreed: None,
            finished: Batch::new(),
            link: Arc::default(),
            counters: Arc::default(),
        }
    }

    /// The counters, for other threads to read.
    pub fn counters(&self) -> Arc<UplinkCounters> {
        Arc::clone(&self.counters)
    }

    /// Whether large segments may pass, for other threads to change.
    pub fn segments(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.segments)
    }

    /// The device and the port.
    pub fn into_parts(self) -> (D, P) {
        (self.device, self.port)
    }

    /// Moves frames until stopped. While the interface is down, frames from the port are dropped, and
    /// when it is up again the pump goes on.
    ///
    /// # Errors
    ///
    /// The interface is gone, or the kernel refuses.
    pub fn run(&mut self, stop: &Stop) -> Result<(), UplinkError> {
        self.look()?;
        let mut looked = Instant::now();
        let mut idle = SHORT;
        while !stop.is_stopped() {
            let moved = match self.link.get() {
                LinkState::Down => self.discard(),
                LinkState::NoCarrier | LinkState::Up => match self.step() {
                    Err(error) if error.is_down() => {
                        self.lose_link()?;
                        false
                    }
                    moved => moved?,
                },
            };
            let now = Instant::now();
            if now.duration_since(looked) >= CHECK {
                looked = now;
                self.look()?;
            }
            if moved {
                idle = SHORT;
            } else if let PumpWait::Events(most) = self.wait_mode {
                let most = most.min(PumpWait::LONGEST);
                if idle < most || !self.can_sleep() {
                    self.wait(stop, idle.min(most), false)?;
                    idle = idle.saturating_mul(2).min(most);
                } else if self.sleep(stop, CHECK.saturating_sub(looked.elapsed()))? {
                    // So that bells that are rung for nothing do not keep it busy.
                    idle = SHORT.min(most);
                }
            }
        }
        self.look()
    }

    /// Moves at most one batch each way; whether there was any frame.
    ///
    /// # Errors
    ///
    /// The interface is gone or down, or the kernel refuses.
    pub fn step(&mut self) -> Result<bool, UplinkError> {
        let features = self.agree()?;
        let inward = self.carry_in(features)?;
        let outward = self.carry_out()?;
        Ok(inward || outward)
    }

    /// Has device and port agree on features, if they have not yet. Gives those agreed on.
    fn agree(&mut self) -> Result<u32, UplinkError> {
        let segments = self.segments.load(Relaxed);
        if let Some(agreed) = self.agreed
            && agreed.segments == segments
        {
            return Ok(agreed.features);
        }
        let able = match segments {
            true => FEATURES,
            false => FEATURE_CSUM,
        };
        let features = self.port.agree(self.device.features() & able);
        self.device.accept(features)?;
        self.agreed = Some(Agreed { segments, features });
        Ok(features)
    }

    fn carry_in(&mut self, features: u32) -> Result<bool, UplinkError> {
        let counters = &self.counters.to_port;
        let mut inward = Inward {
            features,
            longest: self.port.longest_segment(),
            port: &mut self.port,
            finished: &mut self.finished,
            counters,
        };
        let found = self.device.receive(&mut |frames| inward.carry(frames))?;
        add(&counters.too_long, found.too_long);
        add(&counters.too_short, found.too_short);
        add(&counters.offload, found.offload);
        Ok(found.frames + found.too_long + found.too_short + found.offload != 0)
    }

    fn carry_out(&mut self) -> Result<bool, UplinkError> {
        let counters = &self.counters.to_interface;
        let room = self.device.room().min(BATCH);
        let mut fetched = 0;
        if room > 0 {
            let device = &mut self.device;
            let longest = device.longest();
            let features = device.features();
            let plain = device.link().longest(false).min(longest);
            let tagged = device.link().longest(true).min(longest);
            self.port.receive_frames(room, &mut |frame| {
                fetched += 1;
                let kind = frame.bytes.get(12..).and_then(|rest| rest.first_chunk());
                let has_tag = kind.is_some_and(|kind| TAGS.contains(&u16::from_be_bytes(*kind)));
                // Whoever has the NIC's memory may have written any header into the lane. A frame
                // whose work this interface cannot do would leave with a wrong checksum.
                if fetched > room || work::needs(frame.header) & !features != 0 {
                    add(&counters.refused, 1);
                } else if frame.bytes.len() > MAX_SEGMENT as usize {
                    add(&counters.too_long, 1);
                } else if frame.bytes.len() < MIN_FRAME as usize {
                    add(&counters.too_short, 1);
                } else if work::wire_length(&frame) > if has_tag { tagged } else { plain } {
                    add(&counters.too_long, 1);
                } else {
                    device.stage(frame);
                }
            });
        }
        let done = self.device.flush()?;
        add(&counters.frames, done.frames);
        add(&counters.bytes, done.bytes);
        add(&counters.too_long, done.too_long);
        add(&counters.refused, done.refused);
        add(&counters.batches, u64::from(done.frames != 0));
        Ok(fetched != 0 || done != Flushed::default())
    }

    /// Looks at the interface, and what the kernel lost. Of a link that is lost the stations are
    /// forgotten.
    fn look(&mut self) -> Result<(), UplinkError> {
        add(&self.counters.to_port.missed, self.device.missed());
        let (before, now) = (self.link.get(), self.device.link().look()?);
        self.link.set(now);
        if before == LinkState::Up && now != LinkState::Up {
            self.port.forget_stations();
        }
        Ok(())
    }

    /// The same where the kernel has said that the link was lost, be it for a moment.
    fn lose_link(&mut self) -> Result<(), UplinkError> {
        self.port.forget_stations();
        self.link.set(LinkState::NoCarrier);
        self.look()
    }

    /// Drops what comes to an interface that is down, and what came before it was; whether there was
    /// any frame.
    fn discard(&mut self) -> bool {
        let (inward, outward) = (&self.counters.to_port, &self.counters.to_interface);
        // Of an interface that is down this says nothing that is not known.
        let old = self.device.receive(&mut |_| {});
        add(&inward.link_down, old.map_or(0, |found| found.frames));
        let mut fetched = self.device.discard();
        self.port.receive_frames(BATCH, &mut |_| fetched += 1);
        add(&outward.link_down, fetched);
        fetched != 0
    }

    /// Whether somebody tells when there is something to do: not while frames wait for room at the
    /// interface, behind which those of the port wait.
    fn can_sleep(&self) -> bool {
        !self.port.bells().is_empty() && !self.device.waits_to_send()
    }

    /// Waits as [`Pump::wait`] does, and for the port's bells; whether there may be frames of the port.
    fn sleep(&mut self, stop: &Stop, time: Duration) -> Result<bool, UplinkError> {
        if !self.port.arm() {
            return Ok(true);
        }
        let waited = self.wait(stop, time, true);
        self.port.disarm();
        let rings = self.port.bells().into_iter().map(bells::take);
        // All of them are taken.
        let rung = rings.fold(false, |rung, count| rung | (count != 0));
        waited.and(Ok(rung))
    }

    /// Waits for the interface, for a stop, and for the port's bells while it is `armed`, for so long.
    fn wait(&mut self, stop: &Stop, time: Duration, armed: bool) -> Result<(), UplinkError> {
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: time.as_nanos() as i64,
        };
        let mut interest = PollFlags::IN;
        if self.device.waits_to_send() {
            interest |= PollFlags::OUT;
        }
        let broken = {
            let mut list = vec![
                PollFd::from_borrowed_fd(self.device.descriptor(), interest),
                PollFd::from_borrowed_fd(stop.0.event.as_fd(), PollFlags::IN),
            ];
            let bells = self.port.bells().into_iter().filter(|_| armed);
            list.extend(bells.map(|bell| PollFd::from_borrowed_fd(bell, PollFlags::IN)));
            match poll(&mut list, Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => {
                    return Err(self.device.link().broken("wait for", errno.into()));
                }
            }
            let wrong = PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL;
            list[0].revents().intersects(wrong)
        };
        if broken {
            // A socket reports an error once, for example that the interface was down for a moment.
            match socket_error(self.device.descriptor()) {
                Ok(Err(Errno::NETDOWN)) => self.lose_link()?,
                _ => self.look()?,
            }
            // It is there. If poll still says so, this must not become a busy loop.
            thread::sleep(time);
        }
        Ok(())
    }
}

/// The way of frames from a device to a port.
struct Inward<'a, P> {
    port: &'a mut P,
    /// The features that were agreed on.
    features: u32,
    /// Length of the longest large segment that the port takes, in bytes.
    longest: usize,
    finished: &'a mut Batch,
    counters: &'a LiveCounters,
}

impl<P: FramePort> Inward<'_, P> {
    /// Sends frames into the port, in order.
    fn carry(&mut self, frames: &[Frame<'_>]) {
        let mut rest = frames;
        loop {
            let whole = rest.iter().take_while(|frame| self.takes(frame)).count();
            let (head, tail) = rest.split_at(whole);
            send(self.port, head, self.counters);
            let Some((frame, tail)) = tail.split_first() else {
                return;
            };
            self.finish(frame);
            rest = tail;
        }
    }

    /// Whether the port takes a frame as it is.
    fn takes(&self, frame: &Frame<'_>) -> bool {
        work::needs(frame.header) & !self.features == 0 && work::passes_switch(frame, self.longest)
    }

    /// Finishes a frame and sends what becomes of it.
    fn finish(&mut self, frame: &Frame<'_>) {
        let Some(mut finishing) = Finishing::new(*frame) else {
            add(&self.counters.offload, 1);
            return;
        };
        self.finished.clear();
        let mut more = true;
        while more {
            let length = self
                .finished
                .next_frame()
                .and_then(|next| finishing.write_next(frame.bytes, next));
            match length {
                Some(length) => self.finished.add(RecordHeader::default(), length),
                None => more = false,
            }
            if !more || self.finished.room() == 0 {
                let mut list = [Frame::default(); BATCH];
                let count = self.finished.list(&mut list);
                let list = list.get(..count).unwrap_or_default();
                send(self.port, list, self.counters);
                self.finished.clear();
            }
        }
    }
}

/// Sends frames into a port, and counts them. One request takes no more than the port's ring has
/// room for, which are few large segments, so there are requests until one takes nothing.
fn send<P: FramePort>(port: &mut P, frames: &[Frame<'_>], counters: &LiveCounters) {
    let mut left = frames;
    while !left.is_empty() {
        let taken = port.send_frames(left).min(left.len());
        let (head, tail) = left.split_at(taken);
        let bytes = head.iter().map(|frame| frame.bytes.len() as u64);
        add(&counters.frames, taken as u64);
        add(&counters.bytes, bytes.sum());
        add(&counters.batches, 1);
        left = tail;
        if taken == 0 {
            break;
        }
    }
    add(&counters.refused, left.len() as u64);
}

/// A pump in its own thread. Dropping it stops the pump.
pub struct PumpThread {
    stop: Stop,
    segments: Arc<AtomicBool>,
    link: Arc<SeenLink>,
    counters: Arc<UplinkCounters>,
    thread: Option<JoinHandle<Result<(), UplinkError>>>,
}

impl fmt::Debug for PumpThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PumpThread")
            .field("counters", &self.counters)
            .field("ended", &self.has_ended())
            .finish_non_exhaustive()
    }
}

impl PumpThread {
    /// Starts a thread that pumps between `device` and `port`.
    ///
    /// # Errors
    ///
    /// The system has no descriptor or thread left, or the interface is gone.
    pub fn start<D, P>(device: D, port: P, wait: PumpWait) -> Result<PumpThread, UplinkError>
    where
        D: Device + Send + 'static,
        P: FramePort + Send + 'static,
    {
        PumpThread::resume(device, port, wait, Arc::default())
    }

    /// The same, and goes on counting where another pump, which has ended, left off.
    ///
    /// # Errors
    ///
    /// As [`PumpThread::start`].
    pub fn resume<D, P>(
        mut device: D,
        port: P,
        wait: PumpWait,
        counters: Arc<UplinkCounters>,
    ) -> Result<PumpThread, UplinkError>
    where
        D: Device + Send + 'static,
        P: FramePort + Send + 'static,
    {
        let stop = Stop::new()?;
        let interface = device.link().name().to_owned();
        let mut pump = Pump::new(device, port, wait);
        pump.counters = Arc::clone(&counters);
        pump.agree()?;
        let (link, segments) = (Arc::clone(&pump.link), pump.segments());
        let wanted = stop.clone();
        let thread = postern_confine::spawn(Kind::Uplink, "uplink", move || pump.run(&wanted))
            .map_err(|source| failed("start a thread for", &interface, "", source))?;
        Ok(PumpThread {
            stop,
            segments,
            link,
            counters,
            thread: Some(thread),
        })
    }

    /// The counters, which are final once the pump has stopped.
    pub fn counters(&self) -> Arc<UplinkCounters> {
        Arc::clone(&self.counters)
    }

    /// The state of the link when the pump last looked, which it does ten times a second.
    pub fn link_state(&self) -> LinkState {
        self.link.get()
    }

    /// Says whether large segments may pass. If not, they are cut before they come to the port.
    /// They may at first.
    pub fn allow_segments(&self, allowed: bool) {
        self.segments.store(allowed, Relaxed);
    }

    /// Whether the pump has ended by itself; [`PumpThread::stop`] says why.
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Stops the pump and waits for its end.
    ///
    /// # Errors
    ///
    /// The error that had ended the pump before.
    pub fn stop(mut self) -> Result<(), UplinkError> {
        self.end()
    }

    /// Stops the pump and waits for its end; says the second time that all is well.
    ///
    /// # Errors
    ///
    /// The error that had ended the pump before.
    pub fn end(&mut self) -> Result<(), UplinkError> {
        self.stop.stop();
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for PumpThread {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
